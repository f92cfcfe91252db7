// Voxels per class of two label maps: true positives, predicted, true. Dice (L. R. Dice, Ecology
// 26, 1945), IoU and volumes follow from these.
//
// Idea: label maps are constant over long runs, so a run is counted at once, not voxel by voxel.
// The CPU finds the ends of runs by comparing many neighbouring labels with one instruction.
//
// Time: one reading of both maps. Memory: a table of counts for each thread of a CPU, and for each
// block of threads of a GPU.
#pragma once

#include <cstdint>

#include "common/host_device.hpp"
#include "common/tensor_view.hpp"

namespace recycleseg {

constexpr std::int64_t kMaxClasses = 4096;  // the counts of a thread block fit in its shared memory

enum Column { kTruePositive, kPredicted, kTrue, kColumns };

constexpr int kMaxAxes = 3;  // of a volume whose voxel indices are summed

// The rows of a volume: `axes` axes, of which the last has `x` voxels and the one before it `y`.
struct RowGrid {
  int axes;
  std::int64_t y, x;
};

// How many voxels from the first on, of `size`, have its labels in both maps.
template <class Pred, class Ref>
RECYCLESEG_HOST_DEVICE std::int64_t run_length(const Pred* pred, const Ref* ref,
                                               std::int64_t size) {
  const Pred p = pred[0];
  const Ref r = ref[0];
  std::int64_t n = 1;
  while (n < size && pred[n] == p && ref[n] == r) ++n;
  return n;
}

// Walks `size` voxels and calls run(first, n) for every stretch of n voxels, from `first` on, that
// share the labels of both maps. On a GPU runs also keep the threads of a warp from queueing for
// the background's counter. The CPU has a faster walk, LabelRunWalk.
struct RunWalk {
  template <class Run, class Pred, class Ref>
  RECYCLESEG_HOST_DEVICE void operator()(std::int64_t size, const Run& run, const Pred* pred,
                                         const Ref* ref) const {
    for (std::int64_t begin = 0, n; begin < size; begin += n) {
      n = run_length(pred + begin, ref + begin, size - begin);
      run(begin, n);
    }
  }
};

RECYCLESEG_HOST_DEVICE inline bool is_class(std::int64_t label, std::int64_t num_classes) {
  return label >= 0 && label < num_classes;
}

// Counts a run. `add(index, n)` adds n to element `index` of a (C, 3) table of counts;
// `reject(argument, value, n)` takes n voxels whose label is no class (argument 0: pred, 1: ref).
template <class Add, class Reject>
RECYCLESEG_HOST_DEVICE void count_run(std::int64_t n, std::int64_t p, std::int64_t r,
                                      std::int64_t num_classes, Add&& add, Reject&& reject) {
  const bool p_valid = is_class(p, num_classes), r_valid = is_class(r, num_classes);
  if (p_valid) add(p * kColumns + kPredicted, n);
  if (r_valid) add(r * kColumns + kTrue, n);
  if (p_valid && p == r) add(p * kColumns + kTruePositive, n);
  if (!p_valid) reject(0, p, n);
  if (!r_valid) reject(1, r, n);
}

// Counts the voxels [0, size), whose runs `walk` finds.
template <class Pred, class Ref, class Add, class Reject, class Walk = RunWalk>
RECYCLESEG_HOST_DEVICE void count_runs(const Pred* pred, const Ref* ref, std::int64_t size,
                                       std::int64_t num_classes, Add&& add, Reject&& reject,
                                       const Walk& walk = {}) {
  const auto count = [&](std::int64_t first, std::int64_t n) {
    count_run(n, pred[first], ref[first], num_classes, add, reject);
  };
  walk(size, count, pred, ref);
}

// Counts the voxels [begin, end) of a volume and sums their indices along each axis.
// `add_sum(index, sum)` adds to element `index` of a (C, 2, axes) table: of pred, of ref.
template <class Pred, class Ref, class Add, class AddSum, class Reject, class Walk = RunWalk>
RECYCLESEG_HOST_DEVICE void count_and_sum_runs(const Pred* pred, const Ref* ref, std::int64_t begin,
                                               std::int64_t end, const RowGrid& grid,
                                               std::int64_t num_classes, Add&& add,
                                               AddSum&& add_sum, Reject&& reject,
                                               const Walk& walk = {}) {
  std::int64_t x = begin % grid.x, y = begin / grid.x % grid.y, z = begin / grid.x / grid.y;
  const auto count = [&](std::int64_t first, std::int64_t n) {
    const std::int64_t p = pred[begin + first], r = ref[begin + first];
    count_run(n, p, r, num_classes, add, reject);
    std::int64_t sums[kMaxAxes] = {};  // z, y, x
    while (n > 0) {                    // row by row
      const std::int64_t m = n < grid.x - x ? n : grid.x - x;
      sums[0] += m * z, sums[1] += m * y, sums[2] += m * x + m * (m - 1) / 2;
      n -= m, x += m;
      if (x == grid.x) ++y, x = 0;
      if (y == grid.y) ++z, y = 0;
    }
    for (int axis = 0; axis < grid.axes; ++axis) {
      const std::int64_t sum = sums[kMaxAxes - grid.axes + axis];
      if (is_class(p, num_classes)) add_sum(2 * p * grid.axes + axis, sum);
      if (is_class(r, num_classes)) add_sum((2 * r + 1) * grid.axes + axis, sum);
    }
  };
  walk(end - begin, count, pred + begin, ref + begin);
}

// pred, ref: (B, *S) contiguous, of any two label types. Adds to counts (B, C, 3) int64, which
// the caller has zeroed. invalid (2, 2) int64, zeroed: per argument, the number of voxels whose
// label is outside [0, C), and the value of one of them. sums: null, or (B, C, 2, axes of S)
// int64, zeroed, for 1 to 3 axes: adds the voxels' indices along each axis, of pred and of ref.
void overlap_counts_cpu(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                        const TensorView& invalid, std::int64_t num_threads,
                        const TensorView* sums);

// The same on the GPU that holds the tensors; `stream` is a cudaStream_t. Does not wait for it.
void overlap_counts_cuda(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                         const TensorView& invalid, std::uintptr_t stream, const TensorView* sums);

// Throws std::invalid_argument unless the tensors fit together and lie on such a device.
inline void check_overlap_counts(const TensorView& pred, const TensorView& ref,
                                 const TensorView& counts, const TensorView& invalid,
                                 const TensorView* sums, std::int32_t device_type) {
  for (const TensorView* view : {&pred, &ref, &counts, &invalid, sums})
    if (view != nullptr) require_contiguous(*view, device_type);
  require_labels(pred);
  require_labels(ref);
  if (pred.shape.empty() || pred.shape != ref.shape)
    throw std::invalid_argument("pred, ref: expected one shape (B, *S), got different ones");
  if (counts.dtype != DType::int64 || counts.shape.size() != 3 ||
      counts.shape[0] != pred.shape[0] || counts.shape[1] > kMaxClasses ||
      counts.shape[2] != kColumns)
    throw std::invalid_argument("counts: expected int64 of shape (B, num_classes <= 4096, 3)");
  if (invalid.dtype != DType::int64 || invalid.size() != 4)
    throw std::invalid_argument("invalid: expected int64 of shape (2, 2)");
  if (sums == nullptr) return;
  const std::int64_t axes = static_cast<std::int64_t>(pred.shape.size()) - 1;
  const std::vector<std::int64_t> expected{pred.shape[0], counts.shape[1], 2, axes};
  if (sums->dtype != DType::int64 || sums->shape != expected || axes < 1 || axes > kMaxAxes)
    throw std::invalid_argument("sums: expected int64 of shape (B, num_classes, 2, 1 to 3 axes)");
}

// The grid of maps (B, *S) with 1 to 3 axes in S.
inline RowGrid grid_of(const TensorView& maps) {
  const std::size_t ndim = maps.shape.size();
  return {static_cast<int>(ndim) - 1, ndim > 2 ? maps.shape[ndim - 2] : 1, maps.shape[ndim - 1]};
}

}  // namespace recycleseg
