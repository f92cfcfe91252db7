#include <algorithm>
#include <cstdint>

#include "common/cuda_device.hpp"
#include "transform/distance_search.hpp"
#include "transform/distance_transform.hpp"

namespace recycleseg {
namespace {

constexpr char kOperation[] = "distance_transform";
constexpr int kWarp = 32;
constexpr int kWarps = 8;  // per block
constexpr unsigned int kAllLanes = 0xffffffffu;
constexpr std::int64_t kMaxGridX = 1 << 30;
constexpr std::int64_t kMaxGrid = 65535;  // along y and z

// Of 0, 1, ... voxels: exact up to 4096^2 where the spacing is 1.
__device__ inline float square_of(int voxels, float spacing_squared) {
  const float steps = static_cast<float>(voxels);
  return steps * steps * spacing_squared;
}

// A warp takes a row, 32 voxels at a time: the last zero to the left of each, then the first to
// the right. A lane comes back to the voxels that it wrote.
template <class Mask>
__global__ void rows_kernel(const Mask* mask, std::int64_t num_rows, int width,
                            float spacing_squared, float* squared) {
  const int lane = threadIdx.x;
  const unsigned int up_to_lane = kAllLanes >> (kWarp - 1 - lane);
  const unsigned int from_lane = kAllLanes << lane;
  const std::int64_t first = blockIdx.x * static_cast<std::int64_t>(kWarps) + threadIdx.y;
  const std::int64_t step = gridDim.x * static_cast<std::int64_t>(kWarps);
  for (std::int64_t row = first; row < num_rows; row += step) {
    const Mask* inside = mask + row * width;
    float* out = squared + row * width;
    const auto zeros_at = [&](int x) {
      return __ballot_sync(kAllLanes, x < width && inside[x] == 0);
    };
    int zero = -1;  // the last one before these voxels
    for (int begin = 0; begin < width; begin += kWarp) {
      const int x = begin + lane;
      const unsigned int zeros = zeros_at(x);
      const unsigned int left = zeros & up_to_lane;
      const int nearest = left ? begin + kWarp - 1 - __clz(left) : zero;
      if (x < width) out[x] = nearest < 0 ? INFINITY : square_of(x - nearest, spacing_squared);
      if (zeros) zero = begin + kWarp - 1 - __clz(zeros);
    }
    zero = -1;  // the first one after these voxels
    for (int begin = (width - 1) / kWarp * kWarp; begin >= 0; begin -= kWarp) {
      const int x = begin + lane;
      const unsigned int zeros = zeros_at(x);
      const unsigned int right = zeros & from_lane;
      const int nearest = right ? begin + __ffs(right) - 1 : zero;
      if (x < width && nearest >= 0)
        out[x] = fminf(out[x], square_of(nearest - x, spacing_squared));
      if (zeros) zero = begin + __ffs(zeros) - 1;
    }
  }
}

// One of many lines of floats whose elements are `stride` apart.
struct DeviceLine {
  using Value = float;
  const float* values;
  std::int64_t stride;
  float spacing_squared;

  __host__ __device__ static float smaller(float a, float b) { return a < b ? a : b; }
  __device__ float value(int j) const { return values[j * stride]; }
  __device__ float square(int k) const { return square_of(k, spacing_squared); }
  __device__ bool may_improve(float best, int k) const { return square(k) < best; }
};

// `outer` times `stride` lines of `length` elements; a thread computes one element at a time, and
// the threads of a warp those of neighbouring lines.
template <bool kRoot>
__global__ void lines_kernel(const float* from, std::int64_t outer, int length, std::int64_t stride,
                             float spacing_squared, float* to) {
  for (std::int64_t z = blockIdx.z; z < outer; z += gridDim.z) {
    for (int i = blockIdx.y * kWarps + threadIdx.y; i < length; i += gridDim.y * kWarps) {
      const std::int64_t step = gridDim.x * static_cast<std::int64_t>(kWarp);
      std::int64_t line = blockIdx.x * static_cast<std::int64_t>(kWarp) + threadIdx.x;
      for (; line < stride; line += step) {
        const std::int64_t first = z * length * stride + line;
        int steps = 0;
        const float best =
            nearest(DeviceLine{from + first, stride, spacing_squared}, i, length, steps);
        to[first + i * stride] = kRoot ? sqrtf(best) : best;
      }
    }
  }
}

unsigned int blocks(std::int64_t count, std::int64_t per_block, std::int64_t most) {
  return static_cast<unsigned int>(std::min((count + per_block - 1) / per_block, most));
}

template <bool kRoot>
void launch_lines(const float* from, std::int64_t outer, std::int64_t length, std::int64_t stride,
                  double spacing, float* to, cudaStream_t stream) {
  const dim3 grid(blocks(stride, kWarp, kMaxGridX), blocks(length, kWarps, kMaxGrid),
                  blocks(outer, 1, kMaxGrid));
  lines_kernel<kRoot><<<grid, dim3(kWarp, kWarps), 0, stream>>>(
      from, outer, static_cast<int>(length), stride, static_cast<float>(spacing * spacing), to);
  check_cuda(kOperation, cudaGetLastError());
}

}  // namespace

void distance_transform_cuda(const TensorView& mask, const TensorView& distance,
                             const TensorView& workspace, const std::vector<double>& spacing,
                             std::uintptr_t stream_address) {
  const DistanceGrid grid = check_distance_transform(mask, distance, spacing, dlpack::kCuda);
  check_distance_transform(mask, workspace, spacing, dlpack::kCuda);
  for (const TensorView* view : {&distance, &workspace})
    if (view->device.id != mask.device.id)
      throw std::invalid_argument(view->name + ": expected a tensor on the GPU of mask");
  if (mask.size() == 0) return;
  const auto stream = reinterpret_cast<cudaStream_t>(stream_address);
  const DeviceGuard guard(kOperation, mask.device.id);

  // Each pass reads one tensor and writes the other; the last one writes `distance`.
  auto* from = data_of<float>(workspace);
  auto* to = data_of<float>(distance);
  if (grid.height > 1) std::swap(from, to);
  const std::int64_t planes = grid.batch * grid.depth;
  const std::int64_t rows = planes * grid.height;
  visit(mask, [&](const auto* data) {
    rows_kernel<<<blocks(rows, kWarps, kMaxGridX), dim3(kWarp, kWarps), 0, stream>>>(
        data, rows, static_cast<int>(grid.width),
        static_cast<float>(grid.spacing_x * grid.spacing_x), from);
  });
  check_cuda(kOperation, cudaGetLastError());
  if (grid.height > 1) {
    launch_lines<false>(from, planes, grid.height, grid.width, grid.spacing_y, to, stream);
    std::swap(from, to);
  }
  launch_lines<true>(from, grid.batch, grid.depth, grid.plane(), grid.spacing_z, to, stream);
}

}  // namespace recycleseg
