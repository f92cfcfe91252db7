// Instance normalisation (D. Ulyanov, A. Vedaldi and V. Lempitsky, arXiv 1607.08022, 2016) with an
// affine per sample and channel, a residual and GELU (D. Hendrycks and K. Gimpel, arXiv 1606.08415,
// 2016).
//
//   z = (x - mean) * rstd * weight + bias + residual,    y = gelu(z) or z,
//
// mean and rstd = 1 / sqrt(variance + eps) over the voxels of a sample's channel.
//
// Idea: chunks of voxels that fit a core's cache are read by all threads. Each gives its own mean
// and sum of squares, and these are merged in a fixed order, so that the result does not depend on
// the number of threads. The backward pass recomputes z from x, so that nothing of the size of x is
// stored for it.
//
// Time: x is read twice and y written once. Memory: two floats for each chunk and channel.
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
