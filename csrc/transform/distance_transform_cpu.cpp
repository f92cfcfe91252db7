#include <algorithm>
#include <vector>

#include "common/instruction_set.hpp"
#include "common/threads.hpp"
#include "transform/distance_transform.hpp"
#include "transform/distance_transform_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BUILDS(DistanceLoops, kDistanceLoops)

namespace {

// Transforming fewer voxels takes less time than starting a thread.
constexpr std::int64_t kVoxelsPerChunk = 1 << 15;

// One thread's memory, for lines of at most this length.
class Transform {
 public:
  explicit Transform(std::int64_t longest)
      : memory_(distance_scratch_size(longest) + kDistanceLanes * (longest + 1)) {
    const auto address = reinterpret_cast<std::uintptr_t>(memory_.data());
    scratch_ = memory_.data() + (64 - address % 64) % 64 / sizeof(float);
  }

  // The last axis: squared distances within each of `count` rows.
  template <class Mask>
  void rows(const Mask* mask, std::int64_t count, std::int64_t width, double spacing,
            float* squared) {
    inside_.assign(width + kRowPadding, 1);
    steps_.resize(width + kRowPadding);
    for (std::int64_t row = 0; row < count; ++row) {
      const Mask* from = mask + row * width;
      for (std::int64_t i = 0; i < width; ++i) inside_[i] = from[i] != 0;
      loops_.row(inside_.data(), width, spacing, squared + row * width, steps_.data());
    }
  }

  // Another axis: `count` lines that lie side by side, which is also how far apart their elements
  // are, from line `begin` to `end`.
  void lines(float* squared, std::int64_t length, std::int64_t count, std::int64_t begin,
             std::int64_t end, double spacing, bool root) {
    for (std::int64_t line = begin; line < end; line += kDistanceLanes)
      loops_.columns(squared + line, length, count, std::min(kDistanceLanes, end - line), spacing,
                     root, scratch_);
  }

 private:
  const DistanceLoops& loops_ = select(RECYCLESEG_BUILDS(kDistanceLoops));
  std::vector<float> memory_;
  std::vector<std::int32_t> steps_;
  std::vector<std::uint8_t> inside_;
  float* scratch_;
};

// Rows and, while they are in the cache, columns of the planes; then the lines across planes.
template <class Mask>
void transform(const Mask* mask, float* out, const DistanceGrid& grid, std::int64_t num_threads) {
  const std::int64_t planes = grid.batch * grid.depth;
  const std::int64_t planes_per_chunk = std::max(kVoxelsPerChunk / grid.plane(), std::int64_t{1});
  const std::int64_t plane_chunks = (planes + planes_per_chunk - 1) / planes_per_chunk;
  Team team(num_threads);
  team.share(plane_chunks, [&](ChunkQueue& queue) {
    Transform transform(grid.height);
    for (std::int64_t chunk; queue.next(chunk);) {
      const std::int64_t begin = chunk * planes_per_chunk;
      const std::int64_t end = std::min(begin + planes_per_chunk, planes);
      for (std::int64_t plane = begin; plane < end; ++plane) {
        const std::int64_t offset = plane * grid.plane();
        transform.rows(mask + offset, grid.height, grid.width, grid.spacing_x, out + offset);
        if (grid.height > 1)
          transform.lines(out + offset, grid.height, grid.width, 0, grid.width, grid.spacing_y,
                          false);
      }
    }
  });

  const std::int64_t per_chunk =
      std::max(kVoxelsPerChunk / grid.depth / kDistanceLanes, std::int64_t{1}) * kDistanceLanes;
  const std::int64_t chunks = (grid.plane() + per_chunk - 1) / per_chunk;
  team.share(grid.batch * chunks, [&](ChunkQueue& queue) {
    Transform transform(grid.depth);
    for (std::int64_t chunk; queue.next(chunk);) {
      const std::int64_t begin = chunk % chunks * per_chunk;
      transform.lines(out + chunk / chunks * grid.depth * grid.plane(), grid.depth, grid.plane(),
                      begin, std::min(begin + per_chunk, grid.plane()), grid.spacing_z, true);
    }
  });
}

}  // namespace

void distance_transform_cpu(const TensorView& mask, const TensorView& distance,
                            const std::vector<double>& spacing, std::int64_t num_threads) {
  const DistanceGrid grid = check_distance_transform(mask, distance, spacing, dlpack::kCpu);
  if (mask.size() == 0) return;
  visit(mask,
        [&](const auto* data) { transform(data, data_of<float>(distance), grid, num_threads); });
}

}  // namespace recycleseg
