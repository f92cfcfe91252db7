// The build of the surface distances' inner loops that this machine runs.
#pragma once

#include "common/instruction_set.hpp"
#include "surface/surface_distances_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BUILDS(SurfaceLoops, kSurfaceLoops)

inline const SurfaceLoops& surface_loops() { return select(RECYCLESEG_BUILDS(kSurfaceLoops)); }

inline const LabelLoops<std::uint8_t>& label_loops(const std::uint8_t*) {
  return surface_loops().of_uint8;
}
inline const LabelLoops<std::int16_t>& label_loops(const std::int16_t*) {
  return surface_loops().of_int16;
}
inline const LabelLoops<std::int32_t>& label_loops(const std::int32_t*) {
  return surface_loops().of_int32;
}
inline const LabelLoops<std::int64_t>& label_loops(const std::int64_t*) {
  return surface_loops().of_int64;
}

}  // namespace recycleseg
