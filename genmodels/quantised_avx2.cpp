// A soft threshold of a linear map, for many examples: products of small integers, summed exactly, without those of
// groups of zeros.
//
// Row by row, x − b is rounded to steps of its largest entry / levels and lifted by levels, because the instruction
// multiplies unsigned with signed bytes; `start` holds what takes the lift off every sum. Lanes are examples, so that
// every code has a list of its own of the groups of inputs that it looks at.

#include <immintrin.h>

#include <algorithm>
#include <cstdint>
#include <type_traits>
#include <vector>

namespace {

constexpr int64_t kGroup = 4;           // bytes of an example side by side; the same number stands in quantised.py
constexpr int64_t kCodes = 16;          // whose results make a whole line of memory
constexpr int64_t kLanes = 8;           // examples of a vector
constexpr int64_t kVectors = 8;         // of sums, which stay in registers
constexpr int64_t kRows = kLanes * kVectors;
constexpr int64_t kBytes = 32;          // of a vector

struct Problem {
  const float* x;          // num × size
  const float* bias;       // size, padded to whole vectors of bytes
  const int32_t* weight;   // four signed bytes for every group that a code looks at, code after code
  const int32_t* group;    // which group that is
  const int32_t* part;     // where the parts of these lists begin whose sums fit 16 bits, and the end
  const int32_t* first;    // codes + 1: every code's first part
  const int32_t* start;    // codes, −levels Σ_i weight
  const float* scale;      // codes, what one step of the weights is worth
  const float* threshold;  // codes
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

// Rows become columns.
inline void transpose(__m256i* rows) {
  __m256i pairs[8], fours[8];
  each<4>([&](auto i) {
    pairs[2 * i] = _mm256_unpacklo_epi32(rows[2 * i], rows[2 * i + 1]);
    pairs[2 * i + 1] = _mm256_unpackhi_epi32(rows[2 * i], rows[2 * i + 1]);
  });
  each<2>([&](auto i) {
    const __m256i *low = pairs + 4 * i, *high = low + 2;
    fours[4 * i] = _mm256_unpacklo_epi64(low[0], high[0]);
    fours[4 * i + 1] = _mm256_unpackhi_epi64(low[0], high[0]);
    fours[4 * i + 2] = _mm256_unpacklo_epi64(low[1], high[1]);
    fours[4 * i + 3] = _mm256_unpackhi_epi64(low[1], high[1]);
  });
  each<4>([&](auto i) {
    rows[i] = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x20);
    rows[4 + i] = _mm256_permute2x128_si256(fours[i], fours[4 + i], 0x31);
  });
}

class Tile {
 public:
  explicit Tile(const Problem& p)
      : p_(p),
        stride_((p.size + kBytes - 1) / kBytes * kBytes),
        bytes_(kRows * stride_),
        lanes_(stride_ / kGroup * kVectors) {}

  // Codes of the rows from `row` on, as far as these exist.
  void shrink(int64_t row) {
    quantise(row);
    for (int64_t column = 0; column < p_.codes; column += kCodes) {
      const int64_t codes = std::min(kCodes, p_.codes - column);
      // Rows far apart are more than the processor foresees: their lines are fetched while the sums are made.
      for (int64_t r = row; r < std::min(row + kRows, p_.num); ++r)
        __builtin_prefetch(p_.code + r * p_.codes + column, 1);
      for (int64_t c = 0; c < codes; ++c) one_code(column + c, found_ + c * kRows);
      store(row, column, codes);
    }
  }

 private:
  __m256 centred(const float* x, int64_t i) const {
    const __m256 bias = _mm256_loadu_ps(p_.bias + i);
    if (i + kLanes <= p_.size) return _mm256_sub_ps(_mm256_loadu_ps(x + i), bias);
    const __m256i left = _mm256_set1_epi32(static_cast<int>(p_.size - i));
    const __m256i in = _mm256_cmpgt_epi32(left, _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
    return _mm256_sub_ps(_mm256_maskload_ps(x + std::min(i, p_.size), in), bias);
  }

  // The bytes of all rows, groups of them side by side; rows after the last are the last one again.
  void quantise(int64_t row) {
    const float levels = static_cast<float>(p_.levels);
    const __m256 positive = _mm256_castsi256_ps(_mm256_set1_epi32(0x7FFFFFFF));
    const __m256i lift = _mm256_set1_epi8(static_cast<char>(p_.levels));
    const __m256i order = _mm256_setr_epi32(0, 4, 1, 5, 2, 6, 3, 7);
    for (int64_t r = 0; r < kRows; ++r) {
      const float* x = p_.x + std::min(row + r, p_.num - 1) * p_.size;
      __m256 largest = _mm256_set1_ps(1e-30f);
      for (int64_t i = 0; i < p_.size; i += kLanes)
        largest = _mm256_max_ps(largest, _mm256_and_ps(centred(x, i), positive));
      __m128 most = _mm_max_ps(_mm256_castps256_ps128(largest), _mm256_extractf128_ps(largest, 1));
      most = _mm_max_ps(most, _mm_movehl_ps(most, most));
      most = _mm_max_ss(most, _mm_shuffle_ps(most, most, 1));
      step_[r] = _mm_cvtss_f32(most) / levels;
      const __m256 inverse = _mm256_set1_ps(levels / _mm_cvtss_f32(most));
      for (int64_t i = 0; i < stride_; i += kBytes) {
        __m256i numbers[4];
        each<4>([&](auto v) { numbers[v] = _mm256_cvtps_epi32(_mm256_mul_ps(centred(x, i + v * kLanes), inverse)); });
        const __m256i low = _mm256_packs_epi32(numbers[0], numbers[1]);
        const __m256i high = _mm256_packs_epi32(numbers[2], numbers[3]);
        const __m256i packed = _mm256_permutevar8x32_epi32(_mm256_packs_epi16(low, high), order);
        _mm256_storeu_si256(reinterpret_cast<__m256i*>(bytes_.data() + r * stride_ + i), _mm256_add_epi8(packed, lift));
      }
    }
    for (int64_t i = 0; i < stride_; i += kBytes)
      for (int64_t v = 0; v < kVectors; ++v) {
        __m256i block[kLanes];
        each<kLanes>([&](auto r) {
          const uint8_t* from = bytes_.data() + (v * kLanes + r) * stride_ + i;
          block[r] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(from));
        });
        transpose(block);
        each<kLanes>([&](auto g) { lanes_[(i / kGroup + g) * kVectors + v] = block[g]; });
      }
  }

  // Adds one part of a code's list. Its sums have names, because an array of them would live in memory, and the function
  // is called, because what stands around it needs registers too.
  [[gnu::noinline]] void add_part(int64_t part) {
    __m256i a = _mm256_setzero_si256(), b = a, c = a, d = a, e = a, f = a, g = a, h = a;
    const int32_t *group = p_.group, *weights = p_.weight;
    const __m256i* lanes = lanes_.data();
    const auto add = [](__m256i& sum, const __m256i* x, __m256i weight) __attribute__((always_inline)) {
      // _mm256_add_epi16(sum, ...), but in place: a compiler that may choose copies sums to and fro.
      asm("vpaddw %1, %0, %0" : "+x"(sum) : "x"(_mm256_maddubs_epi16(_mm256_load_si256(x), weight)));
    };
    for (int64_t at = p_.part[part], end = p_.part[part + 1]; at < end; ++at) {
      const __m256i weight = _mm256_set1_epi32(weights[at]);
      const __m256i* x = lanes + group[at] * kVectors;
      add(a, x, weight), add(b, x + 1, weight), add(c, x + 2, weight), add(d, x + 3, weight);
      add(e, x + 4, weight), add(f, x + 5, weight), add(g, x + 6, weight), add(h, x + 7, weight);
    }
    const auto widen = [this](int64_t v, __m256i sum) __attribute__((always_inline)) {
      sums_[v] = _mm256_add_epi32(sums_[v], _mm256_madd_epi16(sum, _mm256_set1_epi16(1)));
    };
    widen(0, a), widen(1, b), widen(2, c), widen(3, d), widen(4, e), widen(5, f), widen(6, g), widen(7, h);
  }

  void one_code(int64_t c, float* found) {
    each<kVectors>([&](auto v) { sums_[v] = _mm256_set1_epi32(p_.start[c]); });
    for (int64_t part = p_.first[c]; part < p_.first[c + 1]; ++part) add_part(part);
    const __m256 scale = _mm256_set1_ps(p_.scale[c]), threshold = _mm256_set1_ps(p_.threshold[c]);
    const __m256 lowest = p_.non_negative ? _mm256_set1_ps(-3e38f) : _mm256_sub_ps(_mm256_setzero_ps(), threshold);
    each<kVectors>([&](auto v) {
      const __m256 step = _mm256_loadu_ps(step_ + v * kLanes);
      const __m256 drive = _mm256_mul_ps(_mm256_cvtepi32_ps(sums_[v]), _mm256_mul_ps(scale, step));
      const __m256 kept = _mm256_max_ps(_mm256_min_ps(drive, threshold), lowest);
      _mm256_storeu_ps(found + v * kLanes, _mm256_sub_ps(drive, kept));
    });
  }

  void store(int64_t row, int64_t column, int64_t codes) {
    const int64_t rows = std::min(kRows, p_.num - row);
    if (codes < kCodes) {
      for (int64_t r = 0; r < rows; ++r)
        for (int64_t c = 0; c < codes; ++c) p_.code[(row + r) * p_.codes + column + c] = found_[c * kRows + r];
      return;
    }
    for (int64_t v = 0; v < kVectors; ++v) {
      __m256i left[kLanes], right[kLanes];
      each<kLanes>([&](auto c) {
        left[c] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(found_ + c * kRows + v * kLanes));
        right[c] = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(found_ + (kLanes + c) * kRows + v * kLanes));
      });
      transpose(left), transpose(right);
      each<kLanes>([&](auto r) {
        auto* to = reinterpret_cast<__m256i*>(p_.code + (row + v * kLanes + r) * p_.codes + column);
        if (v * kLanes + r < rows) _mm256_storeu_si256(to, left[r]), _mm256_storeu_si256(to + 1, right[r]);
      });
    }
  }

  const Problem& p_;
  int64_t stride_;
  std::vector<uint8_t> bytes_;
  std::vector<__m256i> lanes_;  // groups × kVectors
  __m256i sums_[kVectors];
  float step_[kRows];
  float found_[kCodes * kRows];
};

}  // namespace

extern "C" void quantised_shrink(const Problem* problem, int64_t threads) {
#pragma omp parallel num_threads(threads)
  {
    Tile tile(*problem);
#pragma omp for schedule(static)
    for (int64_t row = 0; row < problem->num; row += kRows) tile.shrink(row);
  }
}
