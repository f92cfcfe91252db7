// Dropout (N. Srivastava and others, Journal of Machine Learning Research 15, 2014):
// y = keep ? x / (1 - rate) : 0.
//
// Idea: which elements are kept is a function of the seed and of an element's place in memory. So
// random bits need no order, many are drawn by one instruction, and the backward pass needs the
// seed alone.
//
// Time: x is read once and y written once. Memory: none.
#pragma once

#include <cstdint>

#include "common/tensor_view.hpp"

namespace recycleseg {

// x and y: contiguous, of one shape; both float32 or both bfloat16; y may be x.
// rate: in [0, 1), rounded to a multiple of 2^-16.
// rows: equal parts of x, each with random bits of its own; the first of them is row `first_row` of
// a batch of which other processes may have the rest.
void dropout_cpu(const TensorView& x, const TensorView& y, double rate, std::uint64_t seed,
                 std::int64_t rows, std::int64_t first_row, std::int64_t num_threads);

}  // namespace recycleseg
