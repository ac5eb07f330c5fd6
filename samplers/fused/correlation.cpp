// Correlations of binary rows with rows of numbers in [0, 1], by products of bytes. Needs AVX-512 with VNNI.

#include "binary.h"
#include "correlated.h"

namespace {

constexpr int kRows = 4;      // rows a multiplication
constexpr int kBelow = 8;    // columns of the binary rows whose sums are in registers together
constexpr int kVectors = 3;   // vectors of 16 columns of the others

// Signed states as bytes, four rows together: (blocks of 8 columns, groups of rows, 8 columns, 4). Rows from `half` on count
// negatively. Only the groups from `first` to `last`.
void pack_states(const float* x, int64_t stride, int64_t rows, int64_t columns, int64_t half, int64_t first,
                 int64_t last, __m256i* packed) {
  const int64_t groups = (rows + kRows - 1) / kRows;
  for (int64_t group = first; group < last; ++group)
    for (int64_t column = 0; column < columns; column += kLanes) {
      __m512i four = _mm512_setzero_si512();
      const __mmask16 valid = leading(columns - column);
      for (int64_t k = 0; k < std::min<int64_t>(kRows, rows - group * kRows); ++k) {
        const int64_t row = group * kRows + k;
        const __m512 states = _mm512_maskz_loadu_ps(valid, x + row * stride + column);
        const __mmask16 on = _mm512_cmp_ps_mask(states, _mm512_setzero_ps(), _CMP_NEQ_OQ);
        four = _mm512_or_si512(four, _mm512_maskz_set1_epi32(on, (row < half ? 1 : 255) << 8 * k));
      }
      __m256i* target = packed + column / kBelow * groups + group;
      target[0] = _mm512_castsi512_si256(four);
      target[groups] = _mm512_extracti64x4_epi64(four, 1);
    }
}

// floor(255 y + dither) as bytes, four rows together: (blocks of 16 columns, groups of rows, 16 columns, 4).
void pack_levels(const float* y, const float* dither, int64_t rows, int64_t columns, int64_t first, int64_t last,
                 __m512i* packed) {
  const int64_t groups = (rows + kRows - 1) / kRows;
  for (int64_t group = first; group < last; ++group)
    for (int64_t column = 0; column < columns; column += kLanes) {
      __m512i four = _mm512_setzero_si512();
      const __mmask16 valid = leading(columns - column);
      for (int64_t k = 0; k < std::min<int64_t>(kRows, rows - group * kRows); ++k) {
        const int64_t row = group * kRows + k;
        const __m512 value = _mm512_maskz_loadu_ps(valid, y + row * columns + column);
        const __m512 random = _mm512_maskz_loadu_ps(valid, dither + row + column);
        // Whatever the rounding of the sum: a level is a byte.
        const __m512 level = _mm512_min_ps(_mm512_fmadd_ps(value, _mm512_set1_ps(255), random), _mm512_set1_ps(255));
        four = _mm512_or_si512(four, _mm512_slli_epi32(_mm512_cvttps_epi32(level), 8 * k));
      }
      packed[column / kLanes * groups + group] = four;
    }
}

// The sums of kSome rows and 16 · kVectors columns of the result. Not inlined: it needs every register.
template <int kSome>
__attribute__((noinline, target("avx512vnni"))) void products(const __m256i* states, const __m512i* levels,
                                                              int64_t groups, __m512i* total) {
  __m512i sums[kSome][kVectors];
#pragma GCC unroll 8
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) sums[b][v] = _mm512_setzero_si512();
  for (int64_t g = 0; g < groups; ++g) {
    const __m512i some[kVectors] = {levels[g], levels[groups + g], levels[2 * groups + g]};
#pragma GCC unroll 8
    for (int b = 0; b < kSome; ++b) {
      int32_t four;
      std::memcpy(&four, reinterpret_cast<const int32_t*>(states + g) + b, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 3
      for (int v = 0; v < kVectors; ++v) sums[b][v] = _mm512_dpbusd_epi32(sums[b][v], some[v], x);
    }
  }
#pragma GCC unroll 8
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 3
    for (int v = 0; v < kVectors; ++v) total[b * kVectors + v] = sums[b][v];
}

using Products = void (*)(const __m256i*, const __m512i*, int64_t, __m512i*);
constexpr Products kProducts[kBelow] = {products<1>, products<2>, products<3>, products<4>,
                                        products<5>, products<6>, products<7>, products<8>};

}  // namespace

extern "C" {

// out = scale Σ_r ± x_r levels_rᵀ + leftᵀ right.
void correlate(const Correlated* job, int64_t threads) {
  const auto [x, stride, y, dither, rows, half, below, above, scale, left, right, out] = *job;
  const int64_t groups = (rows + kRows - 1) / kRows, blocks = (above + kLanes - 1) / kLanes;
  // Kept between calls, since fresh memory is slow. Blocks more than there are, since some are always written or read
  // together.
  static thread_local std::vector<__m256i> all_states;
  static thread_local std::vector<__m512i> all_levels;
  all_states.resize((below / kBelow + 2) * groups);
  all_levels.resize((blocks + kVectors) * groups);
  __m256i* const states = all_states.data();
  __m512i* const levels = all_levels.data();
  spread(threads, [&](int64_t worker) {
    const int64_t first = worker * groups / threads, last = (worker + 1) * groups / threads;
    pack_states(x, stride, rows, below, half, first, last, states);
    pack_levels(y, dither, rows, above, first, last, levels);
  });
  const __m512 unit = _mm512_set1_ps(scale);
  spread(threads, [&](int64_t worker) {
    __m512i total[kBelow * kVectors];
    for (int64_t block = worker * kVectors; block < blocks; block += threads * kVectors) {
      __m512 shift[kVectors], slope[kVectors];
      for (int64_t v = 0; v < kVectors; ++v) {
        const int64_t column = (block + v) * kLanes;
        shift[v] = _mm512_maskz_loadu_ps(leading(above - column), right + column);
        slope[v] = _mm512_maskz_loadu_ps(leading(above - column), right + above + column);
      }
      for (int64_t row = 0; row < below; row += kBelow) {
        const int64_t some = std::min<int64_t>(kBelow, below - row);
        kProducts[some - 1](states + row / kBelow * groups, levels + block * groups, groups, total);
        for (int64_t b = 0; b < some; ++b)
          for (int64_t v = 0; v < kVectors; ++v) {
            const int64_t column = (block + v) * kLanes;
            __m512 sum = _mm512_mul_ps(_mm512_cvtepi32_ps(total[b * kVectors + v]), unit);
            sum = _mm512_fmadd_ps(_mm512_set1_ps(left[row + b]), shift[v], sum);
            sum = _mm512_fmadd_ps(_mm512_set1_ps(left[below + row + b]), slope[v], sum);
            _mm512_mask_storeu_ps(out + (row + b) * above + column, leading(above - column), sum);
          }
      }
    }
  });
}
}
