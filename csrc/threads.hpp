#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <memory>
#include <mutex>
#include <system_error>
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

// Hands out the numbers 0 ... count - 1, each to one caller.
class ChunkQueue {
 public:
  explicit ChunkQueue(std::int64_t count) : count_(count) {}
  // Whether there was one left, which is now `chunk`.
  bool next(std::int64_t& chunk) {
    chunk = next_.fetch_add(1, std::memory_order_relaxed);
    return chunk < count_;
  }

 private:
  const std::int64_t count_;
  std::atomic<std::int64_t> next_{0};
};

// Calls work(queue) here and on up to `num_threads - 1` further threads at once, where work takes
// chunks from the queue until none is left. Returns when each chunk is done; rethrows the first
// exception. For whole metrics, not for the small steps of a training: its threads are made for
// the call and never spin, and one that the system has not yet started when the work is done is
// not waited for, so that busy cores cost no time.
template <class Work>
void share_chunks(std::int64_t count, std::int64_t num_threads, const Work& work) {
  struct State {
    explicit State(std::int64_t count) : queue(count) {}
    ChunkQueue queue;
    std::mutex mutex;
    std::condition_variable left;
    std::int64_t inside = 0;
    bool closed = false;
    std::exception_ptr error;
  };
  const auto state = std::make_shared<State>(count);
  const auto run = [&work, state] {
    try {
      work(state->queue);
    } catch (...) {
      for (std::int64_t chunk; state->queue.next(chunk);) continue;
      const std::lock_guard<std::mutex> lock(state->mutex);
      if (!state->error) state->error = std::current_exception();
    }
  };
  const auto join_in = [run, state] {
    {
      const std::lock_guard<std::mutex> lock(state->mutex);
      if (state->closed) return;
      ++state->inside;
    }
    run();
    const std::lock_guard<std::mutex> lock(state->mutex);
    if (--state->inside == 0) state->left.notify_all();
  };
  for (std::int64_t t = 1; t < std::min(num_threads, count); ++t) {
    try {
      std::thread(join_in).detach();
    } catch (const std::system_error&) {
      break;  // the system gives no more threads; those there are do the work
    }
  }
  run();
  std::unique_lock<std::mutex> lock(state->mutex);
  state->closed = true;
  state->left.wait(lock, [&] { return state->inside == 0; });
  if (state->error) std::rethrow_exception(state->error);
}

}  // namespace recycleseg
