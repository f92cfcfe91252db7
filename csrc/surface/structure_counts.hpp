// What one reading of two label maps finds of each structure: where it lies, how large it is, its
// overlap and the sums of its voxels' indices.
#pragma once

#include <algorithm>
#include <limits>
#include <vector>

#include "common/threads.hpp"
#include "surface/surface_distances.hpp"

namespace recycleseg {

// Voxels [low, high) along z, y, x; empty where high <= low.
struct Box {
  static constexpr std::int64_t kNone = std::numeric_limits<std::int64_t>::max();
  std::int64_t low[3] = {kNone, kNone, kNone}, high[3] = {0, 0, 0};

  bool empty() const { return high[0] == 0; }
  std::int64_t extent(int axis) const { return high[axis] - low[axis]; }
  std::int64_t voxels() const { return empty() ? 0 : extent(0) * extent(1) * extent(2); }

  void include(const Box& other) {
    for (int axis = 0; axis < 3; ++axis) {
      low[axis] = std::min(low[axis], other.low[axis]);
      high[axis] = std::max(high[axis], other.high[axis]);
    }
  }
};

// The layout of label maps (B, *S), or masks (B, C, *S); a 2D image is a volume of one slice.
struct VolumeShape {
  std::int64_t batch, classes, size[3];  // size: z, y, x
  bool masks;

  std::int64_t rows() const { return size[0] * size[1]; }
  // Of the first voxel of row y in slice z, for structure c of sample b.
  std::int64_t offset(std::int64_t b, std::int64_t c, std::int64_t z, std::int64_t y) const {
    return (((masks ? b * classes + c : b) * size[0] + z) * size[1] + y) * size[2];
  }
};

// One structure of one sample. Side 0 is pred, side 1 ref.
struct StructureCount {
  struct Side {
    std::int64_t voxels = 0, index_sums[3] = {};  // along z, y, x
    Box box;
  };
  std::int64_t both = 0;  // voxels that are in the structure on both sides
  Side side[2];

  void add(const StructureCount& other);
};

struct StructureCounts {
  std::vector<StructureCount> of;  // [b * classes + c]
  std::int64_t unlisted[2] = {};   // voxels of each side whose label is neither 0 nor listed
};

StructureCounts count_structures(const TensorView& pred, const TensorView& ref,
                                 const VolumeShape& shape, const SurfaceQuery& query, Team& team);

}  // namespace recycleseg
