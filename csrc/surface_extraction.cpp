#include "surface_extraction.hpp"

#include "surface_loops.hpp"

namespace recycleseg {
namespace {

constexpr std::uint64_t kAll = ~std::uint64_t{0};

// Bits of the voxels one place before (x - 1) and one behind (x + 1), of the voxels of word w.
std::uint64_t shifted_right(const std::uint64_t* row, std::int64_t w) {
  return row[w] << 1 | row[w - 1] >> 63;
}
std::uint64_t shifted_left(const std::uint64_t* row, std::int64_t w) {
  return row[w] >> 1 | row[w + 1] << 63;
}

template <class T>
void set_bits(const T* labels, std::int64_t count, const std::vector<std::int64_t>& values,
              std::uint64_t* bits) {
  for (const std::int64_t value : values)
    if (static_cast<std::int64_t>(static_cast<T>(value)) == value)  // else no voxel has it
      label_loops(labels).equal(labels, count, static_cast<T>(value), bits);
}

template <class T>
void set_nonzero_bits(const T* labels, std::int64_t count, std::uint64_t* bits) {
  label_loops(labels).equal(labels, count, T{0}, bits);
  for (std::int64_t w = 0; w < (count + 63) / 64; ++w) bits[w] = ~bits[w];
  if (count % 64 != 0) bits[count / 64] &= (std::uint64_t{1} << count % 64) - 1;
}

}  // namespace

void extract_mask_row(const TensorView& labels, const VolumeShape& shape, const SurfaceQuery& query,
                      std::int64_t sample, std::int64_t structure, const Box& box, std::int64_t z,
                      std::int64_t y, BitGrid& mask) {
  const std::int64_t offset =
      shape.offset(sample, structure, z + box.low[0], y + box.low[1]) + box.low[2];
  visit(labels, [&](const auto* data) {
    if (shape.masks)
      set_nonzero_bits(data + offset, mask.width, mask.row(z, y));
    else
      set_bits(data + offset, mask.width, query.labels[structure], mask.row(z, y));
  });
}

void extract_border_row(const BitGrid& mask, const OpenSides& open, std::int64_t z, std::int64_t y,
                        BitGrid& surface) {
  const std::uint64_t* row = mask.row(z, y);
  const bool none_before = z == 0 && open.low[0], none_behind = z + 1 == mask.depth && open.high[0];
  const bool none_above = y == 0 && open.low[1], none_below = y + 1 == mask.height && open.high[1];
  std::uint64_t* out = surface.row(z, y);
  for (std::int64_t w = 0; w < mask.words; ++w) {
    std::uint64_t left = shifted_right(row, w), right = shifted_left(row, w);
    if (w == 0 && open.low[2]) left |= 1;
    if (w + 1 == mask.words && open.high[2]) right |= std::uint64_t{1} << (mask.width - 1) % 64;
    out[w] = border_bits(row[w], left, right, none_above ? kAll : mask.row(z, y - 1)[w],
                         none_below ? kAll : mask.row(z, y + 1)[w],
                         none_before ? kAll : mask.row(z - 1, y)[w],
                         none_behind ? kAll : mask.row(z + 1, y)[w]);
  }
}

void extract_surfel_row(const BitGrid& mask, bool flat, std::int64_t z, std::int64_t y,
                        BitGrid& surface) {
  std::uint64_t* out = surface.row(z, y);
  for (std::int64_t w = 0; w < surface.words; ++w) {
    std::uint64_t any = 0, all = kAll;
    for (std::int64_t dz = flat ? 0 : -1; dz <= 0; ++dz)
      for (std::int64_t dy = -1; dy <= 0; ++dy) {
        const std::uint64_t* row = mask.row(z + dz, y + dy);
        any |= row[w] | shifted_right(row, w);
        all &= row[w] & shifted_right(row, w);
      }
    out[w] = any & ~all;
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
