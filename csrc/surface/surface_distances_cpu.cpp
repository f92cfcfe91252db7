#include <limits>

#include "counts/overlap_counts.hpp"
#include "surface/structure_distances.hpp"

namespace recycleseg {
namespace {

// Fewer voxels, over all structures, are done before another thread has started.
constexpr std::int64_t kVoxelsPerThread = 1 << 19;

// Small structures are measured together, up to this many voxels of their boxes. With fewer voxels
// the threads would wait for one another more than they work.
constexpr std::int64_t kAlwaysAtWork = 1 << 22;

// What a structure takes even where its box is small, counted in voxels.
constexpr std::int64_t kVoxelsOfAny = 1 << 16;

void check_counts(const TensorView& view, const std::vector<std::int64_t>& shape,
                  const char* expected) {
  require_contiguous(view, dlpack::kCpu);
  require(view.dtype == DType::int64 && view.shape == shape, view, expected);
}

void require_areas(const SurfaceQuery& query) {
  const std::size_t codes = query.spacing.size() == 2 ? 16 : 256;
  if (!query.areas.empty() && query.areas.size() != codes)
    throw std::invalid_argument("areas: expected none or " + std::to_string(codes) + ", got " +
                                std::to_string(query.areas.size()));
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
  require_areas(query);
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
  const auto data = [](const TensorView& view) { return data_of<std::int64_t>(view); };
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

  const StructureDistances distances(pred, ref, shape, query, team);
  auto* const directed_rows = data_of<double>(directed);
  auto* const pooled_rows = data_of<double>(pooled);
  const auto finish = [&](const std::vector<std::pair<std::int64_t, Box>>& at_work) {
    Structures structures(at_work.size());
    team.share(at_work.size(), [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);) {
        const auto& [row, box] = at_work[i];
        structures[i] = distances.structure(row / shape.classes, row % shape.classes, box);
      }
    });
    distances.measure(structures);
    team.share(at_work.size(), [&](ChunkQueue& queue) {
      for (std::int64_t i; queue.next(i);) {
        const std::int64_t row = at_work[i].first;
        distances.summarize(*structures[i], directed_rows + row * 2 * directed.shape[3],
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
