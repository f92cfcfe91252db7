// Inner loops of dropout. dropout_simd.cpp is compiled once per instruction set.
#pragma once

#include <cstdint>

#include "common/bfloat16.hpp"

namespace recycleseg {

struct DropoutKey {
  std::uint64_t seed;
  std::uint32_t threshold;  // an element is dropped where its 16 random bits are below
  float scale;              // of those that are kept
};

// Elements whose random bits are drawn together; a run of elements starts at a multiple of it.
constexpr std::int64_t kDropoutGroup = 32;

struct DropoutLoops {
  // y = dropout(x) for `count` elements, the first of which is element `first` of its row.
  void (*of_floats)(const float* x, float* y, std::int64_t first, std::int64_t count,
                    const DropoutKey& key);
  void (*of_bfloat16)(const BFloat16* x, BFloat16* y, std::int64_t first, std::int64_t count,
                      const DropoutKey& key);
};

}  // namespace recycleseg
