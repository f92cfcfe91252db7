// The type of bfloat16 elements.
#pragma once

#include <cstdint>

namespace recycleseg {

// A bfloat16 value as it lies in memory.
struct BFloat16 {
  std::uint16_t bits;
};

}  // namespace recycleseg
