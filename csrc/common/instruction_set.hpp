// Which build of the inner loops this machine runs. The files *_simd.cpp are compiled once per
// instruction set, each time into a namespace of that name.
#pragma once

namespace recycleseg {

enum class InstructionSet { baseline, avx2, avx512, avx512bf16 };

inline InstructionSet instruction_set() {
#ifdef RECYCLESEG_X86
  static const bool has_avx2 = __builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma") &&
                               __builtin_cpu_supports("bmi") && __builtin_cpu_supports("bmi2") &&
                               __builtin_cpu_supports("popcnt");  // lzcnt came with bmi
  static const bool has_avx512 =
      has_avx2 && __builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512bw") &&
      __builtin_cpu_supports("avx512vl") && __builtin_cpu_supports("avx512dq");
  static const bool has_avx512bf16 = has_avx512 && __builtin_cpu_supports("avx512bf16");
  if (has_avx512bf16) return InstructionSet::avx512bf16;
  if (has_avx512) return InstructionSet::avx512;
  if (has_avx2) return InstructionSet::avx2;
#endif
  return InstructionSet::baseline;
}

// The one of several builds of the same loops that this machine runs.
template <class Loops>
const Loops& select(const Loops& baseline, const Loops& avx2, const Loops& avx512,
                    const Loops& avx512bf16) {
  switch (instruction_set()) {
    case InstructionSet::avx512bf16:
      return avx512bf16;
    case InstructionSet::avx512:
      return avx512;
    case InstructionSet::avx2:
      return avx2;
    default:
      return baseline;
  }
}
template <class Loops>
const Loops& select(const Loops& baseline, const Loops& avx2, const Loops& avx512) {
  return select(baseline, avx2, avx512, avx512);
}

}  // namespace recycleseg

// Declares the object `name` in the namespace of every instruction set, and RECYCLESEG_BUILDS
// lists its builds for select(). The macros with BFLOAT16 are for files that are also compiled with
// the instruction that rounds to bfloat16. The norm takes 13 to 20 % longer without it.
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
#define RECYCLESEG_DECLARE_BFLOAT16_BUILDS(type, name) \
  RECYCLESEG_DECLARE_BUILDS(type, name)                \
  namespace avx512bf16 {                               \
  extern const type name;                              \
  }
#define RECYCLESEG_BUILDS(name) baseline::name, avx2::name, avx512::name
#define RECYCLESEG_BFLOAT16_BUILDS(name) RECYCLESEG_BUILDS(name), avx512bf16::name
#else
#define RECYCLESEG_DECLARE_BUILDS(type, name) \
  namespace baseline {                        \
  extern const type name;                     \
  }
#define RECYCLESEG_DECLARE_BFLOAT16_BUILDS(type, name) RECYCLESEG_DECLARE_BUILDS(type, name)
#define RECYCLESEG_BUILDS(name) baseline::name, baseline::name, baseline::name
#define RECYCLESEG_BFLOAT16_BUILDS(name) RECYCLESEG_BUILDS(name)
#endif
