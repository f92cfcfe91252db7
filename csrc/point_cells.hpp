// The points of a bit grid in cells of 4 x 4 x 4 voxels, for the search of far points.
#pragma once

#include <vector>

#include "bit_grid.hpp"
#include "surface_distances_simd.hpp"

namespace recycleseg {

class PointCells {
 public:
  // Takes one bit a voxel while it builds, and 20 bytes for each cell that holds a point.
  explicit PointCells(const BitGrid& points) {
    constexpr std::int64_t kCellsAlong = kBlockSize / kCellSize;
    constexpr std::int64_t kCellsInBlock = kCellsAlong * kCellsAlong * kCellsAlong;
    const auto blocks = [](std::int64_t size) { return (size + kBlockSize - 1) / kBlockSize; };
    const std::int64_t rows_of_blocks = blocks(points.depth) * blocks(points.height);
    std::vector<std::uint64_t> cells(kCellsInBlock * blocks(points.width));
    for (std::int64_t row = 0; row < rows_of_blocks; ++row) {
      const auto z = static_cast<std::int32_t>(row / blocks(points.height) * kBlockSize);
      const auto y = static_cast<std::int32_t>(row % blocks(points.height) * kBlockSize);
      cells.assign(cells.size(), 0);
      gather(points, z, y, cells);
      for (std::int64_t block = 0; block < blocks(points.width); ++block)
        append(cells.data() + block * kCellsInBlock, z, y,
               static_cast<std::int32_t>(block * kBlockSize));
    }
    first_cell_.push_back(points_.size());
    for (auto* corners : {block_corner_, cell_corner_})
      for (int axis = 0; axis < 3; ++axis)  // vectors of corners are read past the end
        corners[axis].resize(corners[axis].size() + 16);
  }

  FarSearch view() const {
    FarSearch search{static_cast<std::int64_t>(first_cell_.size()) - 1, {}, first_cell_.data(), {},
                     points_.data()};
    for (int axis = 0; axis < 3; ++axis) {
      search.block_corner[axis] = block_corner_[axis].data();
      search.cell_corner[axis] = cell_corner_[axis].data();
    }
    return search;
  }

 private:
  // Sets the points of the row of blocks at (z, y); the cells of a block follow each other.
  static void gather(const BitGrid& points, std::int64_t z0, std::int64_t y0,
                     std::vector<std::uint64_t>& cells) {
    for (std::int64_t z = z0; z < std::min(z0 + kBlockSize, points.depth); ++z)
      for (std::int64_t y = y0; y < std::min(y0 + kBlockSize, points.height); ++y) {
        const std::uint64_t* row = points.row(z, y);
        const std::int64_t in_block = (z % kBlockSize / 4 * 8 + y % kBlockSize / 4) * 8;
        const std::int64_t shift = z % 4 * 16 + y % 4 * 4;
        for (std::int64_t word = 0; word < points.words; ++word)
          for (std::uint64_t bits = row[word]; bits != 0;) {
            const std::int64_t four = __builtin_ctzll(bits) / 4;
            const std::int64_t cell = 16 * word + four;
            cells[cell / 8 * 512 + in_block + cell % 8] |= (bits >> 4 * four & 15) << shift;
            bits &= ~(std::uint64_t{15} << 4 * four);
          }
      }
  }

  void append(const std::uint64_t* cells, std::int32_t z, std::int32_t y, std::int32_t x) {
    const std::size_t first = points_.size();
    for (std::int32_t i = 0; i < 512; ++i)
      if (cells[i] != 0) {
        push(cell_corner_, z + i / 64 * 4, y + i / 8 % 8 * 4, x + i % 8 * 4);
        points_.push_back(cells[i]);
      }
    if (points_.size() == first) return;
    push(block_corner_, z, y, x);
    first_cell_.push_back(first);
  }

  static void push(std::vector<std::int32_t> corner[3], std::int32_t z, std::int32_t y,
                   std::int32_t x) {
    corner[0].push_back(z), corner[1].push_back(y), corner[2].push_back(x);
  }

  std::vector<std::int32_t> block_corner_[3], cell_corner_[3];
  std::vector<std::int64_t> first_cell_;
  std::vector<std::uint64_t> points_;
};

}  // namespace recycleseg
