// The rows around a voxel, in the order in which the search for near points looks through them.
#pragma once

#include <memory>
#include <vector>

#include "surface/bit_grid.hpp"
#include "surface/surface_distances_simd.hpp"

namespace recycleseg {

// For one spacing. `flat`: of an image, which has one z.
class NearRows {
 public:
  NearRows(const Spacing& spacing, bool flat);

  // The same, remembered from one call to the next: a data set often has one spacing, and sorting
  // the groups takes a tenth of the time of a small image.
  static std::shared_ptr<const NearRows> of(const Spacing& spacing, bool flat);

  GroupSize group() const { return group_; }
  // How many rows, and groups of rows, the search may look beyond the box.
  std::int64_t halo_z() const { return halo_z_; }
  std::int64_t halo_y() const { return halo_y_; }
  std::int64_t groups_halo_z() const { return groups_halo_z_; }
  std::int64_t groups_halo_y() const { return groups_halo_y_; }

  // The search in grids of one shape, whose offsets it knows. Refers to this object.
  class InGrid {
   public:
    InGrid(const NearRows& near, const BitGrid& points, const BitGrid& groups);
    NearSearch search;

   private:
    std::vector<RowStep> rows_;
    std::vector<std::vector<GroupStep>> groups_;
    std::vector<const GroupStep*> group_data_;
    std::vector<std::int64_t> num_groups_;
  };

 private:
  struct Row {
    double squared;
    std::int64_t z, y;
  };
  struct Group {
    double squared;
    std::int64_t z, y;              // in groups, from the own one
    std::int32_t first_z, first_y;  // in rows, from the own one
  };
  std::vector<Group> groups_around(std::int32_t place_z, std::int32_t place_y) const;

  Spacing spacing_;
  GroupSize group_;
  double rows_radius_, radius_;
  std::int64_t halo_z_, halo_y_, groups_halo_z_, groups_halo_y_;
  std::vector<Row> rows_;
  std::vector<std::vector<Group>> groups_;  // for each place of the own row within its group
  std::vector<double> squared_z_, squared_y_;
};

}  // namespace recycleseg
