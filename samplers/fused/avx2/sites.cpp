// Layers of independent sites whose fields are known. Needs AVX2.

#include "binary.h"

namespace {

template <typename Row>
void spread_rows(int64_t rows, int64_t threads, Row visit) {
  spread(threads, [&](int64_t worker) {
    for (int64_t row = worker * rows / threads; row < (worker + 1) * rows / threads; ++row) visit(row);
  });
}

constexpr int kColumns = 16;  // sites that share the words of one counter, so that every processor has the same numbers

}  // namespace

extern "C" {

// States of independent sites with fields beta * fields, (rows, width): 16 neighbouring sites have word w of their counters.
void draw_sites(const float* fields, int64_t rows, int64_t width, float beta, uint64_t seed, float* out,
                int64_t threads) {
  const Key key = expand(seed);
  spread_rows(rows, threads, [&](int64_t row) {
    for (int64_t column = 0; column < width; column += 4 * kColumns)
      for (int half = 0; half < 2; ++half) {
        __m256i words[4];
        random_words(key, column / 4 + half * kLanes, row, words);
        for (int w = 0; w < 4; ++w) {
          const int64_t first = column + w * kColumns + half * kLanes, place = row * width + first;
          if (first >= width) break;
          const __m256 field = _mm256_mul_ps(load_some(fields + place, width - first), _mm256_set1_ps(beta));
          const __m256 state = _mm256_and_ps(weigh(field, words[w]).state, _mm256_set1_ps(1.0f));
          store_some(out + place, width - first, state);
        }
      }
  });
}

// Sums over each row of log(1 + exp(beta * field)).
void log_partition(const float* fields, int64_t rows, int64_t width, float beta, double* out, int64_t threads) {
  spread_rows(rows, threads, [&](int64_t row) {
    __m256d sum = _mm256_setzero_pd();
    for (int64_t column = 0; column < width; column += kLanes) {
      const __m256 field = load_some(fields + row * width + column, width - column);
      const __m256 valid = _mm256_castsi256_ps(leading(width - column));
      const __m256 terms = _mm256_and_ps(valid, softplus(_mm256_mul_ps(field, _mm256_set1_ps(beta))));
      sum = _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_castps256_ps128(terms)));
      sum = _mm256_add_pd(sum, _mm256_cvtps_pd(_mm256_extractf128_ps(terms, 1)));
    }
    alignas(32) double parts[4];
    _mm256_store_pd(parts, sum);
    out[row] = (parts[0] + parts[1]) + (parts[2] + parts[3]);
  });
}
}
