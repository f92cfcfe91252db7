// Area of the surface that marching cubes puts between the voxels of each 2x2x2 neighbourhood.
#pragma once

#include <array>
#include <cmath>
#include <stdexcept>
#include <string>
#include <vector>

namespace recycleseg {

// Bit i of a neighbourhood's code says whether voxel i is inside, counted in C order: voxel
// (x, y, z) is bit 4x + 2y + z. A set of the cube's corners is such a code too.
constexpr int kAxisBit[3] = {4, 2, 1};

using AreaVector = std::array<double, 3>;

// How many of the neighbours of this corner are in `part`; `axis` becomes that of the last one.
inline int neighbours_within(int part, int corner, int& axis) {
  int count = 0;
  for (int a = 0; a < 3; ++a)
    if (part >> (corner ^ kAxisBit[a]) & 1) {
      axis = a;
      ++count;
    }
  return count;
}

// The corners of `corners` that edges of the cube connect to its lowest one.
inline int connected_part(int corners) {
  int part = corners & -corners;
  for (int before = 0; before != part;) {
    before = part;
    for (int corner = 0, axis; corner < 8; ++corner)
      if ((corners >> corner & 1) && neighbours_within(before, corner, axis) > 0)
        part |= 1 << corner;
  }
  return part;
}

// Calls add(v) for the area vector v, up to signs and in a unit cube, of each flat piece of the
// surface that cuts one to four connected corners off. Where these do not lie in one plane, the
// pieces are those of DeepMind's surface-distance.
template <class Add>
void cut_off(int part, const Add& add) {
  int size = 0, crossed = 0;
  std::vector<int> ends;  // axes of the edges to corners with one neighbour
  for (int corner = 0; corner < 8; ++corner) {
    if (!(part >> corner & 1)) continue;
    ++size;
    int axis = 0;
    if (neighbours_within(part, corner, axis) == 1) ends.push_back(axis);
    for (int a = 0; a < 3; ++a)
      if (part >> (corner ^ kAxisBit[a]) & 1) crossed |= 1 << a;
  }
  const auto along = [](int axis, double other, double own) {
    AreaVector v = {other, other, other};
    v[axis] = own;
    return v;
  };
  const int normal = crossed == 6 ? 0 : crossed == 5 ? 1 : 2;  // of corners in one plane
  if (size == 1) {
    add({0.125, 0.125, 0.125});
  } else if (size == 2) {
    add(along(ends[0], 0.5, 0));
  } else if (size == 3) {
    add(along(normal, 0, 0.5));
    add({0.375, 0.375, 0.375});
  } else if (ends.empty()) {
    add(along(normal, 0, 1));
  } else if (ends.size() == 3) {
    add({0.75, 0.75, 0.75});
  } else {
    add({0.5, 0.5, 0.5});
    for (const int axis : ends) add(along(axis, 0.25, 0));
  }
}

// By code the area of the surface element: in 3D 256 areas in mm^2, in 2D, where voxel (x, y) is
// bit 2x + y, 16 lengths in mm. spacing: mm along each of the `ndim` axes.
inline std::vector<double> surfel_areas(const double* spacing, int ndim) {
  if (ndim != 2 && ndim != 3)
    throw std::invalid_argument("spacing: expected 2 or 3 numbers, got " + std::to_string(ndim));
  const double x = spacing[0], y = spacing[1], z = ndim == 3 ? spacing[2] : 1;
  std::vector<double> areas(256);
  for (int code = 0; code < 256; ++code) {
    int inside = 0;
    for (int corner = 0; corner < 8; ++corner) inside += code >> corner & 1;
    for (int rest = inside <= 4 ? code : 255 - code; rest != 0;) {
      const int part = connected_part(rest);
      rest &= ~part;
      cut_off(part, [&](const AreaVector& v) {
        areas[code] += std::sqrt(std::pow(v[0] * y * z, 2) + std::pow(v[1] * x * z, 2) +
                                 std::pow(v[2] * x * y, 2));
      });
    }
  }
  if (ndim == 3) return areas;
  std::vector<double> lengths(16);  // a contour is the cross-section of its extrusion by 1 mm
  for (int code = 0; code < 16; ++code) {
    int extruded = 0;
    for (int i = 0; i < 4; ++i)
      if (code >> i & 1) extruded |= 3 << 2 * i;
    lengths[code] = areas[extruded];
  }
  return lengths;
}

}  // namespace recycleseg
