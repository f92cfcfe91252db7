// Compiled once per instruction set, into the namespace RECYCLESEG_ISA.
#include "norm/norm_act_simd.hpp"

#include <type_traits>

#include "common/simd_vector.hpp"

namespace recycleseg {
namespace RECYCLESEG_ISA {
namespace {

// 1 / x for x >= 1, to 2 units in the last place.
INLINE Floats reciprocal(const Floats& x) {
#ifdef __AVX512F__
  const Floats estimate = copy_bits<Floats>(_mm512_rcp14_ps(copy_bits<__m512>(x)));
  return estimate * (2.0f - x * estimate);  // one step of Newton's method doubles the 14 bits
#else
  return 1.0f / x;
#endif
}

// GELU in its tanh form is z * sigmoid(q) with q = sqrt(8 / pi) (z + 0.044715 z^3).
constexpr float kLinear = 1.5957691216f;
constexpr float kCubic = kLinear * 0.044715f;

INLINE Floats gelu_sigmoid(const Floats& z) {
  Floats q = z * (kLinear + kCubic * (z * z));
  const Floats end = Floats{} + kEndOfExp;
  q = q > end ? end : q;
  q = q < -end ? -end : q;
  return reciprocal(1.0f + exp(-q));
}
INLINE Floats gelu(const Floats& z) { return z * gelu_sigmoid(z); }
INLINE Floats gelu_slope(const Floats& z) {
  const Floats s = gelu_sigmoid(z);
  return s + z * s * (1.0f - s) * (kLinear + 3 * kCubic * (z * z));
}

// Calls body(first channel, number of channels, whether these are kWidth) block by block, so that
// per-channel values stay in registers over all voxels.
template <class Body>
INLINE void for_blocks(std::int64_t channels, Body&& body) {
  std::int64_t c = 0;
  for (; c + kWidth <= channels; c += kWidth) body(c, kWidth, std::true_type{});
  if (c < channels) body(c, channels - c, std::false_type{});
}

struct AffineBlock {
  Floats mean, scale, shift;
  template <bool kFull>
  static INLINE AffineBlock at(const Affine& affine, std::int64_t c, std::int64_t count) {
    return {load<kFull>(affine.mean + c, count), load<kFull>(affine.scale + c, count),
            load<kFull>(affine.shift + c, count)};
  }
};

template <class T>
void moments(const T* x, std::int64_t voxels, std::int64_t channels, float* mean, float* squares) {
  for_blocks(channels, [&](std::int64_t c, std::int64_t count, auto full) {
    constexpr bool kFull = decltype(full)::value;
    // Distances from the first voxel: squares of raw values would cancel.
    const Floats origin = load<kFull>(x + c, count);
    Floats sum{}, square{}, other_sum{}, other_square{};  // two each: additions overlap
    const auto add = [&](std::int64_t v, Floats& s, Floats& s2) {
      const Floats distance = load<kFull>(x + v * channels + c, count) - origin;
      s += distance;
      s2 += distance * distance;
    };
    for (std::int64_t v = 1; v + 1 < voxels; v += 2) {
      add(v, sum, square);
      add(v + 1, other_sum, other_square);
    }
    if (voxels % 2 == 0) add(voxels - 1, sum, square);
    sum += other_sum;
    const Floats offset = sum / static_cast<float>(voxels);
    store<kFull>(origin + offset, mean + c, count);
    store<kFull>(square + other_square - sum * offset, squares + c, count);
  });
}

template <bool kResidual, bool kActivation, class T>
INLINE void apply_kind(const T* x, const T* residual, T* y, std::int64_t voxels,
                       std::int64_t channels, Affine affine) {
  for_blocks(channels, [&](std::int64_t c, std::int64_t count, auto full) {
    constexpr bool kFull = decltype(full)::value;
    const AffineBlock a = AffineBlock::at<kFull>(affine, c, count);
    for (std::int64_t v = 0; v < voxels; ++v) {
      const std::int64_t i = v * channels + c;
      Floats z = (load<kFull>(x + i, count) - a.mean) * a.scale + a.shift;
      if (kResidual) z += load<kFull>(residual + i, count);
      store<kFull>(kActivation ? gelu(z) : z, y + i, count);
    }
  });
}

template <class T>
void apply(const T* x, const T* residual, T* y, std::int64_t voxels, std::int64_t channels,
           Affine affine, bool activation) {
  if (residual && activation)
    apply_kind<true, true>(x, residual, y, voxels, channels, affine);
  else if (residual)
    apply_kind<true, false>(x, residual, y, voxels, channels, affine);
  else if (activation)
    apply_kind<false, true>(x, residual, y, voxels, channels, affine);
  else
    apply_kind<false, false>(x, residual, y, voxels, channels, affine);
}

template <bool kResidual, bool kActivation, class T>
INLINE void reduce_kind(const T* grad_y, const T* x, const T* residual, T* g, std::int64_t voxels,
                        std::int64_t channels, Affine affine, float* sum_g, float* sum_gx) {
  for_blocks(channels, [&](std::int64_t c, std::int64_t count, auto full) {
    constexpr bool kFull = decltype(full)::value;
    const AffineBlock a = AffineBlock::at<kFull>(affine, c, count);
    Floats total{}, product{};
    for (std::int64_t v = 0; v < voxels; ++v) {
      const std::int64_t i = v * channels + c;
      const Floats centred = load<kFull>(x + i, count) - a.mean;
      Floats grad = load<kFull>(grad_y + i, count);
      if (kActivation) {
        Floats z = centred * a.scale + a.shift;
        if (kResidual) z += load<kFull>(residual + i, count);
        grad *= gelu_slope(z);
        store<kFull>(grad, g + i, count);
      }
      total += grad;
      product += grad * centred;
    }
    store<kFull>(total, sum_g + c, count);
    store<kFull>(product, sum_gx + c, count);
  });
}

template <class T>
void reduce(const T* grad_y, const T* x, const T* residual, T* g, std::int64_t voxels,
            std::int64_t channels, Affine affine, bool activation, float* sum_g, float* sum_gx) {
  if (residual && activation)
    reduce_kind<true, true>(grad_y, x, residual, g, voxels, channels, affine, sum_g, sum_gx);
  else if (activation)
    reduce_kind<false, true>(grad_y, x, residual, g, voxels, channels, affine, sum_g, sum_gx);
  else
    reduce_kind<false, false>(grad_y, x, residual, g, voxels, channels, affine, sum_g, sum_gx);
}

template <class T>
void combine(const T* g, const T* x, T* grad_x, std::int64_t voxels, std::int64_t channels,
             Affine affine, const float* slope) {
  for_blocks(channels, [&](std::int64_t c, std::int64_t count, auto full) {
    constexpr bool kFull = decltype(full)::value;
    const AffineBlock a = AffineBlock::at<kFull>(affine, c, count);
    const Floats k = load<kFull>(slope + c, count);
    for (std::int64_t v = 0; v < voxels; ++v) {
      const std::int64_t i = v * channels + c;
      const Floats centred = load<kFull>(x + i, count) - a.mean;
      store<kFull>(load<kFull>(g + i, count) * a.scale + (centred * k + a.shift), grad_x + i,
                   count);
    }
  });
}

}  // namespace

extern const NormActLoops<float> kFloatLoops;
extern const NormActLoops<BFloat16> kBFloat16Loops;
const NormActLoops<float> kFloatLoops{moments<float>, apply<float>, reduce<float>, combine<float>};
const NormActLoops<BFloat16> kBFloat16Loops{moments<BFloat16>, apply<BFloat16>, reduce<BFloat16>,
                                            combine<BFloat16>};

}  // namespace RECYCLESEG_ISA
}  // namespace recycleseg
