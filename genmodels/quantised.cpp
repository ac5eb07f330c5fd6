// A soft threshold of a linear map, for many examples: products of 8-bit integers, summed exactly in 32 bits.
//
// Row by row, x − b is rounded to steps of its largest entry / levels and lifted by 128, because the instruction multiplies
// unsigned with signed bytes; `start` holds what takes the lift off every sum.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t kLanes = 16;
constexpr int64_t kGroup = 4;           // bytes that a lane multiplies and sums at once
constexpr int64_t kBlock = 4 * kLanes;  // codes; the same number stands in quantised.py
constexpr int64_t kRows = 6;            // 24 vectors of sums for a block, which leaves eight registers
constexpr int64_t kPanel = 16 * kRows;  // rows that stay in the nearest cache beside a block of weights

struct Problem {
  const float* x;          // num × size
  const float* bias;       // size
  const int8_t* weight;    // blocks × groups × kBlock × kGroup
  const int32_t* start;    // blocks × kBlock, −128 Σ_i weight
  const float* scale;      // blocks × kBlock, what one step of the weights is worth
  const float* threshold;  // blocks × kBlock
  float* code;             // num × codes
  int64_t num, size, codes;
  int64_t non_negative;
  int64_t levels;
};

// f(0), ..., f(n − 1) with constants, so that what they index stays in registers.
template <int64_t n, typename Function>
[[gnu::always_inline]] inline void each(Function f) {
  if constexpr (n > 0) {
    each<n - 1>(f);
    f(std::integral_constant<int64_t, n - 1>());
  }
}

// The lanes that exist, of those from `column` on.
__mmask16 lanes(int64_t column, int64_t size) {
  return size - column >= kLanes ? 0xFFFF : (1u << std::max<int64_t>(size - column, 0)) - 1;
}

// The bytes of kRows rows and what one step of them is worth; rows after the last are the last one again.
void quantise(const Problem& p, int64_t row, uint8_t* bytes, int64_t stride, float* step) {
  const float* x[kRows];
  each<kRows>([&](auto r) { x[r] = p.x + std::min<int64_t>(row + r, p.num - 1) * p.size; });
  const float levels = static_cast<float>(p.levels);
  __m512 largest[kRows], inverse[kRows];
  each<kRows>([&](auto r) { largest[r] = _mm512_set1_ps(1e-30f); });
  for (int64_t i = 0; i < p.size; i += kLanes) {
    const __mmask16 in = lanes(i, p.size);
    const __m512 bias = _mm512_maskz_loadu_ps(in, p.bias + i);
    each<kRows>([&](auto r) {
      const __m512 value = _mm512_sub_ps(_mm512_maskz_loadu_ps(in, x[r] + i), bias);
      largest[r] = _mm512_max_ps(largest[r], _mm512_abs_ps(value));
    });
  }
  each<kRows>([&](auto r) {
    const float most = _mm512_reduce_max_ps(largest[r]);
    step[r] = most / levels;
    inverse[r] = _mm512_set1_ps(levels / most);
  });
  const __m128i lift = _mm_set1_epi8(-128);
  for (int64_t i = 0; i < p.size; i += kLanes) {
    const __mmask16 in = lanes(i, p.size);
    const __m512 bias = _mm512_maskz_loadu_ps(in, p.bias + i);
    each<kRows>([&](auto r) {
      const __m512 value = _mm512_sub_ps(_mm512_maskz_loadu_ps(in, x[r] + i), bias);
      const __m512i number = _mm512_cvtps_epi32(_mm512_mul_ps(value, inverse[r]));
      const __m128i byte = _mm_add_epi8(_mm512_cvtepi32_epi8(number), lift);
      _mm_storeu_si128(reinterpret_cast<__m128i*>(bytes + r * stride + i), byte);
    });
  }
}

// The sums of one row in a block: named, because an array of them would live in memory.
struct Sums {
  __m512i a, b, c, d;
};

Sums load(const void* from) {
  const auto* at = static_cast<const __m512i*>(from);
  return {_mm512_loadu_si512(at), _mm512_loadu_si512(at + 1), _mm512_loadu_si512(at + 2), _mm512_loadu_si512(at + 3)};
}

[[gnu::always_inline]] inline void add(Sums& sums, const uint8_t* bytes, const Sums& weight) {
  const __m512i four = _mm512_set1_epi32(*reinterpret_cast<const int32_t*>(bytes));
  sums = {_mm512_dpbusd_epi32(sums.a, four, weight.a), _mm512_dpbusd_epi32(sums.b, four, weight.b),
          _mm512_dpbusd_epi32(sums.c, four, weight.c), _mm512_dpbusd_epi32(sums.d, four, weight.d)};
}

[[gnu::always_inline]] inline void settle(Sums& sums) {
  asm("" : "+v"(sums.a), "+v"(sums.b), "+v"(sums.c), "+v"(sums.d));
}

// What the sums of kRows rows at one vector of codes say, as far as these exist.
[[gnu::always_inline]] inline void store(const Problem& p, int64_t row, int64_t column, const float* step, __m512i s0,
                                         __m512i s1, __m512i s2, __m512i s3, __m512i s4, __m512i s5) {
  const __m512 scale = _mm512_loadu_ps(p.scale + column), threshold = _mm512_loadu_ps(p.threshold + column);
  const __m512 lowest = p.non_negative ? _mm512_set1_ps(-3e38f) : _mm512_sub_ps(_mm512_setzero_ps(), threshold);
  const __mmask16 in = lanes(column, p.codes);
  float* code = p.code + row * p.codes + column;
  const auto one = [&](int64_t r, __m512i sum) __attribute__((always_inline)) {
    const __m512 drive = _mm512_mul_ps(_mm512_cvtepi32_ps(sum), _mm512_mul_ps(scale, _mm512_set1_ps(step[r])));
    const __m512 shrunk = _mm512_sub_ps(drive, _mm512_max_ps(_mm512_min_ps(drive, threshold), lowest));
    if (row + r < p.num) _mm512_mask_storeu_ps(code + r * p.codes, in, shrunk);
  };
  one(0, s0), one(1, s1), one(2, s2), one(3, s3), one(4, s4), one(5, s5);
}

// Codes of one block, of kRows rows from `row` on as far as these exist.
void shrink(const Problem& p, int64_t row, const uint8_t* bytes, int64_t stride, const float* step, int64_t block) {
  const int64_t at = block * kBlock, groups = (p.size + kGroup - 1) / kGroup;
  const int8_t* weight = p.weight + at * groups * kGroup;
  for (int64_t r = 0; r < kRows; ++r)
    for (int64_t i = 0; i < kBlock; i += kLanes) __builtin_prefetch(p.code + (row + r) * p.codes + at + i, 1);
  Sums r0 = load(p.start + at), r1 = r0, r2 = r0, r3 = r0, r4 = r0, r5 = r0;
  for (int64_t g = 0; g < groups; ++g, bytes += kGroup, weight += kBlock * kGroup) {
    const Sums w = load(weight);
    add(r0, bytes, w);
    add(r1, bytes + stride, w);
    add(r2, bytes + 2 * stride, w);
    add(r3, bytes + 3 * stride, w);
    add(r4, bytes + 4 * stride, w);
    add(r5, bytes + 5 * stride, w);
  }
  // What follows needs registers too: a compiler that sees it would clear them for it inside the loop.
  settle(r0), settle(r1), settle(r2), settle(r3), settle(r4), settle(r5);
  store(p, row, at, step, r0.a, r1.a, r2.a, r3.a, r4.a, r5.a);
  store(p, row, at + kLanes, step, r0.b, r1.b, r2.b, r3.b, r4.b, r5.b);
  store(p, row, at + 2 * kLanes, step, r0.c, r1.c, r2.c, r3.c, r4.c, r5.c);
  store(p, row, at + 3 * kLanes, step, r0.d, r1.d, r2.d, r3.d, r4.d, r5.d);
}

}  // namespace

extern "C" void quantised_shrink(const Problem* problem, int64_t threads) {
  const Problem& p = *problem;
  const int64_t stride = (p.size + kLanes - 1) / kLanes * kLanes, blocks = (p.codes + kBlock - 1) / kBlock;
#pragma omp parallel num_threads(threads)
  {
    std::vector<uint8_t> bytes(kPanel * stride);
    float step[kPanel];
#pragma omp for schedule(static)
    for (int64_t start = 0; start < p.num; start += kPanel) {
      const int64_t rows = std::min(kPanel, p.num - start);
      for (int64_t r = 0; r < rows; r += kRows) quantise(p, start + r, bytes.data() + r * stride, stride, step + r);
      // Six rows at once are more than the processor foresees: the next panel is fetched between the blocks of this one.
      const int64_t lines = (kPanel * p.size / kLanes) / (blocks * (kPanel / kRows)) + 1;
      const float* next = p.x + (start + kPanel) * p.size;
      for (int64_t block = 0; block < blocks; ++block)
        for (int64_t r = 0; r < rows; r += kRows) {
          for (int64_t line = 0; line < lines; ++line, next += kLanes) __builtin_prefetch(next);
          shrink(p, start + r, bytes.data() + r * stride, stride, step + r, block);
        }
    }
  }
}
