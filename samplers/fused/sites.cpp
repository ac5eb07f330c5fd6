// Layers of independent sites whose fields are known. Needs AVX-512.

#include "binary.h"

namespace {

template <typename Row>
void spread_rows(int64_t rows, int64_t threads, Row visit) {
  spread(threads, [&](int64_t worker) {
    for (int64_t row = worker * rows / threads; row < (worker + 1) * rows / threads; ++row) visit(row);
  });
}

}  // namespace

extern "C" {

// States of independent sites with fields beta * fields, (rows, width): 16 neighbouring sites a vector.
void draw_sites(const float* fields, int64_t rows, int64_t width, float beta, uint64_t seed, float* out,
                int64_t threads) {
  const Key key = expand(seed);
  spread_rows(rows, threads, [&](int64_t row) {
    for (int64_t column = 0; column < width; column += 4 * kLanes) {
      __m512i words[4];
      random_words(key, column / 4, row, words);
      for (int w = 0; w < 4; ++w) {
        const int64_t place = row * width + column + w * kLanes;
        const __mmask16 valid = leading(width - column - w * kLanes);
        const __m512 field = _mm512_mul_ps(_mm512_maskz_loadu_ps(valid, fields + place), _mm512_set1_ps(beta));
        const __m512 states = _mm512_maskz_mov_ps(decide(field, words[w]), _mm512_set1_ps(1.0f));
        _mm512_mask_storeu_ps(out + place, valid, states);
      }
    }
  });
}

// Sums over each row of log(1 + exp(beta * field)).
void log_partition(const float* fields, int64_t rows, int64_t width, float beta, double* out, int64_t threads) {
  spread_rows(rows, threads, [&](int64_t row) {
    __m512d sum = _mm512_setzero_pd();
    for (int64_t column = 0; column < width; column += kLanes) {
      const __mmask16 valid = leading(width - column);
      const __m512 field = _mm512_maskz_loadu_ps(valid, fields + row * width + column);
      const __m512 terms = _mm512_maskz_mov_ps(valid, softplus(_mm512_mul_ps(field, _mm512_set1_ps(beta))));
      sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_castps512_ps256(terms)));
      sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_extractf32x8_ps(terms, 1)));
    }
    out[row] = _mm512_reduce_add_pd(sum);
  });
}
}
