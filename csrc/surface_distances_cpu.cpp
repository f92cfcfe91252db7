#include <cmath>
#include <limits>
#include <memory>
#include <mutex>
#include <optional>

#include "distance_counts.hpp"
#include "near_rows.hpp"
#include "point_cells.hpp"
#include "surface_extraction.hpp"
#include "surface_loops.hpp"
#include "surfel_areas.hpp"
#include "threads.hpp"

namespace recycleseg {
namespace {

constexpr double kInfinity = std::numeric_limits<double>::infinity();

// One structure of one sample while it is at work. Side 0 is pred, side 1 ref.
struct Structure {
  std::int64_t sample, index;
  Box box;  // of both sides
  BitGrid mask[2], surface[2];
  BitGrid groups[2];  // of the surface's rows, as NearSearch has them
  std::optional<NearRows::InGrid> near;
  std::once_flag cells_made[2];
  std::optional<PointCells> cells[2];
  std::mutex mutex;
  DistanceCounts counts[2];  // of distances measured from each side
};
using Structures = std::vector<std::unique_ptr<Structure>>;

class Computation {
 public:
  Computation(const TensorView& pred, const TensorView& ref, const VolumeShape& shape,
              const SurfaceQuery& query, std::int64_t num_threads)
      : maps_{&pred, &ref},
        shape_(shape),
        query_(query),
        num_threads_(num_threads),
        flat_(query.spacing.size() == 2),
        spacing_{flat_ ? 1.0 : query.spacing[0], query.spacing[query.spacing.size() - 2],
                 query.spacing.back()},
        near_(spacing_, flat_),
        areas_(query.surfel
                   ? surfel_areas(query.spacing.data(), static_cast<int>(query.spacing.size()))
                   : std::vector<double>{1.0}) {}

  // Completes the counts of these structures, each of which is present on one side at least.
  void measure(Structures& structures) const {
    for_rows(
        structures, 4096, [](const auto& s) { return s.mask[0].depth * s.mask[0].height; },
        [&](Structure& s, int side, std::int64_t first, std::int64_t end) {
          for (std::int64_t row = first; row < end; ++row)
            extract_mask_row(*maps_[side], shape_, query_, s.sample, s.index, s.box,
                             row / s.mask[side].height, row % s.mask[side].height, s.mask[side]);
        });
    for_rows(
        structures, 256, [](const auto& s) { return s.groups[0].depth * s.groups[0].height; },
        [&](Structure& s, int side, std::int64_t first, std::int64_t end) {
          for (std::int64_t row = first; row < end; ++row) extract_group(s, side, row);
        });
    for_rows(
        structures, 1024, [](const auto& s) { return s.surface[0].depth * s.surface[0].height; },
        [&](Structure& s, int side, std::int64_t first, std::int64_t end) {
          measure_rows(s, side, first, end);
        });
  }

  std::unique_ptr<Structure> structure(std::int64_t sample, std::int64_t index,
                                       const Box& box) const {
    auto s = std::make_unique<Structure>();
    s->sample = sample, s->index = index, s->box = box;
    if (box.empty()) return s;
    const std::int64_t more = query_.surfel ? 1 : 0;  // corners than voxels
    const std::int64_t depth = box.extent(0) + (flat_ ? 0 : more);
    const std::int64_t height = box.extent(1) + more, width = box.extent(2) + more;
    const GroupSize group = near_.group();
    for (int side = 0; side < 2; ++side) {
      s->mask[side] = BitGrid(box.extent(0), box.extent(1), box.extent(2), flat_ ? 0 : 1, 1);
      s->surface[side] = BitGrid(depth, height, width, near_.halo_z(), near_.halo_y());
      s->groups[side] = BitGrid((depth + group.z - 1) / group.z, (height + group.y - 1) / group.y,
                                width, near_.groups_halo_z(), near_.groups_halo_y());
    }
    s->near.emplace(near_, s->surface[0], s->groups[0]);
    return s;
  }

  void summarize(const Structure& s, double* directed, double* pooled) const {
    const std::int64_t columns =
        kSurfaceColumns + query_.percentiles.size() + query_.tolerances.size();
    std::vector<DistanceCounts::Entry> both;
    for (int side = 0; side < 2; ++side) {
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
  // Calls work(structure, side, first, end) on threads, for stretches of each side's rows.
  template <class Rows, class Work>
  void for_rows(Structures& structures, std::int64_t rows_per_chunk, const Rows& rows,
                const Work& work) const {
    struct Chunk {
      Structure* structure;
      int side;
      std::int64_t first, end;
    };
    std::vector<Chunk> chunks;
    for (const auto& s : structures)
      for (int side = 0; side < 2; ++side)
        for (std::int64_t row = 0, all = rows(*s); row < all; row += rows_per_chunk)
          chunks.push_back({s.get(), side, row, std::min(row + rows_per_chunk, all)});
    share_chunks(chunks.size(), num_threads_, [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);)
        work(*chunks[i].structure, chunks[i].side, chunks[i].first, chunks[i].end);
    });
  }

  // Sets a group of rows of the surface, and the row of bits that stands for it.
  void extract_group(Structure& s, int side, std::int64_t index) const {
    BitGrid &surface = s.surface[side], &groups = s.groups[side];
    const GroupSize group = near_.group();
    const std::int64_t first_z = index / groups.height, first_y = index % groups.height;
    std::uint64_t* const any = groups.row(first_z, first_y);
    for (std::int64_t dz = 0; dz < group.z; ++dz)
      for (std::int64_t dy = 0; dy < group.y; ++dy) {
        const std::int64_t z = first_z * group.z + dz, y = first_y * group.y + dy;
        if (z >= surface.depth || y >= surface.height) continue;
        extract_surface(s, side, z, y, surface);
        const std::uint64_t* const row = surface.row(z, y);
        for (std::int64_t w = 0; w < surface.words; ++w) any[w] |= row[w];
      }
  }

  void extract_surface(const Structure& s, int side, std::int64_t z, std::int64_t y,
                       BitGrid& surface) const {
    if (query_.surfel) return extract_surfel_row(s.mask[side], flat_, z, y, surface);
    OpenSides open{};
    for (int axis = 0; axis < 3; ++axis) {
      open.low[axis] = !query_.border_is_outside && s.box.low[axis] == 0;
      open.high[axis] = !query_.border_is_outside && s.box.high[axis] == shape_.size[axis];
    }
    if (flat_) open.low[0] = open.high[0] = true;
    extract_border_row(s.mask[side], open, z, y, surface);
  }

  // Counts the distances from the surface of `side`, rows [first, end), to the other one.
  void measure_rows(Structure& s, int side, std::int64_t first, std::int64_t end) const {
    const BitGrid &own = s.surface[side], &target = s.surface[1 - side];
    const BitGrid& groups = s.groups[1 - side];
    std::optional<FarSearch> far;
    std::vector<Hint> hints(own.width / kHintWidth + 1);
    std::vector<double> squared(own.width);
    DistanceCounts counts;
    for (std::int64_t row = first; row < end; ++row) {
      const std::int64_t z = row / own.height, y = row % own.height;
      const RowQuery row_query{own.row(z, y),
                               target.row(z, y),
                               groups.row(z / near_.group().z, y / near_.group().y),
                               own.words,
                               static_cast<std::int32_t>(z),
                               static_cast<std::int32_t>(y)};
      const auto measure = [&] {
        return surface_loops().nearest(row_query, s.near->search, far ? &*far : nullptr, spacing_,
                                       hints.data(), squared.data());
      };
      std::int64_t found = measure();
      if (!far && std::count(squared.begin(), squared.begin() + found, kInfinity) != 0) {
        std::call_once(s.cells_made[1 - side], [&] { s.cells[1 - side].emplace(target); });
        far = s.cells[1 - side]->view();
        found = measure();
      }
      count_row(s, side, row_query, squared.data(), counts);
    }
    const std::lock_guard<std::mutex> lock(s.mutex);
    s.counts[side].add(counts);
  }

  // Adds the distances of one row, 0 where both surfaces have the point.
  void count_row(const Structure& s, int side, const RowQuery& row, const double* squared,
                 DistanceCounts& counts) const {
    for (std::int64_t w = 0; w < row.words; ++w) {
      const std::uint64_t shared = row.own[w] & row.target[w];
      if (!query_.surfel && shared != 0) counts.add(0, 0, __builtin_popcountll(shared));
      for (std::uint64_t bits = query_.surfel ? row.own[w] : row.own[w] & ~shared; bits != 0;
           bits &= bits - 1) {
        const std::uint64_t bit = bits & -bits;
        const std::uint32_t kind = query_.surfel ? neighbour_code(s.mask[side], flat_, row.z, row.y,
                                                                  64 * w + __builtin_ctzll(bits))
                                                 : 0;
        counts.add((shared & bit) != 0 ? 0 : *squared++, kind, 1);
      }
    }
  }

  const TensorView* maps_[2];
  const VolumeShape shape_;
  const SurfaceQuery& query_;
  const std::int64_t num_threads_;
  const bool flat_;
  const Spacing spacing_;
  const NearRows near_;
  const std::vector<double> areas_;
};

void check(const TensorView& pred, const TensorView& ref, const SurfaceQuery& query,
           const TensorView& directed, const TensorView& pooled) {
  for (const TensorView* view : {&pred, &ref, &directed, &pooled})
    require_contiguous(*view, dlpack::kCpu);
  require_labels(pred);
  require_labels(ref);
  if (query.spacing.size() != 2 && query.spacing.size() != 3)
    throw std::invalid_argument("spacing: expected 2 or 3 lengths, got " +
                                std::to_string(query.spacing.size()));
  for (const double length : query.spacing)
    if (!(length > 0 && length < kInfinity))
      throw std::invalid_argument("spacing: expected positive, finite lengths");
  const std::size_t leading = query.masks ? 2 : 1;
  if (pred.shape != ref.shape || pred.shape.size() != leading + query.spacing.size())
    throw std::invalid_argument("pred, ref: expected one shape that fits spacing");
  for (const std::int64_t extent : pred.shape)
    if (extent <= 0 || extent > std::numeric_limits<std::int32_t>::max() / 2)
      throw std::invalid_argument("pred: expected extents from 1 to 2^30");
  const std::int64_t classes = query.masks ? pred.shape[1] : query.labels.size();
  const std::int64_t percentiles = query.percentiles.size(), tolerances = query.tolerances.size();
  if (directed.dtype != DType::float64 ||
      directed.shape != std::vector<std::int64_t>{pred.shape[0], classes, 2,
                                                  kSurfaceColumns + percentiles + tolerances})
    throw std::invalid_argument("directed: expected float64 of shape (B, C, 2, 3 + P + K)");
  if (pooled.dtype != DType::float64 ||
      pooled.shape != std::vector<std::int64_t>{pred.shape[0], classes, percentiles})
    throw std::invalid_argument("pooled: expected float64 of shape (B, C, P)");
  for (const double percent : query.percentiles)
    if (!(percent >= 0 && percent <= 100))
      throw std::invalid_argument("percentiles: expected 0 to 100");
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

}  // namespace

void surface_distances_cpu(const TensorView& pred, const TensorView& ref, const SurfaceQuery& query,
                           const TensorView& directed, const TensorView& pooled,
                           std::int64_t num_threads) {
  check(pred, ref, query, directed, pooled);
  const VolumeShape shape = volume_shape(pred, query);
  Boxes boxes;
  find_boxes(pred, ref, shape, query, num_threads, boxes);

  const Computation computation(pred, ref, shape, query, num_threads);
  auto* const directed_rows = static_cast<double*>(directed.data);
  auto* const pooled_rows = static_cast<double*>(pooled.data);
  const auto finish = [&](Structures& structures) {
    computation.measure(structures);
    share_chunks(structures.size(), num_threads, [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);) {
        const std::int64_t row = structures[i]->sample * shape.classes + structures[i]->index;
        computation.summarize(*structures[i], directed_rows + row * 2 * directed.shape[3],
                              pooled_rows + row * pooled.shape[2]);
      }
    });
    structures.clear();
  };
  // As many at once as fit into what one that fills the volume would take.
  const std::int64_t voxels = shape.rows() * shape.size[2];
  Structures at_work;
  std::int64_t voxels_at_work = 0;
  for (std::int64_t i = 0; i < shape.batch * shape.classes; ++i) {
    Box box = boxes[0][i];
    box.include(boxes[1][i]);
    if (voxels_at_work + box.voxels() > voxels && !at_work.empty()) {
      finish(at_work);
      voxels_at_work = 0;
    }
    at_work.push_back(computation.structure(i / shape.classes, i % shape.classes, box));
    voxels_at_work += box.voxels();
  }
  finish(at_work);
}

}  // namespace recycleseg
