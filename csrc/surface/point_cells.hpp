// The points of a bit grid in cells of 4 x 4 x 4 voxels and cubes of them, for the far search.
#pragma once

#include <algorithm>
#include <vector>

#include "surface/bit_grid.hpp"
#include "surface/surface_distances_simd.hpp"

namespace recycleseg {

class PointCells {
 public:
  // Memory: about 25 bytes for each cell that holds a point. While it is built, also half a byte
  // for each voxel in one row of the largest cubes.
  explicit PointCells(const BitGrid& points) {
    const std::int64_t num_cubes = cubes_along(points.width);
    std::vector<std::uint64_t> cells(num_cubes * kCellsInCube);
    for (std::int64_t z = 0; z < points.depth; z += kCube)
      for (std::int64_t y = 0; y < points.height; y += kCube) {
        std::fill(cells.begin(), cells.end(), 0);
        gather(points, z, y, cells);
        for (std::int64_t cube = 0; cube < num_cubes; ++cube)
          append<kLevels - 1>(cells.data() + cube * kCellsInCube, static_cast<std::int32_t>(z),
                              static_cast<std::int32_t>(y),
                              static_cast<std::int32_t>(cube * kCube));
      }
    for (int level = 0; level < kLevels; ++level) {
      if (level > 0) levels_[level].first_child.push_back(levels_[level - 1].corner[0].size());
      counts_[level] = levels_[level].corner[0].size();
    }
    for (Cubes& cubes : levels_)
      for (auto& corner : cubes.corner) corner.resize(corner.size() + 16);
  }

  FarSearch view() const {
    FarSearch search{{}, points_.data()};
    for (int level = 0; level < kLevels; ++level) {
      const Cubes& cubes = levels_[level];
      search.levels[level] = {
          counts_[level],
          {cubes.corner[0].data(), cubes.corner[1].data(), cubes.corner[2].data()},
          cubes.first_child.data()};
    }
    return search;
  }

 private:
  static constexpr std::int64_t kCube = kCubeSize[kLevels - 1];
  static constexpr std::int64_t kCellsInCube = 16 * 16 * 16;
  static_assert(kCube == 64, "a word of bits is a cube wide");

  static std::int64_t cubes_along(std::int64_t size) { return (size + kCube - 1) / kCube; }

  // Where cell (z, y, x) of a cube stands among its cells: those of a smaller cube follow each
  // other.
  static std::int64_t place(std::int64_t z, std::int64_t y, std::int64_t x) {
    return ((z / 4 * 4 + y / 4) * 4 + x / 4) * 64 + (z % 4 * 4 + y % 4) * 4 + x % 4;
  }

  // Sets the points of the row of cubes at (z0, y0).
  static void gather(const BitGrid& points, std::int64_t z0, std::int64_t y0,
                     std::vector<std::uint64_t>& cells) {
    for (std::int64_t z = z0; z < std::min(z0 + kCube, points.depth); ++z)
      for (std::int64_t y = y0; y < std::min(y0 + kCube, points.height); ++y) {
        const std::uint64_t* row = points.row(z, y);
        const std::int64_t shift = z % 4 * 16 + y % 4 * 4;
        for (std::int64_t word = 0; word < points.words; ++word)
          for (std::uint64_t bits = row[word]; bits != 0;) {
            const std::int64_t x = __builtin_ctzll(bits) / 4;
            cells[word * kCellsInCube + place((z - z0) / 4, (y - y0) / 4, x)] |=
                (bits >> 4 * x & 15) << shift;
            bits &= ~(std::uint64_t{15} << 4 * x);
          }
      }
  }

  // Adds the cube at (z, y, x) and what is in it, if there is anything.
  template <int kLevel>
  void append(const std::uint64_t* cells, std::int32_t z, std::int32_t y, std::int32_t x) {
    constexpr std::int64_t kCells = kLevel == 0 ? 1 : kLevel == 1 ? 64 : kCellsInCube;
    if (std::all_of(cells, cells + kCells, [](std::uint64_t cell) { return cell == 0; })) return;
    Cubes& cubes = levels_[kLevel];
    cubes.corner[0].push_back(z), cubes.corner[1].push_back(y), cubes.corner[2].push_back(x);
    if constexpr (kLevel == 0) {
      points_.push_back(*cells);
    } else {
      constexpr std::int32_t kSize = kCubeSize[kLevel - 1];
      cubes.first_child.push_back(levels_[kLevel - 1].corner[0].size());
      for (std::int32_t i = 0; i < 64; ++i)
        append<kLevel - 1>(cells + i * (kCells / 64), z + i / 16 * kSize, y + i / 4 % 4 * kSize,
                           x + i % 4 * kSize);
    }
  }

  struct Cubes {
    std::vector<std::int32_t> corner[3];
    std::vector<std::int64_t> first_child;
  };
  Cubes levels_[kLevels];
  std::int64_t counts_[kLevels];
  std::vector<std::uint64_t> points_;
};

}  // namespace recycleseg
