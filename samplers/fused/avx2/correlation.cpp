// Correlations of binary rows with rows of numbers in [0, 1], by products of bytes. Needs AVX2.

#include "../correlated.h"
#include "binary.h"

namespace {

constexpr int kRows = 4;     // rows a group
constexpr int kBelow = 6;    // columns of the binary rows whose sums are in registers together
constexpr int kVectors = 2;  // vectors of 8 columns of the others
constexpr int kChunk = 64;   // groups whose products add up to 16 bits

// Six columns of signed states as bytes, four rows together.
struct States {
  int32_t four[kBelow];
};

// The states of all columns, (blocks of columns, groups of rows). Rows from `half` on count negatively.
void pack_states(const Correlated& job, int64_t first, int64_t last, States* packed, int64_t groups) {
  for (int64_t group = first; group < last; ++group)
    for (int64_t column = 0; column < job.below; column += kLanes) {
      __m256i four = _mm256_setzero_si256();
      for (int64_t k = 0; k < std::min<int64_t>(kRows, job.rows - group * kRows); ++k) {
        const int64_t row = group * kRows + k;
        const __m256 states = load_some(job.x + row * job.stride + column, job.below - column);
        const __m256 on = _mm256_cmp_ps(states, _mm256_setzero_ps(), _CMP_NEQ_OQ);
        const __m256i byte = _mm256_set1_epi32(static_cast<int>((row < job.half ? 1u : 255u) << 8 * k));
        four = _mm256_or_si256(four, _mm256_and_si256(_mm256_castps_si256(on), byte));
      }
      alignas(32) int32_t eight[kLanes];
      _mm256_store_si256(reinterpret_cast<__m256i*>(eight), four);
      for (uint32_t k = 0; k < kLanes; ++k) {
        const uint32_t place = column + k;
        packed[place / kBelow * groups + group].four[place % kBelow] = eight[k];
      }
    }
}

// floor(255 y + dither) as bytes, four rows together: (blocks of 8 columns, groups of rows, 8 columns, 4).
void pack_levels(const Correlated& job, int64_t first, int64_t last, __m256i* packed, int64_t groups) {
  for (int64_t group = first; group < last; ++group)
    for (int64_t column = 0; column < job.above; column += kLanes) {
      __m256i four = _mm256_setzero_si256();
      for (int64_t k = 0; k < std::min<int64_t>(kRows, job.rows - group * kRows); ++k) {
        const int64_t row = group * kRows + k;
        const __m256 value = load_some(job.y + row * job.above + column, job.above - column);
        const __m256 random = load_some(job.dither + row + column, job.above - column);
        // Whatever the rounding of the sum: a level is a byte.
        const __m256 level = _mm256_min_ps(_mm256_fmadd_ps(value, _mm256_set1_ps(255), random), _mm256_set1_ps(255));
        four = _mm256_or_si256(four, _mm256_slli_epi32(_mm256_cvttps_epi32(level), 8 * static_cast<int>(k)));
      }
      packed[column / kLanes * groups + group] = four;
    }
}

// Sums of one column of states with two vectors of columns of the others: of two rows each in 16 bits, 510 at most a group.
struct Sums {
  __m256i one{}, two{};

  void add(__m256i levels, __m256i more, int32_t states) {
    const __m256i x = _mm256_set1_epi32(states);
    one = _mm256_add_epi16(one, _mm256_maddubs_epi16(levels, x));
    two = _mm256_add_epi16(two, _mm256_maddubs_epi16(more, x));
    // One column after the other: GCC else multiplies all of them first, for which there are no registers.
    asm volatile("" : "+x"(one), "+x"(two));
  }

  void add_to(__m256i* total) const {
    const __m256i ones = _mm256_set1_epi16(1);
    total[0] = _mm256_add_epi32(total[0], _mm256_madd_epi16(one, ones));
    total[1] = _mm256_add_epi32(total[1], _mm256_madd_epi16(two, ones));
  }
};

// The sums of kBelow rows and 8 · kVectors columns of the result. Not inlined: it needs every register.
__attribute__((noinline)) void products(const States* states, const __m256i* levels, int64_t groups,
                                        __m256i (*total)[kVectors]) {
  for (int b = 0; b < kBelow; ++b) total[b][0] = total[b][1] = _mm256_setzero_si256();
  for (int64_t first = 0; first < groups; first += kChunk) {
    Sums a, b, c, d, e, f;
    for (int64_t g = first; g < std::min(first + kChunk, groups); ++g) {
      const __m256i some = levels[g], more = levels[groups + g];
      const int32_t* x = states[g].four;
      a.add(some, more, x[0]);
      b.add(some, more, x[1]);
      c.add(some, more, x[2]);
      d.add(some, more, x[3]);
      e.add(some, more, x[4]);
      f.add(some, more, x[5]);
    }
    a.add_to(total[0]);
    b.add_to(total[1]);
    c.add_to(total[2]);
    d.add_to(total[3]);
    e.add_to(total[4]);
    f.add_to(total[5]);
  }
}

}  // namespace

extern "C" {

// out = scale Σ_r ± x_r levels_rᵀ + leftᵀ right.
void correlate(const Correlated* given, int64_t threads) {
  const Correlated& job = *given;
  const int64_t groups = (job.rows + kRows - 1) / kRows, blocks = (job.above + kLanes - 1) / kLanes;
  // Kept between calls, since fresh memory is slow. Blocks more than there are, since some are always written or read
  // together.
  static thread_local std::vector<States> all_states;
  static thread_local std::vector<__m256i> all_levels;
  all_states.resize(((job.below + kLanes) / kBelow + 1) * groups);
  all_levels.resize((blocks + kVectors) * groups);
  States* const states = all_states.data();
  __m256i* const levels = all_levels.data();
  share(groups, 1, threads, [&](int64_t first, int64_t last) {
    pack_states(job, first, last, states, groups);
    pack_levels(job, first, last, levels, groups);
  });
  const __m256 unit = _mm256_set1_ps(job.scale);
  share(blocks, kVectors, threads, [&](int64_t begin, int64_t end) {
    __m256i total[kBelow][kVectors];
    for (int64_t block = begin; block < end; block += kVectors)
      for (int64_t row = 0; row < job.below; row += kBelow) {
        const int64_t some = std::min<int64_t>(kBelow, job.below - row);
        products(states + row / kBelow * groups, levels + block * groups, groups, total);
        for (int64_t b = 0; b < some; ++b)
          for (int64_t v = 0; v < std::min<int64_t>(kVectors, blocks - block); ++v) {
            const int64_t column = (block + v) * kLanes, valid = job.above - column;
            const float* right = job.right + column;
            __m256 sum = _mm256_mul_ps(_mm256_cvtepi32_ps(total[b][v]), unit);
            sum = _mm256_fmadd_ps(_mm256_set1_ps(job.left[row + b]), load_some(right, valid), sum);
            sum = _mm256_fmadd_ps(_mm256_set1_ps(job.left[job.below + row + b]), load_some(right + job.above, valid), sum);
            store_some(job.out + (row + b) * job.above + column, valid, sum);
          }
      }
  });
}
}
