// Label maps as runs of equal labels: they have far fewer runs than voxels.
#pragma once

#include <algorithm>
#include <cstdint>

#include "common/instruction_set.hpp"
#include "common/label_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BUILDS(AllLabelLoops, kLabelLoops)

// The build of the loops for labels of this type that this machine runs.
template <class T>
const LabelLoops<T>& label_loops(const T*) {
  const AllLabelLoops& loops = select(RECYCLESEG_BUILDS(kLabelLoops));
  if constexpr (sizeof(T) == 1)
    return loops.of_uint8;
  else if constexpr (sizeof(T) == 2)
    return loops.of_int16;
  else if constexpr (sizeof(T) == 4)
    return loops.of_int32;
  else
    return loops.of_int64;
}

// Calls run(first, n) for every stretch of n voxels, from `first` on, over which each of the maps
// keeps its label. `size`: voxels of each map.
struct LabelRunWalk {
  template <class Run, class... Labels>
  void operator()(std::int64_t size, const Run& run, const Labels*... maps) const {
    constexpr std::int64_t kBlock = 4096;
    std::int64_t first = 0;
    for (std::int64_t begin = 0; begin < size; begin += kBlock) {
      const std::int64_t count = std::min(kBlock + 1, size - begin);  // one of the next block
      std::uint64_t ends[kBlock / 64 + 1] = {};
      (label_loops(maps).run_ends(maps + begin, count, ends), ...);
      for (std::int64_t w = 0; w < (count + 62) / 64; ++w)
        for (std::uint64_t bits = ends[w]; bits != 0; bits &= bits - 1) {
          const std::int64_t end = begin + 64 * w + __builtin_ctzll(bits) + 1;
          run(first, end - first);
          first = end;
        }
    }
    if (first < size) run(first, size - first);
  }
};

}  // namespace recycleseg
