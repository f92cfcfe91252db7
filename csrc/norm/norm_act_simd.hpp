// Inner loops of norm_act over a run of voxels, channels-last. norm_act_simd.cpp is compiled once
// per instruction set; each build of it fills one table of these functions.
#pragma once

#include <cstdint>

#include "common/bfloat16.hpp"

namespace recycleseg {

// Per-channel factors of one sample, `channels` values each.
struct Affine {
  const float* mean;
  const float* scale;  // weight / standard deviation
  const float* shift;  // bias
};

template <class T>
struct NormActLoops {
  // Mean and sum of squared distances from it, per channel.
  void (*moments)(const T* x, std::int64_t voxels, std::int64_t channels, float* mean,
                  float* squares);
  // y = act((x - mean) * scale + shift + residual); residual may be null.
  void (*apply)(const T* x, const T* residual, T* y, std::int64_t voxels, std::int64_t channels,
                Affine affine, bool activation);
  // g = grad_y * act'(...), written to `g` unless null; per channel sum g and sum g (x - mean).
  void (*reduce)(const T* grad_y, const T* x, const T* residual, T* g, std::int64_t voxels,
                 std::int64_t channels, Affine affine, bool activation, float* sum_g,
                 float* sum_gx);
  // grad_x = scale * g + slope * (x - mean) + shift; grad_x may be g.
  void (*combine)(const T* g, const T* x, T* grad_x, std::int64_t voxels, std::int64_t channels,
                  Affine affine, const float* slope);
};

}  // namespace recycleseg
