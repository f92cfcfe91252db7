// Surfaces of the structures in two label maps, and the distances from each to the other.
//
// Idea: a structure is a set of bits within its box, so that one instruction handles 64 voxels when
// the surface is found. From each point of one surface an exact search finds the nearest point of
// the other. It first looks through the rows of bits around the point, the nearest rows first
// (near_rows). If the nearest point is far, it descends a tree of cubes of 64, 16 and 4 voxels a
// side (point_cells). It opens only cubes whose lower bound is below the best distance so far
// (branch and bound, as K. Fukunaga and P. M. Narendra, IEEE Transactions on Computers C-24, 1975).
// The first guess is the point that was nearest to the neighbouring voxel. On a grid there are few
// different distances. So each is counted (distance_counts), and all results follow from the
// counts. structure_distances holds all of this for one structure. Surface elements between
// voxels are those of marching cubes (W. E. Lorensen and H. E. Cline, Computer Graphics 21, 1987).
//
// Time: one reading of the maps, then a few rows for each surface point where the surfaces are
// close, and a few cubes where they are not. Memory: see surface_distances_cpu.
#pragma once

#include <cstdint>
#include <vector>

#include "common/tensor_view.hpp"

namespace recycleseg {

// What is asked for. Lengths are in mm, axes in the order of the arrays.
struct SurfaceQuery {
  // Per structure the labels whose union it is; nothing where the arguments are masks.
  std::vector<std::vector<std::int64_t>> labels;
  bool masks;
  std::vector<double> spacing;
  std::vector<double> tolerances;
  std::vector<double> percentiles;
  // Where the surface is made of elements between voxels, weighted by area: the area of each code
  // of neighbour_code(), in mm^2 (2D: length, in mm). Empty where it is made of voxels.
  std::vector<double> areas;
  bool border_is_outside;  // whether voxels beyond the volume's border count as outside
};

// Columns of `directed` before the percentiles and the sizes within each tolerance.
enum SurfaceColumn { kSurfaceSize, kMeanDistance, kMaxDistance, kSurfaceColumns };

// What rounding may add to a length, as a share of it: files hold voxel sizes as float32, callers
// give tolerances as such (6e-8 each), and distance_transform gives distances so (2e-7). A distance
// that equals the tolerance but for this is within it; an area that is the share of a percentile
// but for this reaches it.
constexpr double kRoundingSlack = 1e-6;

// What surface_distances_cpu also counts of the structures, all int64.
struct CountViews {
  const TensorView& counts;    // (B, C, 3): voxels in both maps, in pred, in ref
  const TensorView& sums;      // (B, C, 2, axes of S): of the voxels' indices, in pred, in ref
  const TensorView& unlisted;  // (2): voxels of pred and of ref with a label that is neither 0 nor
                               // listed. Where there is one, no distances are measured.
};

// pred, ref: (B, *S) contiguous label maps, or (B, C, *S) masks, S of 2 or 3 axes. Fills directed
// (B, C, 2, 3 + P + K) and pooled (B, C, P), float64. Takes, per structure that is at work, 32 KiB
// and half a byte a voxel of its box, three quarters where voxels are longer along x than along y,
// some 50 bytes for each distinct distance and, where distances are long, some 25 for each cell of
// 4 x 4 x 4 voxels with surface. `counts` may be null.
void surface_distances_cpu(const TensorView& pred, const TensorView& ref, const SurfaceQuery& query,
                           const TensorView& directed, const TensorView& pooled,
                           std::int64_t num_threads, const CountViews* counts);

}  // namespace recycleseg
