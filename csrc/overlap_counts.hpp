// Voxels per class of two label maps: true positives, predicted, true.
#pragma once

#include <cstdint>

#include "tensor_view.hpp"

#ifdef __CUDACC__
#define RECYCLESEG_HOST_DEVICE __host__ __device__
#else
#define RECYCLESEG_HOST_DEVICE
#endif

namespace recycleseg {

constexpr std::int64_t kMaxClasses = 4096;  // the counts of a thread block fit in its shared memory

enum Column { kTruePositive, kPredicted, kTrue, kColumns };

// Walks `size` voxels. `add(index, n)` adds n to element `index` of a (C, 3) table of counts;
// `reject(argument, value, n)` takes n voxels whose label is no class (argument 0: pred, 1: ref).
// Label maps are constant over long runs, so a whole run is added at once: on a GPU that
// also keeps the threads of a warp from queueing for the background's counter.
template <class Pred, class Ref, class Add, class Reject>
RECYCLESEG_HOST_DEVICE void count_runs(const Pred* pred, const Ref* ref, std::int64_t size,
                                       std::int64_t num_classes, Add&& add, Reject&& reject) {
  for (std::int64_t begin = 0, end = 0; begin < size; begin = end) {
    const Pred p = pred[begin];
    const Ref r = ref[begin];
    for (end = begin + 1; end < size && pred[end] == p && ref[end] == r;) ++end;

    const std::int64_t n = end - begin;
    const std::int64_t p_class = p, r_class = r;
    const bool p_valid = p_class >= 0 && p_class < num_classes;
    const bool r_valid = r_class >= 0 && r_class < num_classes;
    if (p_valid) add(p_class * kColumns + kPredicted, n);
    if (r_valid) add(r_class * kColumns + kTrue, n);
    if (p_valid && p_class == r_class) add(p_class * kColumns + kTruePositive, n);
    if (!p_valid) reject(0, p_class, n);
    if (!r_valid) reject(1, r_class, n);
  }
}

// pred, ref: (B, *S) contiguous, of any two label types. Adds to counts (B, C, 3) int64, which
// the caller has zeroed. invalid (2, 2) int64, zeroed: per argument, the number of voxels whose
// label is outside [0, C), and the value of one of them.
void overlap_counts_cpu(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                        const TensorView& invalid, std::int64_t num_threads);

// The same on the GPU that holds the tensors; `stream` is a cudaStream_t. Does not wait for it.
void overlap_counts_cuda(const TensorView& pred, const TensorView& ref, const TensorView& counts,
                         const TensorView& invalid, std::uintptr_t stream);

// Throws std::invalid_argument unless the four tensors fit together and lie on such a device.
inline void check_overlap_counts(const TensorView& pred, const TensorView& ref,
                                 const TensorView& counts, const TensorView& invalid,
                                 std::int32_t device_type) {
  for (const TensorView* view : {&pred, &ref, &counts, &invalid})
    require_contiguous(*view, device_type);
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
}

}  // namespace recycleseg
