#include <algorithm>
#include <mutex>
#include <thread>
#include <vector>

#include "overlap_counts.hpp"

namespace recycleseg {
namespace {

constexpr std::int64_t kVoxelsPerThread = 1
                                          << 18;  // fewer cost less to count than a thread to start

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

  const std::int64_t useful = (size + kVoxelsPerThread - 1) / kVoxelsPerThread;
  const std::int64_t workers = std::clamp<std::int64_t>(num_threads, 1, useful);
  const std::int64_t share = (size + workers - 1) / workers;
  const auto work = [&](std::int64_t worker) {
    const std::int64_t begin = worker * share;
    const std::int64_t end = std::min(begin + share, size);
    visit(pred, [&](const auto* pred_data) {
      visit(ref, [&](const auto* ref_data) {
        count_range(pred_data, ref_data, begin, end, row_size, num_classes, totals);
      });
    });
  };
  std::vector<std::thread> threads;
  for (std::int64_t worker = 1; worker < workers; ++worker) threads.emplace_back(work, worker);
  work(0);
  for (std::thread& thread : threads) thread.join();
}

}  // namespace recycleseg
