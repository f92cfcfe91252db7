#include <algorithm>
#include <mutex>
#include <vector>

#include "overlap_counts.hpp"
#include "threads.hpp"

namespace recycleseg {
namespace {

// Fewer cost less to count than a thread to start.
constexpr std::int64_t kVoxelsPerChunk = 1 << 18;

struct Totals {
  std::int64_t* counts;   // (B, C, 3)
  std::int64_t* invalid;  // (2, 2)
  std::mutex mutex;
};

// Counts the voxels [begin, end) of the flattened (B, S) maps.
template <class Pred, class Ref>
void count_range(const Pred* pred, const Ref* ref, std::int64_t begin, std::int64_t end,
                 std::int64_t row_size, std::int64_t num_classes, Totals& totals) {
  std::vector<std::int64_t> row_counts(num_classes * kColumns);
  const auto add = [&](std::int64_t index, std::int64_t n) { row_counts[index] += n; };
  const auto reject = [&](int argument, std::int64_t value, std::int64_t n) {
    const std::lock_guard<std::mutex> lock(totals.mutex);
    totals.invalid[2 * argument] += n;
    totals.invalid[2 * argument + 1] = value;
  };
  while (begin < end) {
    const std::int64_t row = begin / row_size;
    const std::int64_t row_end = std::min(end, (row + 1) * row_size);
    std::fill(row_counts.begin(), row_counts.end(), 0);
    count_runs(pred + begin, ref + begin, row_end - begin, num_classes, add, reject);

    const std::lock_guard<std::mutex> lock(totals.mutex);
    std::int64_t* out = totals.counts + row * num_classes * kColumns;
    for (std::size_t i = 0; i < row_counts.size(); ++i) out[i] += row_counts[i];
    begin = row_end;
  }
}

}  // namespace

void overlap_counts_cpu(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                        const TensorView& invalid, std::int64_t num_threads) {
  check_overlap_counts(pred, ref, counts, invalid, dlpack::kCpu);
  const std::int64_t size = pred.size();
  if (size == 0) return;
  const std::int64_t row_size = size / pred.shape[0];
  const std::int64_t num_classes = counts.shape[1];
  Totals totals{
      static_cast<std::int64_t*>(counts.data), static_cast<std::int64_t*>(invalid.data), {}};

  const std::int64_t chunks = (size + kVoxelsPerChunk - 1) / kVoxelsPerChunk;
  share_chunks(chunks, num_threads, [&](ChunkQueue& queue) {
    visit(pred, [&](const auto* pred_data) {
      visit(ref, [&](const auto* ref_data) {
        for (std::int64_t chunk; queue.next(chunk);) {
          const std::int64_t begin = chunk * kVoxelsPerChunk;
          const std::int64_t end = std::min(begin + kVoxelsPerChunk, size);
          count_range(pred_data, ref_data, begin, end, row_size, num_classes, totals);
        }
      });
    });
  });
}

}  // namespace recycleseg
