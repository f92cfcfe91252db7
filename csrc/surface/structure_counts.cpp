#include "surface/structure_counts.hpp"

#include <mutex>

#include "common/label_runs.hpp"

namespace recycleseg {
namespace {

constexpr std::int64_t kVoxelsPerChunk = 1 << 15;

// The structures that a label belongs to: some of the pairs (label, structure), by structure.
using Pair = std::pair<std::int64_t, std::int64_t>;
struct Pairs {
  const Pair *first, *last;
  const Pair* begin() const { return first; }
  const Pair* end() const { return last; }
  bool empty() const { return first == last; }
};

class StructuresOf {
 public:
  explicit StructuresOf(const SurfaceQuery& query) : masks_(query.masks) {
    for (std::size_t c = 0; c < query.labels.size(); ++c)
      for (const std::int64_t label : query.labels[c]) pairs_.emplace_back(label, c);
    std::sort(pairs_.begin(), pairs_.end());
    pairs_.erase(std::unique(pairs_.begin(), pairs_.end()), pairs_.end());
    const Pair* pair = pairs_.data();
    const Pair* const end = pair + pairs_.size();
    while (pair != end && pair->first < 0) ++pair;
    for (std::int64_t label = 0; label < kSmall; ++label) {
      small_[label].first = pair;
      while (pair != end && pair->first == label) ++pair;
      small_[label].last = pair;
    }
  }
  Pairs operator()(std::int64_t label) const {
    if (masks_) return {&in_mask_, &in_mask_ + (label != 0)};
    if (label >= 0 && label < kSmall) return small_[label];
    const auto pairs =
        std::equal_range(pairs_.begin(), pairs_.end(), Pair(label, 0),
                         [](const Pair& a, const Pair& b) { return a.first < b.first; });
    return {pairs_.data() + (pairs.first - pairs_.begin()),
            pairs_.data() + (pairs.second - pairs_.begin())};
  }

 private:
  static constexpr std::int64_t kSmall = 256;
  const bool masks_;
  const Pair in_mask_{1, 0};
  std::vector<Pair> pairs_;
  Pairs small_[kSmall];
};

// The voxels x to x + n of row (z, y).
struct RowPart {
  std::int64_t z, y, x, n;
};

void add_part(StructureCount::Side& side, const RowPart& part) {
  const auto [z, y, x, n] = part;
  side.voxels += n;
  side.index_sums[0] += n * z;
  side.index_sums[1] += n * y;
  side.index_sums[2] += n * x + n * (n - 1) / 2;
  side.box.include({{z, y, x}, {z + 1, y + 1, x + n}});
}

// Adds the voxels [begin, end) of two maps, run by run. Most runs are background, in no structure.
template <class Pred, class Ref>
void count_voxels(const Pred* pred, const Ref* ref, std::int64_t begin, std::int64_t end,
                  const VolumeShape& shape, const StructuresOf& structures_of,
                  StructureCount* counts, std::int64_t unlisted[2]) {
  const std::int64_t height = shape.size[1], width = shape.size[2];
  std::int64_t z = 0, y = 0, row_begin = 0;
  const auto add_run = [&](std::int64_t first, std::int64_t count) {
    std::int64_t voxel = begin + first;
    const std::int64_t labels[2] = {pred[voxel], ref[voxel]};
    const Pairs structures[2] = {structures_of(labels[0]), structures_of(labels[1])};
    for (int side = 0; side < 2; ++side)
      if (labels[side] != 0 && structures[side].empty()) unlisted[side] += count;
    if (structures[0].empty() && structures[1].empty()) return;
    for (const auto& [label, structure] : structures[0])
      for (const auto& [other_label, other] : structures[1])
        if (structure == other) counts[structure].both += count;

    if (voxel >= row_begin + width) {
      const std::int64_t row = voxel / width;
      z = row / height, y = row % height, row_begin = row * width;
    }
    while (count > 0) {
      const std::int64_t x = voxel - row_begin, n = std::min(count, width - x);
      for (int side = 0; side < 2; ++side)
        for (const auto& [label, structure] : structures[side])
          add_part(counts[structure].side[side], {z, y, x, n});
      voxel += n, count -= n;
      if (voxel == row_begin + width) {
        row_begin = voxel;
        if (++y == height) ++z, y = 0;
      }
    }
  };
  LabelRunWalk{}(end - begin, add_run, pred + begin, ref + begin);
}

}  // namespace

void StructureCount::add(const StructureCount& other) {
  both += other.both;
  for (int s = 0; s < 2; ++s) {
    side[s].voxels += other.side[s].voxels;
    for (int axis = 0; axis < 3; ++axis) side[s].index_sums[axis] += other.side[s].index_sums[axis];
    side[s].box.include(other.side[s].box);
  }
}

StructureCounts count_structures(const TensorView& pred, const TensorView& ref,
                                 const VolumeShape& shape, const SurfaceQuery& query, Team& team) {
  const StructuresOf structures_of(query);
  const std::int64_t maps = shape.batch * (shape.masks ? shape.classes : 1);
  const std::int64_t voxels = shape.rows() * shape.size[2];
  const std::int64_t chunks_per_map = (voxels + kVoxelsPerChunk - 1) / kVoxelsPerChunk;
  const std::int64_t per_map = shape.masks ? 1 : shape.classes;
  StructureCounts total;
  total.of.resize(shape.batch * shape.classes);
  std::mutex mutex;
  team.share(maps * chunks_per_map, [&](ChunkQueue& queue) {
    std::vector<StructureCount> own(per_map);  // of one map
    std::int64_t unlisted[2] = {}, own_map = 0;
    const auto flush = [&] {
      const std::lock_guard<std::mutex> lock(mutex);
      for (std::int64_t i = 0; i < per_map; ++i) total.of[own_map * per_map + i].add(own[i]);
    };
    for (std::int64_t chunk; queue.next(chunk);) {
      const std::int64_t map = chunk / chunks_per_map;
      if (map != own_map) {
        flush();
        own.assign(per_map, StructureCount{});
        own_map = map;
      }
      const std::int64_t begin = chunk % chunks_per_map * kVoxelsPerChunk;
      const std::int64_t end = std::min(begin + kVoxelsPerChunk, voxels);
      visit(pred, [&](const auto* pred_data) {
        visit(ref, [&](const auto* ref_data) {
          count_voxels(pred_data + map * voxels, ref_data + map * voxels, begin, end, shape,
                       structures_of, own.data(), unlisted);
        });
      });
    }
    flush();
    const std::lock_guard<std::mutex> lock(mutex);
    for (int side = 0; side < 2; ++side) total.unlisted[side] += unlisted[side];
  });
  return total;
}

}  // namespace recycleseg
