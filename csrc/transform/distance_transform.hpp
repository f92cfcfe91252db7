// Exact Euclidean distance of each voxel inside a mask to the nearest one outside.
//
// Idea: squared distances are taken along one axis after the other. Along the first axis two sweeps
// count steps from the last zero. Along each other axis the result at i is the minimum over j of
// value(j) + ((i - j) * spacing)^2. Most minima lie near, so that a search outward from i finds
// them after few steps (T. Saito and J. Toriwaki, Pattern Recognition 27, 1994). On the CPU, where
// the search takes too long, the lower envelope of the parabolas replaces it (P. F. Felzenszwalb
// and D. P. Huttenlocher, Theory of Computing 8, 2012).
//
// Time: on the CPU proportional to the voxels, whatever the mask; on a GPU an element's search is
// as long as its distance. Memory besides the result: on the CPU some 150 bytes for each voxel of
// the longest axis and thread; on a GPU as much as the result.
#pragma once

#include <cmath>
#include <cstdint>
#include <utility>
#include <vector>

#include "common/tensor_view.hpp"

namespace recycleseg {

// A batch of volumes with the millimetres between its voxels. An image is a volume of depth 1,
// and a volume of depth 1 one of height 1, so that no pass has too few lines to share.
struct DistanceGrid {
  std::int64_t batch, depth, height, width;
  double spacing_z, spacing_y, spacing_x;
  std::int64_t plane() const { return height * width; }
};

// mask: (B, *S) contiguous, of any label type, with S of two or three axes; nonzero is inside.
// distance: (B, *S) float32; the voxels outside get 0, those of a sample without any infinity.
void distance_transform_cpu(const TensorView& mask, const TensorView& distance,
                            const std::vector<double>& spacing, std::int64_t num_threads);

// The same on the GPU that holds the tensors; `stream` is a cudaStream_t. Does not wait for it.
// workspace: like distance, uninitialised.
void distance_transform_cuda(const TensorView& mask, const TensorView& distance,
                             const TensorView& workspace, const std::vector<double>& spacing,
                             std::uintptr_t stream);

// Throws std::invalid_argument unless `distance` and `spacing` fit `mask`, on such a device.
inline DistanceGrid check_distance_transform(const TensorView& mask, const TensorView& distance,
                                             const std::vector<double>& spacing,
                                             std::int32_t device_type) {
  require_contiguous(mask, device_type);
  require_contiguous(distance, device_type);
  require_labels(mask);
  const std::size_t axes = spacing.size();
  if ((axes != 2 && axes != 3) || mask.shape.size() != axes + 1)
    throw std::invalid_argument("mask, spacing: expected (B, *S) and one value for each of the " +
                                std::string("two or three axes of S"));
  for (const double step : spacing)
    if (!(step > 0 && std::isfinite(step)))
      throw std::invalid_argument("spacing: expected positive and finite, got " +
                                  std::to_string(step));
  if (distance.dtype != DType::float32 || distance.shape != mask.shape)
    throw std::invalid_argument(distance.name + ": expected float32 of the shape of mask");
  for (std::size_t axis = 1; axis <= axes; ++axis)
    if (mask.shape[axis] >= std::int64_t{1} << 30)
      throw std::invalid_argument("mask: expected axes shorter than 2^30");

  const std::int64_t* shape = mask.shape.data() + axes - 2;  // ending with the last three axes
  const double* steps = spacing.data() + axes - 2;
  DistanceGrid grid{mask.shape[0], axes == 3 ? shape[0] : 1, shape[1], shape[2], 1.0, steps[0],
                    steps[1]};
  if (axes == 3) grid.spacing_z = spacing[0];
  if (grid.depth == 1) {
    std::swap(grid.depth, grid.height);
    std::swap(grid.spacing_z, grid.spacing_y);
  }
  return grid;
}

}  // namespace recycleseg
