#include "surface/structure_distances.hpp"

#include <algorithm>
#include <limits>

#include "surface/surface_loops.hpp"

namespace recycleseg {
namespace {

// The search looks through rows, the nearest first: the farther apart they are, the fewer. So where
// voxels are longer along x than along y by this factor, its rows lie along y.
constexpr double kTurnedFrom = 1.2;

// A chunk with more would take so long, where distances are long, that a call would not end soon
// after it is interrupted.
constexpr std::int64_t kVoxelsPerChunk = 1 << 15;

// Calls work(structure, side, range) on threads, for stretches of the rows of one of their grids,
// of all structures and both sides.
template <class Work>
void for_rows(Team& team, Structures& structures, std::int64_t most_rows,
              BitGrid (Structure::*grids)[2], const Work& work) {
  struct Chunk {
    Structure* structure;
    int side;
    RowRange range;
  };
  std::vector<Chunk> chunks;
  for (const auto& s : structures)
    for (int side = 0; side < 2; ++side) {
      const BitGrid& grid = ((*s).*grids)[side];
      const std::int64_t height = grid.height, all = grid.depth * height;
      const std::int64_t rows_per_chunk =
          std::clamp<std::int64_t>(kVoxelsPerChunk / (grid.width + 1), 16, most_rows);
      for (std::int64_t row = 0; row < all; row += rows_per_chunk)
        chunks.push_back({s.get(), side, {row, std::min(row + rows_per_chunk, all), height}});
    }
  team.share(chunks.size(), [&](ChunkQueue& queue) {
    for (std::int64_t i; queue.next(i);)
      work(*chunks[i].structure, chunks[i].side, chunks[i].range);
  });
}

// Whether some point of the row's own surface is not one of the target's.
bool has_unshared(const RowQuery& row) {
  std::uint64_t any = 0;
  for (std::int64_t w = 0; w < row.words; ++w) any |= row.own[w] & ~row.target[w];
  return any != 0;
}

}  // namespace

StructureDistances::StructureDistances(const TensorView& pred, const TensorView& ref,
                                       const VolumeShape& shape, const SurfaceQuery& query,
                                       Team& team)
    : maps_{&pred, &ref},
      shape_(shape),
      query_(query),
      team_(team),
      surfel_(!query.areas.empty()),
      flat_(query.spacing.size() == 2),
      turned_(query.spacing.back() > kTurnedFrom * query.spacing[query.spacing.size() - 2]),
      spacing_{flat_ ? 1.0 : query.spacing[0],
               query.spacing[query.spacing.size() - (turned_ ? 1 : 2)],
               query.spacing[query.spacing.size() - (turned_ ? 2 : 1)]},
      near_(NearRows::of(spacing_, flat_)) {}

std::unique_ptr<Structure> StructureDistances::structure(std::int64_t sample, std::int64_t index,
                                                         const Box& box) const {
  auto s = std::make_unique<Structure>();
  s->sample = sample, s->index = index, s->box = box;
  if (box.empty()) return s;
  const std::int64_t more = surfel_ ? 1 : 0;  // corners than voxels
  const std::int64_t depth = box.extent(0) + (flat_ ? 0 : more);
  std::int64_t height = box.extent(1) + more, width = box.extent(2) + more;
  const GroupSize group = near_->group();
  for (int side = 0; side < 2; ++side) {
    s->mask[side] = BitGrid(box.extent(0), box.extent(1), box.extent(2), flat_ ? 0 : 1, 1);
    if (turned_) s->unturned[side] = BitGrid(depth, height, width, 0, 0);
  }
  if (turned_) std::swap(height, width);
  for (int side = 0; side < 2; ++side) {
    s->surface[side] = BitGrid(depth, height, width, near_->halo_z(), near_->halo_y());
    s->groups[side] = BitGrid((depth + group.z - 1) / group.z, (height + group.y - 1) / group.y,
                              width, near_->groups_halo_z(), near_->groups_halo_y());
  }
  s->near.emplace(*near_, s->surface[0], s->groups[0]);
  return s;
}

void StructureDistances::measure(Structures& structures) const {
  for_rows(team_, structures, 1024, &Structure::mask,
           [&](Structure& s, int side, const RowRange& range) {
             range.visit([&](const Rows& rows) {
               extract_mask_rows(*maps_[side], shape_, query_, s.sample, s.index, s.box, rows,
                                 s.mask[side]);
             });
           });
  if (turned_)
    for_rows(team_, structures, 1024, &Structure::unturned,
             [&](Structure& s, int side, const RowRange& range) {
               range.visit([&](const Rows& rows) { extract_surface(s, side, rows); });
             });
  for_rows(team_, structures, 64, &Structure::groups,
           [&](Structure& s, int side, const RowRange& range) {
             range.visit([&](const Rows& groups) { extract_groups(s, side, groups); });
           });
  for_rows(team_, structures, 512, &Structure::surface,
           [&](Structure& s, int side, const RowRange& range) { measure_rows(s, side, range); });
}

// Sets the surface's rows in some groups, and the rows of bits that stand for these.
void StructureDistances::extract_groups(Structure& s, int side, const Rows& groups) const {
  BitGrid& surface = s.surface[side];
  const GroupSize group = near_->group();
  const int log_y = __builtin_ctz(group.y);
  for (std::int64_t dz = 0; dz < group.z; ++dz) {
    const std::int64_t z = groups.z * group.z + dz;
    if (z >= surface.depth) break;
    const Rows rows{z, groups.y * group.y, std::min(groups.end * group.y, surface.height)};
    if (turned_)
      turn_rows(s.unturned[side], rows, surface);
    else
      extract_surface(s, side, rows);
    for (std::int64_t y = rows.y; y < rows.end; ++y) {
      const std::uint64_t* const row = surface.row(z, y);
      std::uint64_t* const any = s.groups[side].row(groups.z, y >> log_y);
      for (std::int64_t w = 0; w < surface.words; ++w) any[w] |= row[w];
    }
  }
}

void StructureDistances::extract_surface(Structure& s, int side, const Rows& rows) const {
  BitGrid& surface = turned_ ? s.unturned[side] : s.surface[side];
  if (surfel_) return extract_surfel_rows(s.mask[side], flat_, rows, surface);
  OpenSides open{};
  for (int axis = flat_ ? 1 : 0; axis < 3; ++axis) {
    open.low[axis] = !query_.border_is_outside && s.box.low[axis] == 0;
    open.high[axis] = !query_.border_is_outside && s.box.high[axis] == shape_.size[axis];
  }
  extract_border_rows(s.mask[side], flat_, open, rows, surface);
}

// Counts the distances from some rows of the surface of `side` to the other one.
void StructureDistances::measure_rows(Structure& s, int side, const RowRange& range) const {
  const BitGrid &own = s.surface[side], &target = s.surface[1 - side],
                &target_groups = s.groups[1 - side];
  const SurfaceLoops& loops = surface_loops();
  const int log_z = __builtin_ctz(near_->group().z), log_y = __builtin_ctz(near_->group().y);
  std::optional<FarSearch> far;
  std::vector<Hint> hints(own.width / kHintWidth + 1);
  std::vector<double> squared(own.width);
  std::vector<std::int64_t> short_counts(kManySteps);
  DistanceCounts counts;
  range.visit([&](const Rows& rows) {
    RowQuery query{
        own.row(rows.z, rows.y),           target.row(rows.z, rows.y),       nullptr, own.words, 0,
        static_cast<std::int32_t>(rows.z), static_cast<std::int32_t>(rows.y)};
    if (!surfel_)
      short_counts[0] += loops.shared(query.own, query.target, (rows.end - rows.y) * own.stride);
    for (; query.y < rows.end; ++query.y, query.own += own.stride, query.target += target.stride) {
      std::int64_t written = 0;
      if (has_unshared(query)) {
        query.target_group = target_groups.row(rows.z >> log_z, query.y >> log_y);
        for (query.first = 0;;) {
          const RowDistances found =
              loops.nearest(query, s.near->search, far ? &*far : nullptr, spacing_, hints.data(),
                            surfel_ ? nullptr : short_counts.data(), squared.data() + written);
          written += found.written, query.first = found.next;
          if (query.first == 64 * query.words) break;
          std::call_once(s.cells_made[1 - side], [&] { s.cells[1 - side].emplace(target); });
          far = s.cells[1 - side]->view();
        }
      }
      if (surfel_)
        count_surfels(s, side, query, squared.data(), counts);
      else
        for (std::int64_t i = 0; i < written; ++i) counts.add(squared[i], 0, 1);
    }
  });
  const std::lock_guard<std::mutex> lock(s.mutex);
  s.counts[side].add(counts);
  for (std::int32_t steps = 0; steps < kManySteps; ++steps)
    s.short_counts[side][steps] += short_counts[steps];
}

void StructureDistances::count_surfels(const Structure& s, int side, const RowQuery& row,
                                       const double* squared, DistanceCounts& counts) const {
  for (std::int64_t w = 0; w < row.words; ++w)
    for (std::uint64_t bits = row.own[w]; bits != 0; bits &= bits - 1) {
      const int bit = __builtin_ctzll(bits);
      const bool shared = row.target[w] >> bit & 1;
      std::int64_t y = row.y, x = 64 * w + bit;
      if (turned_) std::swap(y, x);
      counts.add(shared ? 0 : *squared++, neighbour_code(s.mask[side], flat_, row.z, y, x), 1);
    }
}

// Moves the distances that were counted by their steps to the others.
void StructureDistances::add_short(Structure& s, int side) const {
  for (std::int32_t steps = 0; steps < kManySteps; ++steps) {
    const std::int64_t count = s.short_counts[side][steps];
    if (count == 0) continue;
    const Point to{steps / kStepsX / kStepsY, steps / kStepsX % kStepsY, steps % kStepsX};
    s.counts[side].add(squared_between(Point{}, to, spacing_), 0, count);
  }
}

void StructureDistances::summarize(Structure& s, double* directed, double* pooled) const {
  const std::int64_t columns =
      kSurfaceColumns + query_.percentiles.size() + query_.tolerances.size();
  std::vector<DistanceCounts::Entry> both;
  for (int side = 0; side < 2; ++side) {
    add_short(s, side);
    const auto distances = s.counts[side].sorted();
    if (surfel_)
      summarize_surfels(distances, query_.areas, query_, directed + side * columns);
    else
      summarize_voxels(distances, query_, directed + side * columns);
    both.insert(both.end(), distances.begin(), distances.end());
  }
  std::sort(both.begin(), both.end(),
            [](const auto& a, const auto& b) { return a.squared < b.squared; });
  for (std::size_t p = 0; p < query_.percentiles.size(); ++p)
    pooled[p] = surfel_ ? std::numeric_limits<double>::quiet_NaN()
                        : percentile(both, query_.percentiles[p]);
}

}  // namespace recycleseg
