// Inner loops of exact distance transforms. distance_transform_simd.cpp is compiled once per
// instruction set. Distances are squared, infinity where there is none yet.
#pragma once

#include <cstdint>

namespace recycleseg {

// Neighbouring lines that are transformed together, interleaved.
constexpr std::int64_t kDistanceLanes = 16;

// Elements of the scratch that lines of this length take. It need not be initialised, and is read
// faster if it is aligned to 64 bytes.
constexpr std::int64_t distance_scratch_size(std::int64_t length) {
  return (kDistanceLanes + 4) * length + 1;
}

constexpr std::int64_t kRowPadding = 16;

struct DistanceLoops {
  // values[i * stride + column] =
  //     min over j of values[j * stride + column] + ((i - j) * spacing)^2,
  // in place, for i and j in [0, length), 0 < length < 2^30, and the first `columns` columns, up to
  // kDistanceLanes; with `root`, the square root of it. Time O(length) for any values. scratch:
  // distance_scratch_size(length) and kDistanceLanes * length elements more.
  void (*columns)(float* values, std::int64_t length, std::int64_t stride, std::int64_t columns,
                  double spacing, bool root, float* scratch);

  // Squared distance of each voxel of a row to the row's nearest zero. 0 < length < 2^30. inside: 0
  // or 1 each, padded with ones to a multiple of kRowPadding; steps: scratch of as many elements.
  void (*row)(const std::uint8_t* inside, std::int64_t length, double spacing, float* squared,
              std::int32_t* steps);
};

}  // namespace recycleseg
