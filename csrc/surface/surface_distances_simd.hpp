// Inner loops of the surface distances. surface_distances_simd.cpp is compiled once per
// instruction set.
#pragma once

#include <cstdint>

namespace recycleseg {

// Lengths in mm; indices (z, y, x) of a box, in which a 2D image has one z.
struct Spacing {
  double z, y, x;
};

// A row near a voxel's own.
struct RowStep {
  double squared;       // distance of the two rows, mm^2
  std::int64_t offset;  // bytes from the own row to this one
  std::int32_t z, y;    // rows from the own row to this one
};
// A group of rows near a voxel's own. One row of bits says where any row of the group has a point.
struct GroupStep {
  double squared;       // of the nearest of its rows from the own row, mm^2
  std::int64_t offset;  // bytes from the own group to this one
  std::int32_t z, y;    // from the own row to the first of the group
};

// Rows are grouped by 4 x 4 in a volume, and by 8 in an image, which has one z: by powers of two,
// so that no row needs a division.
struct GroupSize {
  std::int32_t z, y;
};

// The search for near points looks through rows, nearest first: a few of them one by one, then
// group by group. Of each it sees the window of bits around the voxel's x that one load gets, from
// kWindow on the left to kWindow on the right at least.
constexpr std::int64_t kWindow = 28;
struct NearSearch {
  const RowStep* rows;
  std::int64_t num_rows;
  double squared_rows;  // a distance up to here, found in these rows, is the least
  GroupSize group;
  const GroupStep* const* groups;  // for each place of the own row within its group
  const std::int64_t* num_groups;
  double squared_radius;                // a distance up to here, found in all groups, is the least
  const double *squared_z, *squared_y;  // of n rows, for n from kLongest below 0 to above
  std::int64_t stride_z, stride_y;      // bytes between rows
  double squared_along[65];             // (n * spacing.x)^2; infinity at 64: there is no bit
};
constexpr std::int64_t kLongest = 64;

// The search for far points: cells of 4 x 4 x 4 voxels that hold a point, in cubes of 4 x 4 x 4
// cells, in cubes of 4 x 4 x 4 cubes. A search starts from the point that was nearest to the last
// voxel, so it opens few of them.
constexpr int kLevels = 3;
constexpr std::int32_t kCubeSize[kLevels] = {4, 16, 64};  // voxels along each axis
struct FarSearch {
  struct Cubes {
    std::int64_t count;
    const std::int32_t* corner[3];    // z, y, x of the first voxel of each; 16 more may be read
    const std::int64_t* first_child;  // of each, on the level below, and where the last one's end
  };
  Cubes levels[kLevels];
  const std::uint64_t* points;  // of each cell: bit 16 z + 4 y + x for a voxel in it
};

struct Point {
  std::int32_t z, y, x;
};

// A row of voxels whose nearest points are sought.
struct RowQuery {
  const std::uint64_t* own;           // the surface that is measured from
  const std::uint64_t* target;        // the surface that is measured to, same row
  const std::uint64_t* target_group;  // and the group that this row is in
  std::int64_t words;
  std::int64_t first;  // x of the first voxel that is measured
  std::int32_t z, y;
};

struct RowDistances {
  std::int64_t written;  // distances that were not counted by their steps
  std::int64_t next;     // 64 * words where the row is done; else the x that takes a far search
};

// Rows of bits. Of `own` the bits before and behind are read too: whether the neighbours beyond its
// ends are set.
struct FaceNeighbours {
  const std::uint64_t *own, *above, *below, *before, *behind;
};

// A voxel and the point that was found nearest to it: the nearest of the next voxel is seldom much
// nearer, so few rows and cubes need to be opened. One for each kHintWidth voxels along x, of the
// rows gone before.
constexpr std::int64_t kHintWidth = 8;
struct Hint {
  bool known;
  Point from, nearest;
  double squared;
};

// The voxels along z, y and x between a point and the nearest one, where they are few, as one
// number: most distances are short, and counted in a small table by these. Else kManySteps.
constexpr std::int32_t kStepsZ = 8, kStepsY = 8, kStepsX = 16;
constexpr std::uint16_t kManySteps = kStepsZ * kStepsY * kStepsX;
// Each file has its own copies, of its instruction set.
namespace {

inline double squared_between(const Point& a, const Point& b, const Spacing& spacing) {
  const double z = (a.z - b.z) * spacing.z, y = (a.y - b.y) * spacing.y,
               x = (a.x - b.x) * spacing.x;
  return (z * z + y * y) + x * x;
}

inline std::uint16_t steps_between(const Point& a, const Point& b) {
  const std::int32_t z = a.z < b.z ? b.z - a.z : a.z - b.z;
  const std::int32_t y = a.y < b.y ? b.y - a.y : a.y - b.y;
  const std::int32_t x = a.x < b.x ? b.x - a.x : a.x - b.x;
  return z < kStepsZ && y < kStepsY && x < kStepsX ? (z * kStepsY + y) * kStepsX + x : kManySteps;
}

}  // namespace

struct SurfaceLoops {
  // Sets the bits of `border` whose own bit is set and one of its six neighbours is not.
  void (*border)(const FaceNeighbours& rows, std::int64_t words, std::uint64_t* border);
  // How many bits are set in both.
  std::int64_t (*shared)(const std::uint64_t* a, const std::uint64_t* b, std::int64_t words);
  // Measures from the bits of query.own, from query.first on, that are not in query.target to the
  // nearest bit of the target: adds 1 to short_counts[steps], where there are few steps, and else
  // writes the squared distance in mm^2, which is infinity where `far` has no point. Writes all, in
  // order of x, where short_counts is null. Stops at a voxel that takes a far search where `far` is
  // null. `hints` are those of the rows gone before.
  RowDistances (*nearest)(const RowQuery& query, const NearSearch& near, const FarSearch* far,
                          const Spacing& spacing, Hint* hints, std::int64_t* short_counts,
                          double* squared);
};

}  // namespace recycleseg
