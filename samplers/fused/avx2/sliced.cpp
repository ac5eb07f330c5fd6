// Conditionals of binary layers by 16 bits of every weight, for weights that change with every step. Needs AVX2.

#include "tables.h"

namespace {

constexpr float kLargest = 65'500;  // of a group's sizes in steps, below what rounding may add up to

// Two groups are written at once, whose second may lie beyond the last.
inline int64_t row_size(int64_t groups) { return groups + 1; }

inline void sum_steps(const Part& part, int64_t output, int column) {
  const auto* groups = static_cast<const Halves*>(part.job.weight) + output * row_size(part.job.groups);
  sum_digits(part, {groups, 0, false}, column, true);
}

// A matrix by rows, whichever of its two sides they are.
struct Rows {
  const float* data;
  int64_t stride, rows, columns;

  Rows(const Weight& weight, int64_t outputs) : data(weight.data) {
    const bool across = weight.output_stride == 1;
    stride = across ? weight.input_stride : weight.output_stride;
    rows = across ? weight.inputs : outputs;
    columns = across ? outputs : weight.inputs;
  }
};

// The sums of four neighbours each, of four vectors: in the order of the vectors.
inline __m256 sums_of_four(const __m256 v[4]) {
  const __m256 sums = _mm256_hadd_ps(_mm256_hadd_ps(v[0], v[1]), _mm256_hadd_ps(v[2], v[3]));
  return sums;  // whichever half: only the largest counts
}

struct Size {
  float largest = 0;
  float total = 0;
};

// The largest sum of four neighbouring sizes in a row or a column, or twice the largest size; and all sizes together.
// Takes every `threads`-th four rows into account.
void measure(const Rows& matrix, int64_t worker, int64_t threads, Size& size) {
  __m256 largest = _mm256_setzero_ps(), total = _mm256_setzero_ps();
  for (int64_t row = 4 * worker; row < matrix.rows; row += 4 * threads)
    for (int64_t column = 0; column < matrix.columns; column += kLanes) {
      __m256 sizes[4];
      for (int64_t k = 0; k < 4; ++k)
        sizes[k] = row + k < matrix.rows
                       ? absolute(load_some(matrix.data + (row + k) * matrix.stride + column, matrix.columns - column))
                       : _mm256_setzero_ps();
      const __m256 sum = _mm256_add_ps(_mm256_add_ps(sizes[0], sizes[1]), _mm256_add_ps(sizes[2], sizes[3]));
      const __m256 most = _mm256_max_ps(_mm256_max_ps(sizes[0], sizes[1]), _mm256_max_ps(sizes[2], sizes[3]));
      largest = _mm256_max_ps(largest, _mm256_max_ps(sum, _mm256_add_ps(most, most)));
      largest = _mm256_max_ps(largest, sums_of_four(sizes));
      total = _mm256_add_ps(total, sum);
    }
  alignas(32) float values[kLanes];
  _mm256_store_ps(values, largest);
  size.largest = std::max(size.largest, *std::max_element(values, values + kLanes));
  _mm256_store_ps(values, total);
  for (const float value : values) size.total += value;
}

// Up to 8 numbers in whole steps. They fit 16 bits.
inline __m128i steps(const float* values, int64_t count, __m256 inverse) {
  const __m256i whole = _mm256_cvtps_epi32(_mm256_mul_ps(load_some(values, count), inverse));
  return _mm_packs_epi32(_mm256_castsi256_si128(whole), _mm256_extracti128_si256(whole, 1));
}

// Rows become columns.
inline void transpose(__m128i v[8]) {
  __m128i a[8], b[8];
  for (int i = 0; i < 4; ++i) {
    a[2 * i] = _mm_unpacklo_epi16(v[2 * i], v[2 * i + 1]);
    a[2 * i + 1] = _mm_unpackhi_epi16(v[2 * i], v[2 * i + 1]);
  }
  for (int i = 0; i < 8; i += 4)
    for (int k = 0; k < 2; ++k) {
      b[i + 2 * k] = _mm_unpacklo_epi32(a[i + k], a[i + k + 2]);
      b[i + 2 * k + 1] = _mm_unpackhi_epi32(a[i + k], a[i + k + 2]);
    }
  for (int i = 0; i < 4; ++i) {
    v[2 * i] = _mm_unpacklo_epi64(b[i], b[i + 4]);
    v[2 * i + 1] = _mm_unpackhi_epi64(b[i], b[i + 4]);
  }
}

// Eight weights to each of up to 8 outputs, a vector an output.
inline void load(const Weight& weight, int64_t input, int64_t output, int64_t some, __m256 inverse, __m128i eight[8]) {
  const float* first = weight.data + input * weight.input_stride + output * weight.output_stride;
  if (weight.output_stride != 1) {
    for (int64_t k = 0; k < some; ++k) eight[k] = steps(first + k * weight.output_stride, weight.inputs - input, inverse);
    return;
  }
  for (int64_t k = 0; k < 8; ++k)
    eight[k] = input + k < weight.inputs ? steps(first + k * weight.input_stride, some, inverse) : _mm_setzero_si128();
  transpose(eight);
}

// Rounds the weights to the outputs from `begin` to `end`, 8 after the other for the same inputs: their weights may be
// neighbours.
void round_outputs(const Weight* weights, int64_t num, int64_t begin, int64_t end, int64_t groups, __m256 inverse,
                   Halves* packed) {
  for (int64_t w = 0, group = 0; w < num; ++w) {
    for (int64_t i = 0; i < weights[w].inputs; i += 8)
      for (int64_t output = begin; output < end; output += 8) {
        const int64_t some = std::min<int64_t>(8, end - output);
        __m128i eight[8];
        load(weights[w], i, output, some, inverse, eight);
        for (int64_t k = 0; k < some; ++k) {
          Halves* row = packed + (output + k) * row_size(groups) + group + i / kFour;
          _mm256_storeu_si256(reinterpret_cast<__m256i*>(row), halves(eight[k]));
        }
      }
    group += (weights[w].inputs + kFour - 1) / kFour;
  }
}

}  // namespace

extern "C" {

// Inputs of a group, of which every source fills whole ones.
int64_t sliced_inputs() { return kFour; }

// Bytes for the prepared weights.
int64_t sliced_room(int64_t outputs, int64_t groups) { return outputs * row_size(groups) * sizeof(Halves); }

// Rounds weights to whole steps of one size, the same for a matrix and its transpose. One of the two strides of every
// matrix is 1.
void sliced_prepare(const Weight* weights, int64_t num, int64_t outputs, int64_t groups, void* packed, float* scale,
                    int64_t threads) {
  std::vector<Size> sizes(threads);
  spread(threads, [&](int64_t worker) {
    for (int64_t w = 0; w < num; ++w) measure(Rows(weights[w], outputs), worker, threads, sizes[worker]);
  });
  float largest = 0, total = 0;
  for (const Size& size : sizes) {
    largest = std::max(largest, size.largest);
    total += size.total;
  }
  // Weights that are no finite numbers must not pass unseen; a step of 0 for those too small to matter.
  if (!std::isfinite(total)) {
    std::memset(packed, 0, sliced_room(outputs, groups));
    return void(std::fill(scale, scale + outputs, NAN));
  }
  const float step = largest / kLargest;
  std::fill(scale, scale + outputs, step);
  const __m256 inverse = _mm256_set1_ps(step < 0x1p-126f ? 0 : 1 / step);
  share(outputs, kWidth, threads, [&](int64_t begin, int64_t end) {
    for (int64_t output = begin; output < end; output += kWidth)
      round_outputs(weights, num, output, std::min(output + kWidth, end), groups, inverse, static_cast<Halves*>(packed));
  });
}

void sliced_field(const Job* job, int64_t threads) { fields(*job, threads, sum_steps); }

void sliced_draw(const Job* job, uint64_t seed, int64_t threads) { draws(*job, seed, threads, sum_steps); }
}
