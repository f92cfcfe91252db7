// A set of voxels in a box, one bit each, so that 64 neighbours are handled by one instruction.
#pragma once

#include <cstdint>
#include <vector>

namespace recycleseg {

// Bit x of row (z, y) lies in word x / 64 of row(z, y). Zero bits surround the box: at least 64
// before and behind each row, and `halo` rows around it, so that a search may look beyond the box.
class BitGrid {
 public:
  BitGrid() = default;
  BitGrid(std::int64_t depth, std::int64_t height, std::int64_t width, std::int64_t halo_z,
          std::int64_t halo_y)
      : depth(depth),
        height(height),
        width(width),
        words((width + 63) / 64),
        stride(words + 1),
        stride_z((height + 2 * halo_y) * stride),
        origin_(halo_z * stride_z + halo_y * stride + 1),
        bits_((depth + 2 * halo_z) * stride_z + 1) {}

  std::uint64_t* row(std::int64_t z, std::int64_t y) {
    return bits_.data() + origin_ + z * stride_z + y * stride;
  }
  const std::uint64_t* row(std::int64_t z, std::int64_t y) const {
    return bits_.data() + origin_ + z * stride_z + y * stride;
  }

  std::int64_t depth = 0, height = 0, width = 0;
  std::int64_t words = 0;                 // that hold the bits of a row
  std::int64_t stride = 0, stride_z = 0;  // words from a row to the next in y, in z

 private:
  std::int64_t origin_ = 0;
  std::vector<std::uint64_t> bits_;
};

}  // namespace recycleseg
