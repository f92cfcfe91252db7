#include "surface/distance_counts.hpp"

#include <limits>

namespace recycleseg {
namespace {

using Entries = std::vector<DistanceCounts::Entry>;

constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

void sizes_within(const Entries& distances, const std::vector<double>& areas,
                  const SurfaceQuery& query, double* sizes) {
  for (const double tolerance : query.tolerances) {
    double size = 0;
    for (const auto& entry : distances)
      if (std::sqrt(entry.squared) <= tolerance * (1 + kRoundingSlack))
        size += areas[entry.kind] * entry.count;
    *sizes++ = size;
  }
}

void size_mean_and_max(const Entries& distances, const std::vector<double>& areas, double* row) {
  double size = 0, sum = 0;
  for (const auto& entry : distances) {
    size += areas[entry.kind] * entry.count;
    sum += areas[entry.kind] * entry.count * std::sqrt(entry.squared);
  }
  row[kSurfaceSize] = size;
  row[kMeanDistance] = sum / size;  // NaN where there is no surface
  row[kMaxDistance] = distances.empty() ? kNan : std::sqrt(distances.back().squared);
}

}  // namespace

double percentile(const Entries& distances, double percent) {
  if (distances.empty()) return kNan;
  std::int64_t size = 0;
  for (const auto& entry : distances) size += entry.count;
  const double rank = percent / 100 * (size - 1);
  const auto below = static_cast<std::int64_t>(rank);
  std::int64_t passed = 0;
  for (std::size_t i = 0; i < distances.size(); ++i) {
    passed += distances[i].count;
    if (passed <= below) continue;
    const double low = std::sqrt(distances[i].squared);
    if (passed > below + 1 || i + 1 == distances.size()) return low;
    return low + (std::sqrt(distances[i + 1].squared) - low) * (rank - below);
  }
  return std::sqrt(distances.back().squared);
}

void summarize_voxels(const Entries& distances, const SurfaceQuery& query, double* row) {
  const std::vector<double> ones(1, 1.0);
  size_mean_and_max(distances, ones, row);
  double* next = row + kSurfaceColumns;
  for (const double percent : query.percentiles) *next++ = percentile(distances, percent);
  sizes_within(distances, ones, query, next);
}

void summarize_surfels(const Entries& distances, const std::vector<double>& areas,
                       const SurfaceQuery& query, double* row) {
  size_mean_and_max(distances, areas, row);
  double* next = row + kSurfaceColumns;
  for (const double percent : query.percentiles) {
    const double share = percent / 100;
    // Relative errors of the areas within and beyond shift a share by this factor of them.
    const double reached = share * (1 - kRoundingSlack * (1 - share));
    double passed = 0;
    *next = row[kMaxDistance];
    for (const auto& entry : distances) {
      passed += areas[entry.kind] * entry.count;
      if (passed / row[kSurfaceSize] < reached) continue;
      *next = std::sqrt(entry.squared);
      break;
    }
    ++next;
  }
  sizes_within(distances, areas, query, next);
}

}  // namespace recycleseg
