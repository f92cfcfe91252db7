// From a label map to the bits of one structure and of its surface.
#pragma once

#include "surface/bit_grid.hpp"
#include "surface/structure_counts.hpp"

namespace recycleseg {

// Rows [y, end) of slice z.
struct Rows {
  std::int64_t z, y, end;
};

// Sets rows of `mask`, whose voxels are those of the box.
void extract_mask_rows(const TensorView& labels, const VolumeShape& shape,
                       const SurfaceQuery& query, std::int64_t sample, std::int64_t structure,
                       const Box& box, const Rows& rows, BitGrid& mask);

// Sides of a box, low and high along z, y, x, beyond which voxels count as inside.
struct OpenSides {
  bool low[3], high[3];
};

// Sets rows of `surface`: the voxels of the mask that have a face neighbour outside. An image
// (`flat`) has no neighbours along z.
void extract_border_rows(const BitGrid& mask, bool flat, const OpenSides& open, const Rows& rows,
                         BitGrid& surface);

// Sets rows of `surface`: the corners of voxels, one more along each axis but the z of a 2D
// image, around which some voxels are inside and some outside. Corner i lies before voxel i.
void extract_surfel_rows(const BitGrid& mask, bool flat, const Rows& rows, BitGrid& surface);

// Sets rows of `turned`, whose rows lie along y and follow each other along x.
void turn_rows(const BitGrid& grid, const Rows& rows, BitGrid& turned);

// Which of the voxels around a corner are inside: bit 4 dz + 2 dy + dx for the voxel at
// (z - 1 + dz, y - 1 + dy, x - 1 + dx); in a 2D image bit 2 dy + dx.
std::uint32_t neighbour_code(const BitGrid& mask, bool flat, std::int64_t z, std::int64_t y,
                             std::int64_t x);

}  // namespace recycleseg
