#include <algorithm>
#include <mutex>
#include <vector>

#include "common/label_runs.hpp"
#include "common/threads.hpp"
#include "counts/overlap_counts.hpp"

namespace recycleseg {
namespace {

// Counting fewer voxels takes less time than starting a thread.
constexpr std::int64_t kVoxelsPerChunk = 1 << 18;

struct Totals {
  std::int64_t* counts;   // (B, C, 3)
  std::int64_t* invalid;  // (2, 2)
  std::int64_t* sums;     // (B, C, 2, axes), or null
  std::mutex mutex;
};

// Adds a table of one row to that row of a tensor, and empties it.
void flush(std::vector<std::int64_t>& table, std::int64_t* tensor, std::int64_t row) {
  std::int64_t* out = tensor + row * static_cast<std::int64_t>(table.size());
  for (std::size_t i = 0; i < table.size(); ++i) out[i] += table[i];
  std::fill(table.begin(), table.end(), 0);
}

// Counts the voxels [begin, end) of the flattened (B, S) maps.
template <class Pred, class Ref>
void count_range(const Pred* pred, const Ref* ref, std::int64_t begin, std::int64_t end,
                 std::int64_t row_size, const RowGrid& grid, std::int64_t num_classes,
                 Totals& totals) {
  const bool with_sums = totals.sums != nullptr;
  std::vector<std::int64_t> counts(num_classes * kColumns);
  std::vector<std::int64_t> sums(with_sums ? num_classes * 2 * grid.axes : 0);
  const auto add = [&](std::int64_t index, std::int64_t n) { counts[index] += n; };
  const auto add_sum = [&](std::int64_t index, std::int64_t sum) { sums[index] += sum; };
  const auto reject = [&](int argument, std::int64_t value, std::int64_t n) {
    const std::lock_guard<std::mutex> lock(totals.mutex);
    totals.invalid[2 * argument] += n;
    totals.invalid[2 * argument + 1] = value;
  };
  while (begin < end) {
    const std::int64_t row = begin / row_size;
    const std::int64_t row_end = std::min(end, (row + 1) * row_size);
    if (with_sums)
      count_and_sum_runs(pred + row * row_size, ref + row * row_size, begin - row * row_size,
                         row_end - row * row_size, grid, num_classes, add, add_sum, reject,
                         LabelRunWalk{});
    else
      count_runs(pred + begin, ref + begin, row_end - begin, num_classes, add, reject,
                 LabelRunWalk{});

    const std::lock_guard<std::mutex> lock(totals.mutex);
    flush(counts, totals.counts, row);
    if (with_sums) flush(sums, totals.sums, row);
    begin = row_end;
  }
}

}  // namespace

void overlap_counts_cpu(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                        const TensorView& invalid, std::int64_t num_threads,
                        const TensorView* sums) {
  check_overlap_counts(pred, ref, counts, invalid, sums, dlpack::kCpu);
  const std::int64_t size = pred.size();
  if (size == 0) return;
  const std::int64_t row_size = size / pred.shape[0];
  const std::int64_t num_classes = counts.shape[1];
  const RowGrid grid = grid_of(pred);
  Totals totals{data_of<std::int64_t>(counts),
                data_of<std::int64_t>(invalid),
                data_of<std::int64_t>(sums),
                {}};

  const std::int64_t chunks = (size + kVoxelsPerChunk - 1) / kVoxelsPerChunk;
  share_chunks(chunks, num_threads, [&](ChunkQueue& queue) {
    visit(pred, [&](const auto* pred_data) {
      visit(ref, [&](const auto* ref_data) {
        for (std::int64_t chunk; queue.next(chunk);) {
          const std::int64_t begin = chunk * kVoxelsPerChunk;
          const std::int64_t end = std::min(begin + kVoxelsPerChunk, size);
          count_range(pred_data, ref_data, begin, end, row_size, grid, num_classes, totals);
        }
      });
    });
  });
}

}  // namespace recycleseg
