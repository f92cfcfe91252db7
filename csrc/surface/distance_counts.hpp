// How often each distance occurs, from which every summary follows. Distances on a grid are few
// distinct values, so this takes less memory than the distances themselves and needs no selection.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "surface/surface_distances.hpp"

namespace recycleseg {

class DistanceCounts {
 public:
  struct Entry {
    double squared;            // mm^2
    std::uint64_t kind : 8;    // of surface element: index of its area
    std::uint64_t count : 56;  // 0: an empty slot
  };

  void add(double squared, std::uint32_t kind, std::int64_t count) {
    if (2 * (used_ + 1) > slots_.size()) grow();
    Entry& entry = find(squared, kind);
    if (entry.count == 0) {
      entry.squared = squared, entry.kind = kind;
      ++used_;
    }
    entry.count += count;
  }

  void add(const DistanceCounts& other) {
    for (const Entry& entry : other.slots_)
      if (entry.count != 0) add(entry.squared, entry.kind, entry.count);
  }

  // By distance, so that sums have one order however threads shared the work.
  std::vector<Entry> sorted() const {
    std::vector<Entry> entries;
    entries.reserve(used_);
    for (const Entry& entry : slots_)
      if (entry.count != 0) entries.push_back(entry);
    std::sort(entries.begin(), entries.end(), [](const Entry& a, const Entry& b) {
      return a.squared != b.squared ? a.squared < b.squared : a.kind < b.kind;
    });
    return entries;
  }

 private:
  Entry& find(double squared, std::uint32_t kind) {
    std::uint64_t bits;
    std::memcpy(&bits, &squared, sizeof(bits));
    const std::uint64_t hash = (bits + kind) * 0x9e3779b97f4a7c15u;
    for (std::size_t i = hash >> 32;; ++i) {
      Entry& entry = slots_[i & (slots_.size() - 1)];
      if (entry.count == 0 || (entry.squared == squared && entry.kind == kind)) return entry;
    }
  }

  void grow() {
    std::vector<Entry> old(std::max<std::size_t>(512, 2 * slots_.size()));
    old.swap(slots_);
    for (const Entry& entry : old)
      if (entry.count != 0) find(entry.squared, entry.kind) = entry;
  }

  std::vector<Entry> slots_;  // a power of two of them, at most half of them used
  std::size_t used_ = 0;
};

// Size, mean, maximum, percentiles and sizes within tolerances of one surface's distances, as a
// row of `directed`. Voxels count 1 each and percentiles interpolate, as numpy.percentile does.
void summarize_voxels(const std::vector<DistanceCounts::Entry>& distances,
                      const SurfaceQuery& query, double* row);

// The same by area: areas[kind] is that of a surface element. A percentile is the least distance
// within which that share of the area lies.
void summarize_surfels(const std::vector<DistanceCounts::Entry>& distances,
                       const std::vector<double>& areas, const SurfaceQuery& query, double* row);

// The `percent`-th percentile, by linear interpolation between the two nearest ranks.
double percentile(const std::vector<DistanceCounts::Entry>& distances, double percent);

}  // namespace recycleseg
