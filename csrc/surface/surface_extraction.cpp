#include "surface/surface_extraction.hpp"

#include <algorithm>
#include <vector>

#include "common/label_runs.hpp"
#include "surface/surface_loops.hpp"

namespace recycleseg {
namespace {

constexpr std::uint64_t kAll = ~std::uint64_t{0};

template <class T>
void set_bits(const T* labels, std::int64_t count, const T* end,
              const std::vector<std::int64_t>& values, std::uint64_t* bits) {
  for (const std::int64_t value : values)
    if (static_cast<std::int64_t>(static_cast<T>(value)) == value)  // else no voxel has it
      label_loops(labels).equal(labels, count, end, static_cast<T>(value), bits);
}

template <class T>
void set_nonzero_bits(const T* labels, std::int64_t count, const T* end, std::uint64_t* bits) {
  label_loops(labels).equal(labels, count, end, T{0}, bits);
  for (std::int64_t w = 0; w < (count + 63) / 64; ++w) bits[w] = ~bits[w];
  if (count % 64 != 0) bits[count / 64] &= (std::uint64_t{1} << count % 64) - 1;
}

// Rows with neighbours beyond an open side, which count as inside.
void extract_border_beside_open(const BitGrid& mask, bool flat, const OpenSides& open,
                                const Rows& rows, BitGrid& surface) {
  std::vector<std::uint64_t> padded(mask.words + 2);
  std::uint64_t* const own = padded.data() + 1;
  const std::int64_t z = rows.z;
  for (std::int64_t y = rows.y; y < rows.end; ++y) {
    const std::uint64_t* const row = mask.row(z, y);
    std::copy(row - 1, row + mask.words + 1, padded.begin());
    if (open.low[2]) own[-1] |= std::uint64_t{1} << 63;
    if (open.high[2]) own[mask.width / 64] |= std::uint64_t{1} << mask.width % 64;
    const auto neighbour = [&](bool is_beyond, std::int64_t other_z, std::int64_t other_y) {
      return is_beyond ? own : mask.row(other_z, other_y);
    };
    std::uint64_t* const out = surface.row(z, y);
    surface_loops().border({own, neighbour(open.low[1] && y == 0, z, y - 1),
                            neighbour(open.high[1] && y + 1 == mask.height, z, y + 1),
                            neighbour(flat || (open.low[0] && z == 0), z - 1, y),
                            neighbour(flat || (open.high[0] && z + 1 == mask.depth), z + 1, y)},
                           mask.words, out);
    for (std::int64_t w = 0; w < mask.words; ++w) out[w] &= row[w];
  }
}

}  // namespace

void extract_mask_rows(const TensorView& labels, const VolumeShape& shape,
                       const SurfaceQuery& query, std::int64_t sample, std::int64_t structure,
                       const Box& box, const Rows& rows, BitGrid& mask) {
  visit(labels, [&](const auto* data) {
    const auto* const end = data + labels.size();
    for (std::int64_t y = rows.y; y < rows.end; ++y) {
      const auto* const row =
          data + box.low[2] + shape.offset(sample, structure, rows.z + box.low[0], y + box.low[1]);
      if (shape.masks)
        set_nonzero_bits(row, mask.width, end, mask.row(rows.z, y));
      else
        set_bits(row, mask.width, end, query.labels[structure], mask.row(rows.z, y));
    }
  });
}

void extract_border_rows(const BitGrid& mask, bool flat, const OpenSides& open, const Rows& rows,
                         BitGrid& surface) {
  const auto is_open = [](bool side) { return side; };
  if (std::any_of(open.low, open.low + 3, is_open) ||
      std::any_of(open.high, open.high + 3, is_open))
    return extract_border_beside_open(mask, flat, open, rows, surface);
  const auto [z, y, end] = rows;
  // The words of all rows at once: those between two rows are zero.
  const std::uint64_t* const own = mask.row(z, y);
  surface_loops().border({own, mask.row(z, y - 1), mask.row(z, y + 1),
                          flat ? own : mask.row(z - 1, y), flat ? own : mask.row(z + 1, y)},
                         (end - y) * mask.stride, surface.row(z, y));
}

void extract_surfel_rows(const BitGrid& mask, bool flat, const Rows& rows, BitGrid& surface) {
  for (std::int64_t y = rows.y; y < rows.end; ++y) {
    std::uint64_t* out = surface.row(rows.z, y);
    for (std::int64_t w = 0; w < surface.words; ++w) {
      std::uint64_t any = 0, all = kAll;
      for (std::int64_t dz = flat ? 0 : -1; dz <= 0; ++dz)
        for (std::int64_t dy = -1; dy <= 0; ++dy) {
          const std::uint64_t* row = mask.row(rows.z + dz, y + dy);
          const std::uint64_t before = row[w] << 1 | row[w - 1] >> 63;
          any |= row[w] | before;
          all &= row[w] & before;
        }
      out[w] = any & ~all;
    }
  }
}

void turn_rows(const BitGrid& grid, const Rows& rows, BitGrid& turned) {
  for (std::int64_t y = 0; y < grid.height; ++y) {
    const std::uint64_t* const row = grid.row(rows.z, y);
    for (std::int64_t x = rows.y; x < rows.end; x += 64 - x % 64) {
      std::uint64_t bits = row[x / 64] >> x % 64;
      if (rows.end - x < 64) bits &= (std::uint64_t{1} << (rows.end - x)) - 1;
      for (; bits != 0; bits &= bits - 1)
        turned.row(rows.z, x + __builtin_ctzll(bits))[y / 64] |= std::uint64_t{1} << y % 64;
    }
  }
}

std::uint32_t neighbour_code(const BitGrid& mask, bool flat, std::int64_t z, std::int64_t y,
                             std::int64_t x) {
  std::uint32_t code = 0, bit = 0;
  for (std::int64_t dz = flat ? 0 : -1; dz <= 0; ++dz)
    for (std::int64_t dy = -1; dy <= 0; ++dy)
      for (std::int64_t dx = -1; dx <= 0; ++dx) {
        const std::int64_t at = x + dx + 64;  // bits -1 and `width` are the zeros around a row
        const std::uint64_t word = mask.row(z + dz, y + dy)[at / 64 - 1];
        code |= static_cast<std::uint32_t>(word >> at % 64 & 1) << bit++;
      }
  return code;
}

}  // namespace recycleseg
