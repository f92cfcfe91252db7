#include "structure_boxes.hpp"

#include <mutex>

#include "label_runs.hpp"

namespace recycleseg {
namespace {

constexpr std::int64_t kVoxelsPerChunk = 1 << 17;

using Pair = std::pair<std::int64_t, std::int64_t>;

// Which structures a label belongs to.
class StructuresOf {
 public:
  explicit StructuresOf(const SurfaceQuery& query) {
    for (std::size_t c = 0; c < query.labels.size(); ++c)
      for (const std::int64_t label : query.labels[c]) pairs_.emplace_back(label, c);
    std::sort(pairs_.begin(), pairs_.end());
    const Pair* pair = pairs_.data();
    const Pair* const end = pair + pairs_.size();
    while (pair != end && pair->first < 0) ++pair;
    for (std::int64_t label = 0; label < kSmall; ++label) {
      small_[label].first = pair;
      while (pair != end && pair->first == label) ++pair;
      small_[label].second = pair;
    }
  }
  // The pairs (label, structure) of this label: first and end.
  std::pair<const Pair*, const Pair*> of(std::int64_t label) const {
    if (label >= 0 && label < kSmall) return small_[label];
    const auto pairs =
        std::equal_range(pairs_.begin(), pairs_.end(), Pair(label, 0),
                         [](const Pair& a, const Pair& b) { return a.first < b.first; });
    return {pairs_.data() + (pairs.first - pairs_.begin()),
            pairs_.data() + (pairs.second - pairs_.begin())};
  }

 private:
  static constexpr std::int64_t kSmall = 256;
  std::vector<Pair> pairs_;
  std::pair<const Pair*, const Pair*> small_[kSmall];
};

// Extends the boxes of one map by its voxels [begin, end). Label maps are constant over long runs,
// of which most are background, in no structure.
template <class T>
void include_voxels(const T* labels, std::int64_t begin, std::int64_t end, const VolumeShape& shape,
                    const StructuresOf& structures, Box* boxes) {
  const std::int64_t height = shape.size[1], width = shape.size[2];
  const auto include = [&](std::int64_t first, std::int64_t count) {
    const std::int64_t voxel = begin + first, last = voxel + count - 1;
    const Pair in_mask(1, 0);
    const auto [pair, pairs_end] = shape.masks
                                       ? std::pair(&in_mask, &in_mask + (labels[voxel] != 0))
                                       : structures.of(labels[voxel]);
    if (pair == pairs_end) return;
    const std::int64_t row = voxel / width, last_row = last / width;
    const std::int64_t z = row / height, last_z = last_row / height;
    const bool one_row = row == last_row, one_slice = z == last_z;
    const Box run{{z, one_slice ? row % height : 0, one_row ? voxel % width : 0},
                  {last_z + 1, one_slice ? last_row % height + 1 : height,
                   one_row ? last % width + 1 : width}};
    for (const Pair* own = pair; own != pairs_end; ++own) boxes[own->second].include(run);
  };
  LabelRunWalk{}(end - begin, include, labels + begin);
}

}  // namespace

void find_boxes(const TensorView& pred, const TensorView& ref, const VolumeShape& shape,
                const SurfaceQuery& query, Team& team, Boxes& boxes) {
  const StructuresOf structures(query);
  const std::int64_t maps = shape.batch * (shape.masks ? shape.classes : 1);
  const std::int64_t voxels = shape.rows() * shape.size[2];
  const std::int64_t chunks_per_map = (voxels + kVoxelsPerChunk - 1) / kVoxelsPerChunk;
  const std::int64_t structures_per_map = shape.masks ? 1 : shape.classes;
  for (auto& side : boxes) side.assign(shape.batch * shape.classes, Box{});
  std::mutex mutex;
  team.share(2 * maps * chunks_per_map, [&](ChunkQueue& queue) {
    std::vector<Box> own;
    for (std::int64_t chunk; queue.next(chunk);) {
      const int side = static_cast<int>(chunk % 2);
      const std::int64_t map = chunk / 2 / chunks_per_map;
      const std::int64_t begin = chunk / 2 % chunks_per_map * kVoxelsPerChunk;
      const std::int64_t end = std::min(begin + kVoxelsPerChunk, voxels);
      own.assign(structures_per_map, Box{});
      visit(side == 0 ? pred : ref, [&](const auto* data) {
        include_voxels(data + map * voxels, begin, end, shape, structures, own.data());
      });
      const std::lock_guard<std::mutex> lock(mutex);
      for (std::int64_t i = 0; i < structures_per_map; ++i)
        boxes[side][map * structures_per_map + i].include(own[i]);
    }
  });
}

}  // namespace recycleseg
