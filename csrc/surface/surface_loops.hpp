// The build of the surface distances' inner loops that this machine runs.
#pragma once

#include "common/instruction_set.hpp"
#include "surface/surface_distances_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BUILDS(SurfaceLoops, kSurfaceLoops)

inline const SurfaceLoops& surface_loops() { return select(RECYCLESEG_BUILDS(kSurfaceLoops)); }

}  // namespace recycleseg
