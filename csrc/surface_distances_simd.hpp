// Inner loops of the surface distances. surface_distances_simd.cpp is compiled once per
// instruction set.
#pragma once

#include <cstdint>

namespace recycleseg {

// Lengths in mm; indices (z, y, x) of a box, in which a 2D image has one z.
struct Spacing {
  double z, y, x;
};

// Rows around a voxel's own, nearest first.
struct RowStep {
  double squared;       // distance of the two rows, mm^2
  std::int64_t offset;  // bytes from the own row to this one
};

// The search for near points: in each row, the window of bits around the voxel's x that one load
// gets, from kWindow on the left to kWindow on the right at least.
constexpr std::int64_t kWindow = 28;
struct NearSearch {
  const RowStep* steps;
  std::int64_t num_steps;
  double squared_along[65];  // (n * spacing.x)^2; infinity at 64: there is no bit
  double squared_radius;     // a distance found up to here is the least
};

// The search for far points: cells of 4 x 4 x 4 voxels that hold a point, grouped by blocks of
// 8 x 8 x 8 cells. A search starts from the point that was nearest to the last voxel, so that it
// needs to open but few.
constexpr std::int64_t kCellSize = 4, kBlockSize = 32;
struct FarSearch {
  std::int64_t num_blocks;
  const std::int32_t* block_corner[3];  // z, y, x of the first voxel of each
  const std::int64_t* first_cell;       // of each block, and the number of cells at the end
  const std::int32_t* cell_corner[3];
  const std::uint64_t* cell_points;  // bit 16 z + 4 y + x of a voxel in the cell
};

struct Point {
  std::int32_t z, y, x;
};

// A row of voxels whose nearest points are sought.
struct RowQuery {
  const std::uint64_t* own;     // the surface that is measured from
  const std::uint64_t* target;  // the surface that is measured to, same row
  std::int64_t words;
  std::int32_t z, y;
};

// The last voxel that took the search for far points, and the point it found.
struct LastFar {
  bool known;
  Point from, nearest;
  double distance;
};

template <class T>
struct LabelLoops {
  // Sets bit i of `bits` where labels[i] is `value`, for i < count.
  void (*equal)(const T* labels, std::int64_t count, T value, std::uint64_t* bits);
  // How many labels from the first on are equal to it, of `count`.
  std::int64_t (*run)(const T* labels, std::int64_t count);
};

struct SurfaceLoops {
  LabelLoops<std::uint8_t> of_uint8;
  LabelLoops<std::int16_t> of_int16;
  LabelLoops<std::int32_t> of_int32;
  LabelLoops<std::int64_t> of_int64;

  // For the bits of query.own that are not in query.target, in order of x: the squared distance in
  // mm^2 to the nearest bit of the target; infinity where the near search finds none and `far` is
  // null or has no point. Returns how many there were.
  std::int64_t (*nearest)(const RowQuery& query, const NearSearch& near, const FarSearch* far,
                          const Spacing& spacing, LastFar& last, double* squared);
};

}  // namespace recycleseg
