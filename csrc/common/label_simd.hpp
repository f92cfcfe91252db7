// Inner loops over label maps, which compare many labels by one instruction. label_simd.cpp is
// compiled once per instruction set.
#pragma once

#include <cstdint>

namespace recycleseg {

template <class T>
struct LabelLoops {
  // Sets bit i of `bits` where labels[i] is `value`, for i < count. Labels behind these may be
  // read, up to the end of the whole map, `end`.
  void (*equal)(const T* labels, std::int64_t count, const T* end, T value, std::uint64_t* bits);
  // Sets bit i of `bits` where labels[i + 1] differs from labels[i], for i + 1 < count.
  void (*run_ends)(const T* labels, std::int64_t count, std::uint64_t* bits);
};

struct AllLabelLoops {
  LabelLoops<std::uint8_t> of_uint8;
  LabelLoops<std::int16_t> of_int16;
  LabelLoops<std::int32_t> of_int32;
  LabelLoops<std::int64_t> of_int64;
};

}  // namespace recycleseg
