// Which build of the inner loops this machine runs. The files *_simd.cpp are compiled once per
// instruction set, each time into a namespace of that name.
#pragma once

namespace recycleseg {

enum class InstructionSet { baseline, avx2, avx512 };

inline InstructionSet instruction_set() {
#ifdef RECYCLESEG_X86
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                               __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                               __builtin_cpu_supports("popcnt");  // lzcnt came with bmi
  static const bool has_avx512 =
      has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  if (has_avx512) return InstructionSet::avx512;
  if (has_avx2) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

// The one of several builds of the same loops that this machine runs.
template <class Loops>
const Loops& select(const Loops& baseline, const Loops& avx2, const Loops& avx512) {
  switch (instruction_set()) {
    case InstructionSet::avx512:
      return avx512;
    case InstructionSet::avx2:
      return avx2;
    default:
      return baseline;
  }
}

}  // namespace recycleseg

// Declares the object `name` in the namespace of every instruction set, and RECYCLESEG_BUILDS
// lists its builds for select().
#ifdef RECYCLESEG_X86
#define RECYCLESEG_DECLARE_BUILDS(type, name) \
  namespace baseline {                        \
  extern const type name;                     \
  }                                           \
  namespace avx2 {                            \
  extern const type name;                     \
  }                                           \
  namespace avx512 {                          \
  extern const type name;                     \
  }
#define RECYCLESEG_BUILDS(name) baseline::name, avx2::name, avx512::name
#else
#define RECYCLESEG_DECLARE_BUILDS(type, name) \
  namespace baseline {                        \
  extern const type name;                     \
  }
#define RECYCLESEG_BUILDS(name) baseline::name, baseline::name, baseline::name
#endif
