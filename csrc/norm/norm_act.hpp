// Instance normalisation with an affine per sample and channel, a residual and GELU.
//
//   z = (x - mean) * rstd * weight + bias + residual,    y = gelu(z) or z,
//
// mean and rstd = 1 / sqrt(variance + eps) over the voxels of a sample's channel. The backward pass
// recomputes z from x, so that nothing of the size of x is stored for it.
#pragma once

#include <cstdint>

#include "common/tensor_view.hpp"

namespace recycleseg {

// Voxel arrays are (B, *S, C), contiguous, float32 or bfloat16, all of one type; the others
// float32.
struct NormActArguments {
  TensorView x;
  TensorView weight;           // (B, C)
  TensorView bias;             // (B, C)
  const TensorView* residual;  // like x, or null
  bool activation;
};

// Writes y, like x, and moments (2, B, C): mean, rstd.
void norm_act_forward_cpu(const NormActArguments& in, const TensorView& y,
                          const TensorView& moments, float eps, std::int64_t num_threads);

// From grad_y and the moments writes grad_x, with a residual also grad_residual, and
// grad_affine (2, B, C): of weight, of bias.
void norm_act_backward_cpu(const NormActArguments& in, const TensorView& grad_y,
                           const TensorView& moments, const TensorView& grad_x,
                           const TensorView* grad_residual, const TensorView& grad_affine,
                           std::int64_t num_threads);

}  // namespace recycleseg
