// How a call shares its work between threads.
#pragma once

#include <dlfcn.h>

#include <algorithm>
#include <atomic>
#include <chrono>
#include <condition_variable>
#include <cstdint>
#include <exception>
#include <functional>
#include <memory>
#include <mutex>
#include <system_error>
#include <thread>
#include <utility>
#include <vector>

#include "common/interruption.hpp"

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

// Hands out the numbers 0 ... count - 1, each to one caller, until the call is interrupted.
class ChunkQueue {
 public:
  explicit ChunkQueue(std::int64_t count) : count_(count) {}
  // Whether there was one left, which is now `chunk`.
  bool next(std::int64_t& chunk) {
    if (Interruption::requested()) {
      interrupted_ = true;
      next_.store(count_, std::memory_order_relaxed);
    }
    chunk = next_.fetch_add(1, std::memory_order_relaxed);
    return chunk < count_;
  }
  // Throws Interrupted where chunks were left for that. For the calling thread, once all threads
  // have left the work: no exception may leave an OpenMP thread.
  void finish() const {
    if (interrupted_) throw Interrupted{};
  }

 private:
  const std::int64_t count_;
  std::atomic<std::int64_t> next_{0};
  bool interrupted_ = false;  // of the calling thread alone
};

// Threads that share the work of one call, step by step: for whole metrics, not for the small steps
// of a training. They are made for the call. A thread that waits for the next step, or for the last
// chunk of one, first offers its core to others for about as long as it takes to wake a sleeping
// thread, and then sleeps. Nobody waits for a thread that still sleeps when a step is done. So busy
// cores cost little time.
class Team {
 public:
  using Work = std::function<void(ChunkQueue&)>;

  explicit Team(std::int64_t num_threads) : num_threads_(num_threads) {}
  ~Team() {
    const std::lock_guard<std::mutex> lock(state_->mutex);
    state_->stop = true;
    state_->wake.notify_all();
  }
  Team(const Team&) = delete;
  Team& operator=(const Team&) = delete;

  // Calls work(queue) here and on the other threads at once, where work takes chunks from the
  // queue until none is left. Returns when each chunk is done; rethrows the first exception, or
  // throws Interrupted.
  void share(std::int64_t count, const Work& work) {
    ChunkQueue queue(count);
    if (count <= 1 || num_threads_ <= 1) {
      work(queue);
      return queue.finish();
    }
    start(std::min(num_threads_, count) - 1);
    {
      const std::lock_guard<std::mutex> lock(state_->mutex);
      state_->work = &work, state_->queue = &queue;
      ++state_->step;
    }
    state_->wake.notify_all();
    state_->run(work, queue);
    {
      const std::lock_guard<std::mutex> lock(state_->mutex);
      state_->work = nullptr;
    }
    const auto lock = state_->await(state_->left, [&] { return state_->inside == 0; });
    if (const std::exception_ptr error = std::exchange(state_->error, nullptr))
      std::rethrow_exception(error);
    queue.finish();
  }

 private:
  static constexpr std::chrono::microseconds kWakingTime{50};

  // Outlives the team where a thread does.
  struct State {
    std::mutex mutex;  // held to change any of these; atomics are also read without it
    std::condition_variable wake, left;
    std::atomic<const Work*> work = nullptr;  // of the step that is open
    ChunkQueue* queue = nullptr;
    std::atomic<std::int64_t> step = 0, inside = 0;
    std::atomic<bool> stop = false;
    std::exception_ptr error;

    void run(const Work& work, ChunkQueue& queue) {
      try {
        work(queue);
      } catch (...) {
        for (std::int64_t chunk; queue.next(chunk);) continue;
        const std::lock_guard<std::mutex> lock(mutex);
        if (!error) error = std::current_exception();
      }
    }

    // Returns with the mutex locked once reached() holds. Whoever makes it hold notifies `change`.
    template <class Reached>
    std::unique_lock<std::mutex> await(std::condition_variable& change, const Reached& reached) {
      using Clock = std::chrono::steady_clock;
      const auto end = Clock::now() + kWakingTime;
      while (!reached() && Clock::now() < end) std::this_thread::yield();
      std::unique_lock<std::mutex> lock(mutex);
      change.wait(lock, reached);
      return lock;
    }

    void help() {
      std::int64_t seen = 0;
      const auto called = [&] { return stop || (work != nullptr && step != seen); };
      for (;;) {
        auto lock = await(wake, called);
        if (stop) return;
        seen = step;
        ++inside;
        const Work& own_work = *work;
        ChunkQueue& own_queue = *queue;
        lock.unlock();
        run(own_work, own_queue);
        lock.lock();
        if (--inside == 0) left.notify_all();
      }
    }
  };

  void start(std::int64_t helpers) {
    for (; helpers_ < helpers; ++helpers_) try {
        std::thread([state = state_] { state->help(); }).detach();
      } catch (const std::system_error&) {
        num_threads_ = helpers_ + 1;  // the system gives no more; those there are do the work
        return;
      }
  }

  std::int64_t num_threads_, helpers_ = 0;
  const std::shared_ptr<State> state_ = std::make_shared<State>();
};

// One step of a team of its own.
inline void share_chunks(std::int64_t count, std::int64_t num_threads, const Team::Work& work) {
  Team(num_threads).share(count, work);
}

}  // namespace recycleseg
