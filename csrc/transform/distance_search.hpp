// The lower envelope of parabolas at one point, by a search from that point outward. A GPU runs
// it for one line a thread, the CPU for as many neighbouring lines at once as a vector has lanes.
#pragma once

#include "common/host_device.hpp"

namespace recycleseg {

// min over j in [0, length) of line.value(j) + line.square(|i - j|). Adds to `steps` how far it
// had to go: until !line.may_improve(best, k), that is, until nothing k or more elements away can
// give less than `best`. Asking costs as much as a step, hence only every fourth time.
template <class Line, class Index>
RECYCLESEG_HOST_DEVICE inline typename Line::Value nearest(const Line& line, Index i, Index length,
                                                           Index& steps) {
  using Value = typename Line::Value;
  constexpr int kSteps = 4;
  const Index before = i, after = length - 1 - i;
  const Index both = before < after ? before : after;
  const Index far = before < after ? after : before;
  const Index direction = before < after ? 1 : -1;
  Value best = line.value(i);
  Index k = 1;
  const auto two_sided = [&] {
    const Value nearer = Line::smaller(line.value(i - k), line.value(i + k));
    best = Line::smaller(best, nearer + line.square(k));
    ++k;
  };
  const auto one_sided = [&] {
    best = Line::smaller(best, line.value(i + direction * k) + line.square(k));
    ++k;
  };
  bool more = true;
  while (k + kSteps - 1 <= both && (more = line.may_improve(best, k)))
    for (int step = 0; step < kSteps; ++step) two_sided();
  if (more)
    while (k <= both && (more = line.may_improve(best, k))) two_sided();
  if (more)
    while (k + kSteps - 1 <= far && (more = line.may_improve(best, k)))
      for (int step = 0; step < kSteps; ++step) one_sided();
  if (more)
    while (k <= far && line.may_improve(best, k)) one_sided();
  steps += k;
  return best;
}

}  // namespace recycleseg
