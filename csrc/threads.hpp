#pragma once

#include <dlfcn.h>

#include <cstdint>
#include <thread>
#include <vector>

namespace recycleseg {

// Runs work() on `count` threads at once. torch's OpenMP threads keep spinning for some
// milliseconds after their last convolution; threads of our own would have to share cores with
// them, so the same team is used where the process has loaded one.
template <class Work>
void run_on_threads(std::int64_t count, const Work& work) {
  using Parallel = void (*)(void (*)(void*), void*, unsigned, unsigned);
  static const auto parallel = reinterpret_cast<Parallel>(dlsym(RTLD_DEFAULT, "GOMP_parallel"));
  if (count <= 1) {
    work();
  } else if (parallel != nullptr) {
    const auto call = [](void* work) { (*static_cast<const Work*>(work))(); };
    parallel(call, const_cast<Work*>(&work), static_cast<unsigned>(count), 0);
  } else {
    std::vector<std::thread> threads;
    for (std::int64_t t = 1; t < count; ++t) threads.emplace_back(work);
    work();
    for (std::thread& thread : threads) thread.join();
  }
}

}  // namespace recycleseg
