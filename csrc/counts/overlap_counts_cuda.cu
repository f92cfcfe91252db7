#include <algorithm>
#include <type_traits>

#include "common/cuda_device.hpp"
#include "counts/overlap_counts.hpp"

namespace recycleseg {
namespace {

using Counter = unsigned long long;  // the 64-bit type that atomicAdd takes

constexpr int kThreads = 256;
constexpr std::int64_t kVoxelsPerThread = 16;  // consecutive, so that a thread sees whole runs
constexpr std::int64_t kMaxBlocks = 1024;      // per row: enough to fill a GPU
constexpr std::int64_t kMaxRows = 65535;       // the largest grid.y

// Block (x, y) takes every gridDim.x-th stretch of the rows y, y + gridDim.y, ...
// Its counts are kept in shared memory, (C, 3) uint32, and added to the totals once a row. Sums of
// indices, where asked for, go to the totals (B, C, 2, axes) at once.
template <bool kWithSums, class Pred, class Ref>
__global__ void overlap_counts_kernel(const Pred* pred, const Ref* ref, std::int64_t num_rows,
                                      std::int64_t row_size, RowGrid grid, std::int64_t num_classes,
                                      Counter* counts, Counter* invalid, Counter* sums) {
  extern __shared__ unsigned int row_counts[];
  const int table_size = static_cast<int>(num_classes) * kColumns;
  const auto add = [&](std::int64_t index, std::int64_t n) {
    atomicAdd(&row_counts[index], static_cast<unsigned int>(n));
  };
  const auto reject = [&](int argument, std::int64_t value, std::int64_t n) {
    atomicAdd(&invalid[2 * argument], static_cast<Counter>(n));
    atomicExch(&invalid[2 * argument + 1], static_cast<Counter>(value));
  };
  const std::int64_t thread = blockIdx.x * static_cast<std::int64_t>(blockDim.x) + threadIdx.x;
  const std::int64_t step = gridDim.x * static_cast<std::int64_t>(blockDim.x) * kVoxelsPerThread;

  for (std::int64_t row = blockIdx.y; row < num_rows; row += gridDim.y) {
    for (int i = threadIdx.x; i < table_size; i += blockDim.x) row_counts[i] = 0;
    __syncthreads();
    const Pred* row_pred = pred + row * row_size;
    const Ref* row_ref = ref + row * row_size;
    for (std::int64_t begin = thread * kVoxelsPerThread; begin < row_size; begin += step) {
      const std::int64_t rest = row_size - begin;
      const std::int64_t size = rest < kVoxelsPerThread ? rest : kVoxelsPerThread;
      if constexpr (kWithSums) {
        const auto add_sum = [&](std::int64_t index, std::int64_t sum) {
          atomicAdd(&sums[row * num_classes * 2 * grid.axes + index], static_cast<Counter>(sum));
        };
        count_and_sum_runs(row_pred, row_ref, begin, begin + size, grid, num_classes, add, add_sum,
                           reject);
      } else {
        count_runs(row_pred + begin, row_ref + begin, size, num_classes, add, reject);
      }
    }
    __syncthreads();
    for (int i = threadIdx.x; i < table_size; i += blockDim.x)
      if (row_counts[i] != 0) atomicAdd(&counts[row * table_size + i], Counter{row_counts[i]});
    __syncthreads();
  }
}

}  // namespace

void overlap_counts_cuda(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                         const TensorView& invalid, std::uintptr_t stream, const TensorView* sums) {
  check_overlap_counts(pred, ref, counts, invalid, sums, dlpack::kCuda);
  for (const TensorView* view : {&ref, &counts, &invalid, sums})
    if (view != nullptr && view->device.id != pred.device.id)
      throw std::invalid_argument(view->name + ": expected a tensor on the GPU of pred");
  if (pred.size() == 0) return;
  const std::int64_t num_rows = pred.shape[0];
  const std::int64_t row_size = pred.size() / num_rows;
  const std::int64_t num_classes = counts.shape[1];
  const std::int64_t voxels_per_block = kThreads * kVoxelsPerThread;
  const std::int64_t blocks =
      std::min((row_size + voxels_per_block - 1) / voxels_per_block, kMaxBlocks);
  const dim3 dim_grid(static_cast<unsigned int>(blocks),
                      static_cast<unsigned int>(std::min(num_rows, kMaxRows)));
  const std::size_t shared_bytes = num_classes * kColumns * sizeof(unsigned int);

  const DeviceGuard guard("overlap_counts", pred.device.id);
  visit(pred, [&](const auto* pred_data) {
    visit(ref, [&](const auto* ref_data) {
      const auto launch = [&](auto kernel, Counter* sums_data) {
        kernel<<<dim_grid, kThreads, shared_bytes, reinterpret_cast<cudaStream_t>(stream)>>>(
            pred_data, ref_data, num_rows, row_size, grid_of(pred), num_classes,
            data_of<Counter>(counts), data_of<Counter>(invalid), sums_data);
      };
      using Pred = std::remove_cv_t<std::remove_pointer_t<decltype(pred_data)>>;
      using Ref = std::remove_cv_t<std::remove_pointer_t<decltype(ref_data)>>;
      if (sums != nullptr)
        launch(&overlap_counts_kernel<true, Pred, Ref>, data_of<Counter>(*sums));
      else
        launch(&overlap_counts_kernel<false, Pred, Ref>, nullptr);
    });
  });
  check_cuda("overlap_counts", cudaGetLastError());
}

}  // namespace recycleseg
