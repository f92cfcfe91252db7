#include "structure_metrics.hpp"

#include <cmath>
#include <cstdint>
#include <limits>

#include "surface/surface_distances.hpp"

namespace recycleseg {
namespace {

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();
constexpr double kInfinity = std::numeric_limits<double>::infinity();

double ratio(double part, double whole) { return whole == 0 ? kNan : part / whole; }

// A table of numbers, a row for each metric and a column for each structure.
struct Table {
  double* values;
  std::int64_t structures;
  double& operator()(std::int64_t row, std::int64_t structure) const {
    return values[row * structures + structure];
  }
};

void check(const TensorView& view, DType dtype, std::int64_t size, const char* expected) {
  require_contiguous(view, dlpack::kCpu);
  require(view.dtype == dtype && view.size() == size, view, expected);
}

double centroid_distance(const std::int64_t* sizes, const std::int64_t* sums,
                         const std::vector<double>& spacing) {
  if (sizes[0] == 0 && sizes[1] == 0) return kNan;
  if (sizes[0] == 0 || sizes[1] == 0) return kInfinity;
  const std::size_t axes = spacing.size();
  double squared = 0;
  for (std::size_t axis = 0; axis < axes; ++axis) {
    const double pred = sums[axis] / static_cast<double>(sizes[0]);
    const double ref = sums[axes + axis] / static_cast<double>(sizes[1]);
    const double step = (pred - ref) * spacing[axis];
    squared += step * step;
  }
  return std::sqrt(squared);
}

}  // namespace

void overlap_metrics_cpu(const TensorView& counts, const TensorView& sums,
                         const std::vector<double>& spacing, const TensorView& table) {
  const std::int64_t structures = counts.size() / 3, axes = spacing.size();
  check(counts, DType::int64, 3 * structures, "int64 of shape (..., 3)");
  check(sums, DType::int64, 2 * axes * structures, "int64 of shape (..., 2, axes of spacing)");
  check(table, DType::float64, kOverlapRows * structures, "float64 of shape (7, ...)");
  double unit = axes == 3 ? 1e-3 : 1.0;
  for (const double length : spacing) unit *= length;

  const Table row{static_cast<double*>(table.data), structures};
  const auto* count = static_cast<const std::int64_t*>(counts.data);
  const auto* sum = static_cast<const std::int64_t*>(sums.data);
  for (std::int64_t s = 0; s < structures; ++s, count += 3, sum += 2 * axes) {
    const std::int64_t both = count[0], pred = count[1], ref = count[2];
    row(kDice, s) = ratio(2 * both, pred + ref);
    row(kIou, s) = ratio(both, pred + ref - both);
    row(kPrecision, s) = ratio(both, pred == 0 ? ref : pred);
    row(kRecall, s) = ratio(both, ref == 0 ? pred : ref);
    row(kPredSize, s) = pred * unit;
    row(kRefSize, s) = ref * unit;
    row(kCentroids, s) = centroid_distance(count + 1, sum, spacing);
  }
}

void surface_metrics_cpu(const TensorView& directed, const TensorView* pooled,
                         const TensorView& table) {
  require(!directed.shape.empty() && directed.shape.back() > kSurfaceColumns, directed,
          "shape (..., 2, 4 + K)");
  const std::int64_t columns = directed.shape.back();
  const std::int64_t structures = directed.size() / (2 * columns);
  const std::int64_t tolerances = columns - kSurfaceColumns - 1;
  const std::int64_t rows = kSurfaceRows + (pooled != nullptr) + tolerances;
  check(directed, DType::float64, 2 * columns * structures, "float64 of shape (..., 2, 4 + K)");
  if (pooled != nullptr) check(*pooled, DType::float64, structures, "float64 of shape (..., 1)");
  check(table, DType::float64, rows * structures, "float64 of shape (rows, ...)");

  const Table row{static_cast<double*>(table.data), structures};
  const auto* pred = static_cast<const double*>(directed.data);
  for (std::int64_t s = 0; s < structures; ++s, pred += 2 * columns) {
    const double* const ref = pred + columns;
    const auto sum_of_mean = [](const double* side) {
      return side[kSurfaceSize] == 0 ? 0 : side[kSurfaceSize] * side[kMeanDistance];
    };
    const auto mean = [](const double* side, const double* other) {
      return std::isnan(side[kMeanDistance]) ? other[kMeanDistance] : side[kMeanDistance];
    };
    const double size = pred[kSurfaceSize] + ref[kSurfaceSize];
    row(kHd, s) = std::fmax(pred[kMaxDistance], ref[kMaxDistance]);
    row(kHdPercentile, s) = std::fmax(pred[kSurfaceColumns], ref[kSurfaceColumns]);
    row(kAssd, s) = ratio(sum_of_mean(pred) + sum_of_mean(ref), size);
    row(kPredToRef, s) = mean(pred, ref);
    row(kRefToPred, s) = mean(ref, pred);
    row(kMasd, s) = 0.5 * (mean(pred, ref) + mean(ref, pred));
    std::int64_t next = kSurfaceRows;
    if (pooled != nullptr) row(next++, s) = static_cast<const double*>(pooled->data)[s];
    for (std::int64_t column = columns - tolerances; column < columns; ++column)
      row(next++, s) = ratio(pred[column] + ref[column], size);
  }
}

}  // namespace recycleseg
