#include <algorithm>
#include <cmath>
#include <stdexcept>
#include <type_traits>
#include <vector>

#include "common/instruction_set.hpp"
#include "common/threads.hpp"
#include "norm/norm_act.hpp"
#include "norm/norm_act_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BFLOAT16_BUILDS(NormActLoops<float>, kFloatLoops)
RECYCLESEG_DECLARE_BFLOAT16_BUILDS(NormActLoops<BFloat16>, kBFloat16Loops)

namespace {

constexpr std::int64_t kChunkElements = 1 << 15;   // of bfloat16: half of a core's L2 cache or less
constexpr std::int64_t kThreadElements = 1 << 16;  // fewer take less time than a thread to start

template <class T>
const NormActLoops<T>& loops() {
  if constexpr (std::is_same_v<T, float>)
    return select(RECYCLESEG_BFLOAT16_BUILDS(kFloatLoops));
  else
    return select(RECYCLESEG_BFLOAT16_BUILDS(kBFloat16Loops));
}

// How the voxels of the samples are cut into chunks. Sums are taken chunk by chunk and then over
// the chunks in order, so that they do not depend on the number of threads.
struct Chunks {
  std::int64_t samples, voxels, channels, length, count;

  explicit Chunks(const std::vector<std::int64_t>& shape) : samples(shape.front()), voxels(1) {
    channels = shape.back();
    for (std::size_t axis = 1; axis + 1 < shape.size(); ++axis) voxels *= shape[axis];
    length = std::max<std::int64_t>(kChunkElements / channels, 1);
    count = (voxels + length - 1) / length;
  }
  std::int64_t voxels_in(std::int64_t index) const {
    return std::min(length, voxels - index * length);
  }

  // Calls body(sample, chunk, offset of its first element, voxels in it) for all chunks.
  template <class Body>
  void for_each(std::int64_t num_threads, const Body& body) const {
    ChunkQueue queue(samples * count);
    const std::int64_t useful = samples * voxels * channels / kThreadElements;
    run_on_threads(std::min({num_threads, samples * count, useful}), [&] {
      for (std::int64_t i; queue.next(i);) {
        const std::int64_t sample = i / count, index = i % count;
        body(sample, index, (sample * voxels + index * length) * channels, voxels_in(index));
      }
    });
    queue.finish();
  }
};

// Mean and 1 / sqrt(variance + eps) of one sample and channel, from those of its chunks
// (Chan, Golub and LeVeque 1983); `stride` lies between chunks.
void merge_moments(const Chunks& chunks, const float* means, const float* squares,
                   std::int64_t stride, float eps, float* mean, float* rstd) {
  double total = 0, centre = 0, square = 0;
  for (std::int64_t i = 0; i < chunks.count; ++i) {
    const double count = static_cast<double>(chunks.voxels_in(i));
    const double distance = means[i * stride] - centre;
    total += count;
    centre += distance * count / total;
    square += squares[i * stride] + distance * distance * count * (total - count) / total;
  }
  *mean = static_cast<float>(centre);
  *rstd = static_cast<float>(1 / std::sqrt(square / total + eps));
}

template <class T>
void forward(const NormActArguments& in, const TensorView& y, const TensorView& moments, float eps,
             std::int64_t num_threads) {
  const Chunks chunks(in.x.shape);
  const NormActLoops<T>& loop = loops<T>();
  const std::int64_t channels = chunks.channels, rows = chunks.samples * channels;
  const T* x = data_of<T>(in.x);
  std::vector<float> partial(2 * rows * chunks.count), scale(rows);
  float* squares = partial.data() + rows * chunks.count;
  chunks.for_each(num_threads, [&](auto sample, auto index, auto offset, auto voxels) {
    const std::int64_t row = (sample * chunks.count + index) * channels;
    loop.moments(x + offset, voxels, channels, partial.data() + row, squares + row);
  });

  float *mean = data_of<float>(moments), *rstd = mean + rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    const std::int64_t first = row / channels * chunks.count * channels + row % channels;
    merge_moments(chunks, partial.data() + first, squares + first, channels, eps, mean + row,
                  rstd + row);
    scale[row] = rstd[row] * data_of<float>(in.weight)[row];
  }
  const T* residual = data_of<T>(in.residual);
  chunks.for_each(num_threads, [&](auto sample, auto, auto offset, auto voxels) {
    const std::int64_t row = sample * channels;
    loop.apply(x + offset, residual ? residual + offset : nullptr, data_of<T>(y) + offset, voxels,
               channels, {mean + row, scale.data() + row, data_of<float>(in.bias) + row},
               in.activation);
  });
}

template <class T>
void backward(const NormActArguments& in, const TensorView& grad_y, const TensorView& moments,
              const TensorView& grad_x, const TensorView* grad_residual,
              const TensorView& grad_affine, std::int64_t num_threads) {
  const Chunks chunks(in.x.shape);
  const NormActLoops<T>& loop = loops<T>();
  const std::int64_t channels = chunks.channels, rows = chunks.samples * channels;
  const T *x = data_of<T>(in.x), *dy = data_of<T>(grad_y), *residual = data_of<T>(in.residual);
  const float *mean = data_of<float>(moments), *rstd = mean + rows;
  std::vector<float> scale(rows), partial(2 * rows * chunks.count);
  for (std::int64_t row = 0; row < rows; ++row)
    scale[row] = rstd[row] * data_of<float>(in.weight)[row];

  // The gradient of z is that of the residual; without one it lies in grad_x for a while.
  T* g = grad_residual ? data_of<T>(*grad_residual) : data_of<T>(grad_x);
  float *sum_g = partial.data(), *sum_gx = sum_g + rows * chunks.count;
  chunks.for_each(num_threads, [&](auto sample, auto index, auto offset, auto voxels) {
    const std::int64_t row = sample * channels, sums = (sample * chunks.count + index) * channels;
    loop.reduce(dy + offset, x + offset, residual ? residual + offset : nullptr, g + offset, voxels,
                channels, {mean + row, scale.data() + row, data_of<float>(in.bias) + row},
                in.activation, sum_g + sums, sum_gx + sums);
  });

  // dx = scale * (g - mean(g) - xhat * mean(g * xhat)), xhat = (x - mean) * rstd.
  std::vector<float> slope(rows), shift(rows);
  float *grad_weight = data_of<float>(grad_affine), *grad_bias = grad_weight + rows;
  for (std::int64_t row = 0; row < rows; ++row) {
    double total = 0, product = 0;
    const std::int64_t first = row / channels * chunks.count * channels + row % channels;
    for (std::int64_t i = 0; i < chunks.count; ++i) {
      total += sum_g[first + i * channels];
      product += sum_gx[first + i * channels];
    }
    grad_weight[row] = static_cast<float>(product * rstd[row]);
    grad_bias[row] = static_cast<float>(total);
    shift[row] = static_cast<float>(-scale[row] * total / chunks.voxels);
    slope[row] = static_cast<float>(-scale[row] * product * rstd[row] * rstd[row] / chunks.voxels);
  }
  const T* gradient = in.activation ? g : dy;
  chunks.for_each(num_threads, [&](auto sample, auto, auto offset, auto voxels) {
    const std::int64_t row = sample * channels;
    loop.combine(gradient + offset, x + offset, data_of<T>(grad_x) + offset, voxels, channels,
                 {mean + row, scale.data() + row, shift.data() + row}, slope.data() + row);
  });
}

void check_like(const TensorView& view, const TensorView& x) {
  require_contiguous(view, dlpack::kCpu);
  require(view.shape == x.shape && view.dtype == x.dtype, view, "shape and dtype of x");
}

void check_table(const TensorView& view, const TensorView& x, std::int64_t tables) {
  require_contiguous(view, dlpack::kCpu);
  require(view.dtype == DType::float32 && view.size() == tables * x.shape.front() * x.shape.back(),
          view, "float32 values, one or two per sample and channel");
}

void check(const NormActArguments& in) {
  require_contiguous(in.x, dlpack::kCpu);
  require(in.x.shape.size() >= 2 && in.x.size() > 0, in.x, "shape (B, *S, C), not empty");
  require(in.x.dtype == DType::float32 || in.x.dtype == DType::bfloat16, in.x,
          "dtype float32 or bfloat16");
  check_table(in.weight, in.x, 1);
  check_table(in.bias, in.x, 1);
  if (in.residual) check_like(*in.residual, in.x);
}

}  // namespace

void norm_act_forward_cpu(const NormActArguments& in, const TensorView& y,
                          const TensorView& moments, float eps, std::int64_t num_threads) {
  check(in);
  check_like(y, in.x);
  check_table(moments, in.x, 2);
  (in.x.dtype == DType::float32 ? forward<float> : forward<BFloat16>)(in, y, moments, eps,
                                                                      num_threads);
}

void norm_act_backward_cpu(const NormActArguments& in, const TensorView& grad_y,
                           const TensorView& moments, const TensorView& grad_x,
                           const TensorView* grad_residual, const TensorView& grad_affine,
                           std::int64_t num_threads) {
  check(in);
  check_like(grad_y, in.x);
  check_like(grad_x, in.x);
  if (grad_residual) check_like(*grad_residual, in.x);
  check_table(moments, in.x, 2);
  check_table(grad_affine, in.x, 2);
  (in.x.dtype == DType::float32 ? backward<float> : backward<BFloat16>)(in, grad_y, moments, grad_x,
                                                                        grad_residual, grad_affine,
                                                                        num_threads);
}

}  // namespace recycleseg
