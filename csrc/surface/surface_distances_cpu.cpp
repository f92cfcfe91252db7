#include <limits>
#include <memory>
#include <mutex>
#include <optional>

#include "surface/distance_counts.hpp"
#include "surface/near_rows.hpp"
#include "counts/overlap_counts.hpp"
#include "surface/point_cells.hpp"
#include "surface/surface_extraction.hpp"
#include "surface/surface_loops.hpp"
#include "surface/surfel_areas.hpp"

namespace recycleseg {
namespace {

// Fewer, of all structures, are done before another thread has started.
constexpr std::int64_t kVoxelsPerThread = 1 << 19;

// Structures of small maps are at work at once up to this many voxels of their boxes: with fewer,
// threads would wait for one another more than they work.
constexpr std::int64_t kAlwaysAtWork = 1 << 22;

// What a structure takes even where its box is small, counted in voxels.
constexpr std::int64_t kVoxelsOfAny = 1 << 16;

// The search looks through rows, the nearest first: the farther apart they are, the fewer. So where
// voxels are longer along x than along y by this factor, its rows lie along y.
constexpr double kTurnedFrom = 1.2;

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

class Computation {
 public:
  Computation(const TensorView& pred, const TensorView& ref, const VolumeShape& shape,
              const SurfaceQuery& query, Team& team)
      : maps_{&pred, &ref},
        shape_(shape),
        query_(query),
        team_(team),
        flat_(query.spacing.size() == 2),
        turned_(query.spacing.back() > kTurnedFrom * query.spacing[query.spacing.size() - 2]),
        spacing_{flat_ ? 1.0 : query.spacing[0],
                 query.spacing[query.spacing.size() - (turned_ ? 1 : 2)],
                 query.spacing[query.spacing.size() - (turned_ ? 2 : 1)]},
        near_(NearRows::of(spacing_, flat_)),
        areas_(query.surfel
                   ? surfel_areas(query.spacing.data(), static_cast<int>(query.spacing.size()))
                   : std::vector<double>{1.0}) {}

  // Completes the counts of these structures, each of which is present on one side at least.
  void measure(Structures& structures) const {
    for_rows(
        structures, 1024, [](Structure& s, int side) -> BitGrid& { return s.mask[side]; },
        [&](Structure& s, int side, const RowRange& range) {
          range.visit([&](const Rows& rows) {
            extract_mask_rows(*maps_[side], shape_, query_, s.sample, s.index, s.box, rows,
                              s.mask[side]);
          });
        });
    if (turned_)
      for_rows(
          structures, 1024, [](Structure& s, int side) -> BitGrid& { return s.unturned[side]; },
          [&](Structure& s, int side, const RowRange& range) {
            range.visit([&](const Rows& rows) { extract_surface(s, side, rows); });
          });
    for_rows(
        structures, 64, [](Structure& s, int side) -> BitGrid& { return s.groups[side]; },
        [&](Structure& s, int side, const RowRange& range) {
          range.visit([&](const Rows& groups) { extract_groups(s, side, groups); });
        });
    for_rows(
        structures, 512, [](Structure& s, int side) -> BitGrid& { return s.surface[side]; },
        [&](Structure& s, int side, const RowRange& range) { measure_rows(s, side, range); });
  }

  std::unique_ptr<Structure> structure(std::int64_t sample, std::int64_t index,
                                       const Box& box) const {
    auto s = std::make_unique<Structure>();
    s->sample = sample, s->index = index, s->box = box;
    if (box.empty()) return s;
    const std::int64_t more = query_.surfel ? 1 : 0;  // corners than voxels
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

  void summarize(Structure& s, double* directed, double* pooled) const {
    const std::int64_t columns =
        kSurfaceColumns + query_.percentiles.size() + query_.tolerances.size();
    std::vector<DistanceCounts::Entry> both;
    for (int side = 0; side < 2; ++side) {
      add_short(s, side);
      const auto distances = s.counts[side].sorted();
      if (query_.surfel)
        summarize_surfels(distances, areas_, query_, directed + side * columns);
      else
        summarize_voxels(distances, query_, directed + side * columns);
      both.insert(both.end(), distances.begin(), distances.end());
    }
    std::sort(both.begin(), both.end(),
              [](const auto& a, const auto& b) { return a.squared < b.squared; });
    for (std::size_t p = 0; p < query_.percentiles.size(); ++p)
      pooled[p] = query_.surfel ? std::numeric_limits<double>::quiet_NaN()
                                : percentile(both, query_.percentiles[p]);
  }

 private:
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

  // Calls work(structure, side, range) on threads, for stretches of the rows of grid(structure,
  // side), of all structures and both sides.
  template <class Grid, class Work>
  void for_rows(Structures& structures, std::int64_t rows_per_chunk, const Grid& grid,
                const Work& work) const {
    struct Chunk {
      Structure* structure;
      int side;
      RowRange range;
    };
    std::vector<Chunk> chunks;
    for (const auto& s : structures)
      for (int side = 0; side < 2; ++side) {
        const std::int64_t height = grid(*s, side).height, all = grid(*s, side).depth * height;
        for (std::int64_t row = 0; row < all; row += rows_per_chunk)
          chunks.push_back({s.get(), side, {row, std::min(row + rows_per_chunk, all), height}});
      }
    team_.share(chunks.size(), [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);)
        work(*chunks[i].structure, chunks[i].side, chunks[i].range);
    });
  }

  // Sets the surface's rows in some groups, and the rows of bits that stand for these.
  void extract_groups(Structure& s, int side, const Rows& groups) const {
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

  void extract_surface(Structure& s, int side, const Rows& rows) const {
    BitGrid& surface = turned_ ? s.unturned[side] : s.surface[side];
    if (query_.surfel) return extract_surfel_rows(s.mask[side], flat_, rows, surface);
    OpenSides open{};
    for (int axis = flat_ ? 1 : 0; axis < 3; ++axis) {
      open.low[axis] = !query_.border_is_outside && s.box.low[axis] == 0;
      open.high[axis] = !query_.border_is_outside && s.box.high[axis] == shape_.size[axis];
    }
    extract_border_rows(s.mask[side], flat_, open, rows, surface);
  }

  // Counts the distances from some rows of the surface of `side` to the other one.
  void measure_rows(Structure& s, int side, const RowRange& range) const {
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
      RowQuery query{own.row(rows.z, rows.y),
                     target.row(rows.z, rows.y),
                     nullptr,
                     own.words,
                     0,
                     static_cast<std::int32_t>(rows.z),
                     static_cast<std::int32_t>(rows.y)};
      if (!query_.surfel)
        short_counts[0] += loops.shared(query.own, query.target, (rows.end - rows.y) * own.stride);
      for (; query.y < rows.end;
           ++query.y, query.own += own.stride, query.target += target.stride) {
        std::int64_t written = 0;
        if (has_unshared(query)) {
          query.target_group = target_groups.row(rows.z >> log_z, query.y >> log_y);
          for (query.first = 0;;) {
            const RowDistances found = loops.nearest(
                query, s.near->search, far ? &*far : nullptr, spacing_, hints.data(),
                query_.surfel ? nullptr : short_counts.data(), squared.data() + written);
            written += found.written, query.first = found.next;
            if (query.first == 64 * query.words) break;
            std::call_once(s.cells_made[1 - side], [&] { s.cells[1 - side].emplace(target); });
            far = s.cells[1 - side]->view();
          }
        }
        if (query_.surfel)
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

  static bool has_unshared(const RowQuery& row) {
    std::uint64_t any = 0;
    for (std::int64_t w = 0; w < row.words; ++w) any |= row.own[w] & ~row.target[w];
    return any != 0;
  }

  // Moves the distances that were counted by their steps to the others.
  void add_short(Structure& s, int side) const {
    for (std::int32_t steps = 0; steps < kManySteps; ++steps) {
      const std::int64_t count = s.short_counts[side][steps];
      if (count == 0) continue;
      const Point to{steps / kStepsX / kStepsY, steps / kStepsX % kStepsY, steps % kStepsX};
      s.counts[side].add(squared_between(Point{}, to, spacing_), 0, count);
    }
  }

  void count_surfels(const Structure& s, int side, const RowQuery& row, const double* squared,
                     DistanceCounts& counts) const {
    for (std::int64_t w = 0; w < row.words; ++w)
      for (std::uint64_t bits = row.own[w]; bits != 0; bits &= bits - 1) {
        const int bit = __builtin_ctzll(bits);
        const bool shared = row.target[w] >> bit & 1;
        std::int64_t y = row.y, x = 64 * w + bit;
        if (turned_) std::swap(y, x);
        counts.add(shared ? 0 : *squared++, neighbour_code(s.mask[side], flat_, row.z, y, x), 1);
      }
  }

  const TensorView* maps_[2];
  const VolumeShape shape_;
  const SurfaceQuery& query_;
  Team& team_;
  const bool flat_, turned_;
  const Spacing spacing_;  // in the search's order of axes
  const std::shared_ptr<const NearRows> near_;
  const std::vector<double> areas_;
};

void check_counts(const TensorView& view, const std::vector<std::int64_t>& shape,
                  const char* expected) {
  require_contiguous(view, dlpack::kCpu);
  require(view.dtype == DType::int64 && view.shape == shape, view, expected);
}

void check(const TensorView& pred, const TensorView& ref, const SurfaceQuery& query,
           const TensorView& directed, const TensorView& pooled, const CountViews* counts) {
  for (const TensorView* view : {&pred, &ref, &directed, &pooled})
    require_contiguous(*view, dlpack::kCpu);
  require_labels(pred);
  require_labels(ref);
  if (query.spacing.size() != 2 && query.spacing.size() != 3)
    throw std::invalid_argument("spacing: expected 2 or 3 lengths, got " +
                                std::to_string(query.spacing.size()));
  for (const double length : query.spacing)
    if (!(length >= 1e-9 && length <= 1e9))  // whose squares are normal floats
      throw std::invalid_argument("spacing: expected lengths from 1e-9 to 1e9");
  const std::size_t leading = query.masks ? 2 : 1;
  if (pred.shape != ref.shape || pred.shape.size() != leading + query.spacing.size())
    throw std::invalid_argument("pred, ref: expected one shape that fits spacing");
  for (const std::int64_t extent : pred.shape)
    if (extent <= 0 || extent > std::numeric_limits<std::int32_t>::max() / 2)
      throw std::invalid_argument("pred: expected extents from 1 to 2^30");
  const std::int64_t classes = query.masks ? pred.shape[1] : query.labels.size();
  const std::int64_t percentiles = query.percentiles.size(), tolerances = query.tolerances.size();
  const std::vector<std::int64_t> of_directed{pred.shape[0], classes, 2,
                                              kSurfaceColumns + percentiles + tolerances};
  require(directed.dtype == DType::float64 && directed.shape == of_directed, directed,
          "float64 of shape (B, C, 2, 3 + P + K)");
  const std::vector<std::int64_t> of_pooled{pred.shape[0], classes, percentiles};
  require(pooled.dtype == DType::float64 && pooled.shape == of_pooled, pooled,
          "float64 of shape (B, C, P)");
  for (const double percent : query.percentiles)
    if (!(percent >= 0 && percent <= 100))
      throw std::invalid_argument("percentiles: expected 0 to 100");
  if (counts == nullptr) return;
  const std::int64_t axes = query.spacing.size();
  check_counts(counts->counts, {pred.shape[0], classes, kColumns}, "int64 of shape (B, C, 3)");
  check_counts(counts->sums, {pred.shape[0], classes, 2, axes}, "int64 of shape (B, C, 2, axes)");
  check_counts(counts->unlisted, {2}, "int64 of shape (2)");
}

VolumeShape volume_shape(const TensorView& pred, const SurfaceQuery& query) {
  VolumeShape shape{pred.shape[0],
                    query.masks ? pred.shape[1] : std::int64_t(query.labels.size()),
                    {1, 1, 1},
                    query.masks};
  const std::size_t axes = query.spacing.size();
  for (std::size_t axis = 0; axis < axes; ++axis)
    shape.size[3 - axes + axis] = pred.shape[pred.shape.size() - axes + axis];
  return shape;
}

void store(const StructureCounts& found, std::int64_t axes, const CountViews& views) {
  const auto data = [](const TensorView& view) { return static_cast<std::int64_t*>(view.data); };
  std::int64_t *count = data(views.counts), *sum = data(views.sums);
  for (const StructureCount& structure : found.of) {
    *count++ = structure.both;
    for (const auto& side : structure.side) {
      *count++ = side.voxels;
      sum = std::copy(side.index_sums + 3 - axes, side.index_sums + 3, sum);
    }
  }
  std::copy(found.unlisted, found.unlisted + 2, data(views.unlisted));
}

}  // namespace

void surface_distances_cpu(const TensorView& pred, const TensorView& ref, const SurfaceQuery& query,
                           const TensorView& directed, const TensorView& pooled,
                           std::int64_t num_threads, const CountViews* counts) {
  check(pred, ref, query, directed, pooled, counts);
  const VolumeShape shape = volume_shape(pred, query);
  const std::int64_t voxels = shape.rows() * shape.size[2];
  Team team(std::min(num_threads, 1 + shape.batch * shape.classes * voxels / kVoxelsPerThread));
  const StructureCounts found = count_structures(pred, ref, shape, query, team);
  if (counts != nullptr) {
    store(found, query.spacing.size(), *counts);
    if (found.unlisted[0] + found.unlisted[1] > 0) return;
  }

  const Computation computation(pred, ref, shape, query, team);
  auto* const directed_rows = static_cast<double*>(directed.data);
  auto* const pooled_rows = static_cast<double*>(pooled.data);
  const auto finish = [&](const std::vector<std::pair<std::int64_t, Box>>& at_work) {
    Structures structures(at_work.size());
    team.share(at_work.size(), [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);) {
        const auto& [row, box] = at_work[i];
        structures[i] = computation.structure(row / shape.classes, row % shape.classes, box);
      }
    });
    computation.measure(structures);
    team.share(at_work.size(), [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);) {
        const std::int64_t row = at_work[i].first;
        computation.summarize(*structures[i], directed_rows + row * 2 * directed.shape[3],
                              pooled_rows + row * pooled.shape[2]);
      }
    });
  };
  // As many at once as fit into what one that fills the volume would take, if that is not little.
  const std::int64_t most = std::max(voxels, kAlwaysAtWork);
  std::vector<std::pair<std::int64_t, Box>> at_work;
  std::int64_t voxels_at_work = 0;
  for (std::int64_t i = 0; i < shape.batch * shape.classes; ++i) {
    Box box = found.of[i].side[0].box;
    box.include(found.of[i].side[1].box);
    if (voxels_at_work + box.voxels() > most && !at_work.empty()) {
      finish(at_work);
      at_work.clear();
      voxels_at_work = 0;
    }
    at_work.emplace_back(i, box);
    voxels_at_work += box.voxels() + kVoxelsOfAny;
  }
  finish(at_work);
}

}  // namespace recycleseg
