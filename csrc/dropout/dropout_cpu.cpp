#include <algorithm>
#include <cmath>
#include <stdexcept>

#include "common/instruction_set.hpp"
#include "common/threads.hpp"
#include "dropout/dropout.hpp"
#include "dropout/dropout_simd.hpp"

namespace recycleseg {

RECYCLESEG_DECLARE_BFLOAT16_BUILDS(DropoutLoops, kDropoutLoops)

namespace {

// Fewer elements take less time than starting a thread.
constexpr std::int64_t kChunk = 1 << 16;
static_assert(kChunk % kDropoutGroup == 0, "chunks must start at a group");

// Seeds of neighbouring rows differ in many bits (2^64 over the golden ratio).
constexpr std::uint64_t kSeedStep = 0x9e3779b97f4a7c15u;

void check(const TensorView& x, const TensorView& y, double rate, std::int64_t rows) {
  require_contiguous(x, dlpack::kCpu);
  require_contiguous(y, dlpack::kCpu);
  if (x.dtype != DType::float32 && x.dtype != DType::bfloat16)
    throw std::invalid_argument(x.name + ": expected dtype float32 or bfloat16, got " +
                                describe(x.dlpack_dtype));
  if (y.dtype != x.dtype || y.size() != x.size())
    throw std::invalid_argument(y.name + ": expected size and dtype of x");
  if (!(rate >= 0 && rate < 1))
    throw std::invalid_argument("rate: expected 0 to below 1, got " + std::to_string(rate));
  if (rows < 1 || x.size() % rows != 0)
    throw std::invalid_argument("rows: expected a divisor of the size, got " +
                                std::to_string(rows));
}

}  // namespace

void dropout_cpu(const TensorView& x, const TensorView& y, double rate, std::uint64_t seed,
                 std::int64_t rows, std::int64_t first_row, std::int64_t num_threads) {
  check(x, y, rate, rows);
  const auto threshold = static_cast<std::uint32_t>(std::lround(rate * 65536));
  const auto scale = static_cast<float>(1 / (1 - rate));
  const DropoutLoops& loops = select(RECYCLESEG_BFLOAT16_BUILDS(kDropoutLoops));
  const std::int64_t size = x.size() / rows, chunks_of_row = (size + kChunk - 1) / kChunk;
  const std::int64_t chunks = rows * chunks_of_row;
  ChunkQueue queue(chunks);
  run_on_threads(std::min(num_threads, chunks), [&] {
    for (std::int64_t i; queue.next(i);) {
      const std::int64_t row = i / chunks_of_row, first = i % chunks_of_row * kChunk;
      const std::int64_t count = std::min(kChunk, size - first), at = row * size + first;
      const auto number = static_cast<std::uint64_t>(first_row + row);
      const DropoutKey key{seed + number * kSeedStep, threshold, scale};
      if (x.dtype == DType::float32)
        loops.of_floats(data_of<float>(x) + at, data_of<float>(y) + at, first, count, key);
      else
        loops.of_bfloat16(data_of<BFloat16>(x) + at, data_of<BFloat16>(y) + at, first, count, key);
    }
  });
  queue.finish();
}

}  // namespace recycleseg
