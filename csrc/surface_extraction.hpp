// From a label map to the bits of one structure and of its surface.
#pragma once

#include "bit_grid.hpp"
#include "structure_counts.hpp"

namespace recycleseg {

// Sets row (z, y) of `mask`, whose voxels are those of the box.
void extract_mask_row(const TensorView& labels, const VolumeShape& shape, const SurfaceQuery& query,
                      std::int64_t sample, std::int64_t structure, const Box& box, std::int64_t z,
                      std::int64_t y, BitGrid& mask);

// Sides of a box, low and high along z, y, x, beyond which voxels count as inside.
struct OpenSides {
  bool low[3], high[3];
};

// Sets row (z, y) of `surface`: the voxels of the mask that have a face neighbour outside.
void extract_border_row(const BitGrid& mask, const OpenSides& open, std::int64_t z, std::int64_t y,
                        BitGrid& surface);

// Sets row (z, y) of `surface`: the corners of voxels, one more along each axis but the z of a 2D
// image, around which some voxels are inside and some outside. Corner i lies before voxel i.
void extract_surfel_row(const BitGrid& mask, bool flat, std::int64_t z, std::int64_t y,
                        BitGrid& surface);

// Which of the voxels around a corner are inside: bit 4 dz + 2 dy + dx for the voxel at
// (z - 1 + dz, y - 1 + dy, x - 1 + dx); in a 2D image bit 2 dy + dx.
std::uint32_t neighbour_code(const BitGrid& mask, bool flat, std::int64_t z, std::int64_t y,
                             std::int64_t x);

}  // namespace recycleseg
