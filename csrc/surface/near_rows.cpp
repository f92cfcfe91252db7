#include "surface/near_rows.hpp"

#include <algorithm>
#include <cmath>
#include <limits>
#include <mutex>

namespace recycleseg {
namespace {

// The search looks through single rows within kRowsRadius voxels, and through groups of rows within
// kRadius. In an image groups are few, so it looks farther, to kFlatRadius.
constexpr double kRowsRadius = 4.2, kRadius = 20, kFlatRadius = 28;

constexpr GroupSize kGroup{4, 4}, kFlatGroup{1, 8};

std::vector<double> squares(double spacing) {
  std::vector<double> values;
  for (std::int64_t n = -kLongest; n <= kLongest; ++n)
    values.push_back((n * spacing) * (n * spacing));
  return values;
}

}  // namespace

NearRows::NearRows(const Spacing& spacing, bool flat)
    : spacing_(spacing),
      group_(flat ? kFlatGroup : kGroup),
      squared_z_(squares(spacing.z)),
      squared_y_(squares(spacing.y)) {
  const double voxel = flat ? spacing.y : std::sqrt(spacing.y * spacing.z);
  // No more rows than a search of kLongest rows to either side has room for.
  const double longest = (kLongest - 8) * (flat ? spacing.y : std::min(spacing.y, spacing.z));
  radius_ = std::min({(flat ? kFlatRadius : kRadius) * voxel, kWindow * spacing.x, longest});
  rows_radius_ = std::min(kRowsRadius * voxel, radius_);

  const auto rows_z = flat ? 0 : static_cast<std::int64_t>(rows_radius_ / spacing.z);
  const auto rows_y = static_cast<std::int64_t>(rows_radius_ / spacing.y);
  for (std::int64_t z = -rows_z; z <= rows_z; ++z)
    for (std::int64_t y = -rows_y; y <= rows_y; ++y) {
      const double squared = squared_z_[kLongest + z] + squared_y_[kLongest + y];
      if (squared <= rows_radius_ * rows_radius_) rows_.push_back({squared, z, y});
    }
  std::stable_sort(rows_.begin(), rows_.end(),
                   [](const Row& a, const Row& b) { return a.squared < b.squared; });

  halo_z_ = std::max<std::int64_t>(rows_z, group_.z - 1);
  halo_y_ = std::max<std::int64_t>(rows_y, group_.y - 1);
  groups_halo_z_ = flat ? 0 : static_cast<std::int64_t>(radius_ / spacing.z) / group_.z + 1;
  groups_halo_y_ = static_cast<std::int64_t>(radius_ / spacing.y) / group_.y + 1;
  for (std::int32_t z = 0; z < group_.z; ++z)
    for (std::int32_t y = 0; y < group_.y; ++y) groups_.push_back(groups_around(z, y));
}

std::shared_ptr<const NearRows> NearRows::of(const Spacing& spacing, bool flat) {
  static std::mutex mutex;
  static std::shared_ptr<const NearRows> last;
  const std::lock_guard<std::mutex> lock(mutex);
  if (last == nullptr || last->group_.z != (flat ? kFlatGroup : kGroup).z ||
      last->spacing_.z != spacing.z || last->spacing_.y != spacing.y ||
      last->spacing_.x != spacing.x)
    last = std::make_shared<const NearRows>(spacing, flat);
  return last;
}

std::vector<NearRows::Group> NearRows::groups_around(std::int32_t place_z,
                                                     std::int32_t place_y) const {
  // From the own row to the nearest of a group whose first is `first` rows away.
  const auto nearest = [](std::int64_t first, std::int32_t size) {
    return std::max<std::int64_t>({first, -(first + size - 1), 0});
  };
  std::vector<Group> groups;
  for (std::int64_t z = -groups_halo_z_; z <= groups_halo_z_; ++z)
    for (std::int64_t y = -groups_halo_y_; y <= groups_halo_y_; ++y) {
      const std::int64_t first_z = z * group_.z - place_z, first_y = y * group_.y - place_y;
      const double squared = squared_z_[kLongest + nearest(first_z, group_.z)] +
                             squared_y_[kLongest + nearest(first_y, group_.y)];
      if (squared <= radius_ * radius_)
        groups.push_back({squared, z, y, static_cast<std::int32_t>(first_z),
                          static_cast<std::int32_t>(first_y)});
    }
  std::sort(groups.begin(), groups.end(),
            [](const Group& a, const Group& b) { return a.squared < b.squared; });
  return groups;
}

NearRows::InGrid::InGrid(const NearRows& near, const BitGrid& points, const BitGrid& groups) {
  for (const Row& row : near.rows_)
    rows_.push_back({row.squared, 8 * (row.z * points.stride_z + row.y * points.stride),
                     static_cast<std::int32_t>(row.z), static_cast<std::int32_t>(row.y)});
  for (const auto& around : near.groups_) {
    groups_.emplace_back();
    for (const Group& group : around)
      groups_.back().push_back({group.squared,
                                8 * (group.z * groups.stride_z + group.y * groups.stride),
                                group.first_z, group.first_y});
    group_data_.push_back(groups_.back().data());
    num_groups_.push_back(groups_.back().size());
  }
  search = {rows_.data(),
            static_cast<std::int64_t>(rows_.size()),
            near.rows_radius_ * near.rows_radius_,
            near.group_,
            group_data_.data(),
            num_groups_.data(),
            near.radius_ * near.radius_,
            near.squared_z_.data() + kLongest,
            near.squared_y_.data() + kLongest,
            8 * points.stride_z,
            8 * points.stride,
            {}};
  for (int n = 0; n < 64; ++n)
    search.squared_along[n] = (n * near.spacing_.x) * (n * near.spacing_.x);
  search.squared_along[64] = std::numeric_limits<double>::infinity();
}

}  // namespace recycleseg
