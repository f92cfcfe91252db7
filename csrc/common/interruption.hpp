// How a call that takes long ends early, without knowing who asks for it.
#pragma once

#include <chrono>
#include <functional>
#include <utility>

namespace recycleseg {

// Thrown on the calling thread, after all other threads have left the work.
struct Interrupted {};

// While it lives, the calls of this thread ask `asked` between chunks of work whether to stop. They
// ask it seldom, because the answer may have to wait for Python's lock.
class Interruption {
 public:
  explicit Interruption(std::function<bool()> asked)
      : asked_(std::move(asked)), before_(std::exchange(current(), this)) {}
  ~Interruption() { current() = before_; }
  Interruption(const Interruption&) = delete;
  Interruption& operator=(const Interruption&) = delete;

  // Whether the call of this thread has to stop. A helping thread is never told so.
  static bool requested() { return current() != nullptr && current()->ask(); }

 private:
  using Clock = std::chrono::steady_clock;
  static constexpr std::chrono::milliseconds kInterval{50};

  static Interruption*& current() {
    static thread_local Interruption* innermost = nullptr;
    return innermost;
  }

  bool ask() {
    const auto now = Clock::now();
    if (stopped_ || now < next_) return stopped_;
    stopped_ = asked_();
    next_ = Clock::now() + kInterval;
    return stopped_;
  }

  const std::function<bool()> asked_;
  Interruption* const before_;
  Clock::time_point next_ = Clock::now() + kInterval;
  bool stopped_ = false;
};

}  // namespace recycleseg
