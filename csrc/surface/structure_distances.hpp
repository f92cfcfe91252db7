// The distances between the two surfaces of structures: where the bits lie, which searches find
// the nearest points, and how the threads share the rows.
#pragma once

#include <memory>
#include <mutex>
#include <optional>
#include <vector>

#include "surface/distance_counts.hpp"
#include "surface/near_rows.hpp"
#include "surface/point_cells.hpp"
#include "surface/structure_counts.hpp"
#include "surface/surface_extraction.hpp"

namespace recycleseg {

// One structure of one sample while it is at work. Side 0 is pred, side 1 ref.
struct Structure {
  std::int64_t sample, index;
  Box box;  // of both sides
  BitGrid mask[2];
  BitGrid unturned[2];  // the surface by rows along x, where the search's lie along y
  BitGrid surface[2];
  BitGrid groups[2];  // of the surface's rows, as NearSearch has them
  std::optional<NearRows::InGrid> near;
  std::once_flag cells_made[2];
  std::optional<PointCells> cells[2];
  std::mutex mutex;
  // Of the distances measured from each side: the short ones by their steps.
  std::int64_t short_counts[2][kManySteps] = {};
  DistanceCounts counts[2];
};
using Structures = std::vector<std::unique_ptr<Structure>>;

// Some rows of a grid, one after the other.
struct RowRange {
  std::int64_t first, end, height;
  template <class Visit>
  void visit(const Visit& visit) const {
    for (std::int64_t row = first; row < end;) {
      const std::int64_t z = row / height, y = row % height;
      const Rows rows{z, y, std::min(height, y + end - row)};
      visit(rows);
      row += rows.end - y;
    }
  }
};

// Measures structures of one call. Refers to the arguments.
class StructureDistances {
 public:
  StructureDistances(const TensorView& pred, const TensorView& ref, const VolumeShape& shape,
                     const SurfaceQuery& query, Team& team);

  // A structure with room for its bits.
  std::unique_ptr<Structure> structure(std::int64_t sample, std::int64_t index,
                                       const Box& box) const;
  // Completes the counts of these structures, each of which is present on one side at least.
  void measure(Structures& structures) const;
  // Writes the rows of `directed` and of `pooled` of a structure that was measured.
  void summarize(Structure& s, double* directed, double* pooled) const;

 private:
  void extract_groups(Structure& s, int side, const Rows& groups) const;
  void extract_surface(Structure& s, int side, const Rows& rows) const;
  void measure_rows(Structure& s, int side, const RowRange& range) const;
  void count_surfels(const Structure& s, int side, const RowQuery& row, const double* squared,
                     DistanceCounts& counts) const;
  void add_short(Structure& s, int side) const;

  const TensorView* maps_[2];
  const VolumeShape shape_;
  const SurfaceQuery& query_;
  Team& team_;
  const bool surfel_, flat_, turned_;
  const Spacing spacing_;  // in the search's order of axes
  const std::shared_ptr<const NearRows> near_;
};

}  // namespace recycleseg
