// Metrics of structures, from their voxels' counts and from the distances between their surfaces.
#pragma once

#include <vector>

#include "common/tensor_view.hpp"

namespace recycleseg {

// Rows of a table, each with one number for every structure. A structure that neither map has gives
// NaN; one that only one of them has 0, and an infinite distance.
enum OverlapRow { kDice, kIou, kPrecision, kRecall, kPredSize, kRefSize, kCentroids, kOverlapRows };
enum SurfaceRow { kHd, kHdPercentile, kAssd, kMasd, kPredToRef, kRefToPred, kSurfaceRows };

// counts: int64 (..., 3), voxels in both maps, in pred, in ref. sums: int64 (..., 2, D), of their
// indices in pred and in ref. spacing: D lengths in mm. Fills table, float64 (kOverlapRows, ...);
// sizes are in ml, for D = 2 in mm^2.
void overlap_metrics_cpu(const TensorView& counts, const TensorView& sums,
                         const std::vector<double>& spacing, const TensorView& table);

// directed: float64 (..., 2, 4 + K) of surface_distances_cpu with one percentile. pooled: float64
// (..., 1), or null. Fills table, float64 (kSurfaceRows + K, ...), one more after kRefToPred where
// pooled is given; the last K are surface Dice at each tolerance.
void surface_metrics_cpu(const TensorView& directed, const TensorView* pooled,
                         const TensorView& table);

}  // namespace recycleseg
