#include "structure_boxes.hpp"

#include <mutex>

#include "instruction_set.hpp"
#include "surface_distances_simd.hpp"
#include "surface_loops.hpp"
#include "threads.hpp"

namespace recycleseg {
namespace {

constexpr std::int64_t kVoxelsPerChunk = 1 << 17;

// Which structures a label belongs to: pairs of both, sorted.
class StructuresOf {
 public:
  explicit StructuresOf(const SurfaceQuery& query) {
    for (std::size_t c = 0; c < query.labels.size(); ++c)
      for (const std::int64_t label : query.labels[c]) pairs_.emplace_back(label, c);
    std::sort(pairs_.begin(), pairs_.end());
  }
  template <class Visit>
  void visit(std::int64_t label, Visit&& visit) const {
    auto pair = std::lower_bound(pairs_.begin(), pairs_.end(),
                                 std::pair<std::int64_t, std::int64_t>(label, 0));
    for (; pair != pairs_.end() && pair->first == label; ++pair) visit(pair->second);
  }

 private:
  std::vector<std::pair<std::int64_t, std::int64_t>> pairs_;
};

// Extends the boxes of one map by its row (z, y). Label maps are constant over long runs.
template <class T>
void include_row(const T* labels, std::int64_t width, std::int64_t z, std::int64_t y,
                 const LabelLoops<T>& loops, const StructuresOf* structures, Box* boxes) {
  for (std::int64_t begin = 0, end = 0; begin < width; begin = end) {
    end = begin + loops.run(labels + begin, width - begin);
    const Box run{{z, y, begin}, {z + 1, y + 1, end}};
    if (structures != nullptr)
      structures->visit(labels[begin], [&](std::int64_t c) { boxes[c].include(run); });
    else if (labels[begin] != 0)
      boxes->include(run);
  }
}

}  // namespace

void find_boxes(const TensorView& pred, const TensorView& ref, const VolumeShape& shape,
                const SurfaceQuery& query, std::int64_t num_threads, Boxes& boxes) {
  const StructuresOf structures(query);
  const std::int64_t maps = shape.batch * (shape.masks ? shape.classes : 1);
  const std::int64_t rows_per_chunk = std::max<std::int64_t>(1, kVoxelsPerChunk / shape.size[2]);
  const std::int64_t chunks_per_map = (shape.rows() + rows_per_chunk - 1) / rows_per_chunk;
  const std::int64_t structures_per_map = shape.masks ? 1 : shape.classes;
  for (auto& side : boxes) side.assign(shape.batch * shape.classes, Box{});
  std::mutex mutex;
  share_chunks(2 * maps * chunks_per_map, num_threads, [&](ChunkQueue& queue) {
    std::vector<Box> own;
    for (std::int64_t chunk; queue.next(chunk);) {
      const int side = static_cast<int>(chunk % 2);
      const std::int64_t map = chunk / 2 / chunks_per_map;
      const std::int64_t first = chunk / 2 % chunks_per_map * rows_per_chunk;
      const std::int64_t end = std::min(first + rows_per_chunk, shape.rows());
      own.assign(structures_per_map, Box{});
      visit(side == 0 ? pred : ref, [&](const auto* data) {
        const auto& loops = label_loops(data);
        for (std::int64_t row = first; row < end; ++row)
          include_row(data + (map * shape.rows() + row) * shape.size[2], shape.size[2],
                      row / shape.size[1], row % shape.size[1], loops,
                      shape.masks ? nullptr : &structures, own.data());
      });
      const std::lock_guard<std::mutex> lock(mutex);
      for (std::int64_t i = 0; i < structures_per_map; ++i)
        boxes[side][map * structures_per_map + i].include(own[i]);
    }
  });
}

}  // namespace recycleseg
