// Conditionals of binary layers by products of bytes, 16 outputs a vector, four inputs a multiplication.
//
// A weight is a whole number of steps, 16 bits in two signed bytes, and a state is 0 or 1: two products of
// bytes, summed exactly in integers. It reads the weights as they stand, where look-ups build tables of them, and so suits
// weights that change with every step. Needs AVX-512 with VNNI.

#include "binary.h"

namespace {

constexpr int kInputs = 4;        // inputs a multiplication
constexpr int kSlices = 2;        // bytes a weight
constexpr int kChains = 12;       // chains whose sums are in registers together
constexpr int kTogether = 4;      // chains whose random numbers are made together
constexpr int kGroups = 128;      // groups whose weights stay in the first-level cache
constexpr float kLargest = 32600;  // just below 2^15 - 2^7, the most that two signed bytes hold

// The states of the inputs as bytes, (chains, stride).
void pack(const Job& job, int64_t first, int64_t count, int64_t stride, uint8_t* bytes) {
  for (int64_t chain = 0; chain < count; ++chain) {
    uint8_t* row = bytes + chain * stride;
    for (int64_t s = 0; s < job.num_sources; ++s) {
      const Source& source = job.sources[s];
      const float* x = source.states + (first + chain) * source.stride;
      for (int64_t i = 0; i < source.size; i += kLanes) {
        const __m512 states = _mm512_maskz_loadu_ps(leading(source.size - i), x + i);
        const __mmask16 on = _mm512_cmp_ps_mask(states, _mm512_setzero_ps(), _CMP_NEQ_OQ);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i), _mm_maskz_set1_epi8(on, 1));
      }
      row += (source.size + kInputs - 1) / kInputs * kInputs;
    }
  }
}

// Adds what `count` groups put into 16 outputs of some chains. Not inlined: it needs every register.
template <int kSome>
__attribute__((noinline, target("avx512vnni"))) void accumulate(const __m512i* weight, const uint8_t* states,
                                                                int64_t stride, int64_t count, __m512i* total) {
  __m512i sums[kSome][kSlices];
#pragma GCC unroll 12
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 2
    for (int s = 0; s < kSlices; ++s) sums[b][s] = total[b * kSlices + s];
  for (int64_t g = 0; g < count; ++g, weight += kSlices, states += kInputs) {
    const __m512i slices[kSlices] = {weight[0], weight[1]};
#pragma GCC unroll 12
    for (int b = 0; b < kSome; ++b) {
      int32_t four;
      std::memcpy(&four, states + b * stride, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int s = 0; s < kSlices; ++s) sums[b][s] = _mm512_dpbusd_epi32(sums[b][s], x, slices[s]);
    }
  }
#pragma GCC unroll 12
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 2
    for (int s = 0; s < kSlices; ++s) total[b * kSlices + s] = sums[b][s];
}

using Accumulate = void (*)(const __m512i*, const uint8_t*, int64_t, int64_t, __m512i*);
constexpr Accumulate kAccumulate[kChains] = {accumulate<1>, accumulate<2>,  accumulate<3>,  accumulate<4>,
                                             accumulate<5>, accumulate<6>,  accumulate<7>,  accumulate<8>,
                                             accumulate<9>, accumulate<10>, accumulate<11>, accumulate<12>};

// What one part of the chains needs. It is kept between calls, since fresh memory is slow.
struct Scratch {
  std::vector<uint8_t> states;
  std::vector<__m512i> sums;
};

// Some chains, and of the outputs those from `begin` to `end`.
template <bool kDraw>
void part(const Job& job, const Key& key, int64_t first, int64_t count, int64_t begin, int64_t end, Scratch& scratch) {
  const int64_t stride = job.groups * kInputs + kLanes;
  scratch.states.resize(count * stride);
  scratch.sums.resize(count * kSlices);
  pack(job, first, count, stride, scratch.states.data());
  const __m512i* weight = static_cast<const __m512i*>(job.weight);
  for (int64_t output = begin; output < end; output += kLanes) {
    std::fill(scratch.sums.begin(), scratch.sums.end(), _mm512_setzero_si512());
    for (int64_t g = 0; g < job.groups; g += kGroups)
      for (int64_t chain = 0; chain < count; chain += kChains)
        kAccumulate[std::min<int64_t>(kChains, count - chain) - 1](
            weight + (output / kLanes * job.groups + g) * kSlices, &scratch.states[chain * stride + g * kInputs], stride,
            std::min<int64_t>(kGroups, job.groups - g), &scratch.sums[chain * kSlices]);
    const __mmask16 valid = leading(job.outputs - output);
    const __m512 scale = _mm512_maskz_loadu_ps(valid, job.scale + output);
    const __m512 slope = _mm512_maskz_loadu_ps(valid, job.slope + output);
    const __m512 base = _mm512_maskz_loadu_ps(valid, job.base + output);
    for (int64_t chain = 0; chain < count; chain += kTogether) {
      __m512i bits[kTogether][1];
      if (kDraw) random_rows<kTogether / 2, 1>(key, first + chain, output, bits);
      for (int c = 0; c < std::min<int64_t>(kTogether, count - chain); ++c) {
        const __m512i* slices = &scratch.sums[(chain + c) * kSlices];
        const __m512 sum = _mm512_cvtepi32_ps(_mm512_add_epi32(_mm512_slli_epi32(slices[1], 8), slices[0]));
        const __m512 beta = _mm512_set1_ps(job.beta[first + chain + c]);
        const __m512 field = _mm512_fmadd_ps(beta, _mm512_fmadd_ps(sum, scale, slope), base);
        const __m512 result = kDraw ? _mm512_maskz_mov_ps(decide(field, bits[c][0]), _mm512_set1_ps(1.0f)) : field;
        _mm512_mask_storeu_ps(job.out + (first + chain + c) * job.outputs + output, valid, result);
      }
    }
  }
}

template <bool kDraw>
void run(const Job& job, uint64_t seed, int64_t threads) {
  const Key key = expand(seed);
  deal(job, kChains, kRoom, threads, [&](int64_t first, int64_t count, int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    part<kDraw>(job, key, first, count, begin, end, scratch);
  });
}

// Rows become columns.
void transpose(__m512 rows[kLanes]) {
  __m512 t[kLanes];
  for (int i = 0; i < kLanes; i += 4) {
    const __m512d a = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i], rows[i + 1]));
    const __m512d b = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i], rows[i + 1]));
    const __m512d c = _mm512_castps_pd(_mm512_unpacklo_ps(rows[i + 2], rows[i + 3]));
    const __m512d d = _mm512_castps_pd(_mm512_unpackhi_ps(rows[i + 2], rows[i + 3]));
    t[i] = _mm512_castpd_ps(_mm512_unpacklo_pd(a, c));
    t[i + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(a, c));
    t[i + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(b, d));
    t[i + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(b, d));
  }
  for (int i = 0; i < 4; ++i) {
    const __m512 a = _mm512_shuffle_f32x4(t[i], t[i + 4], 0x88), b = _mm512_shuffle_f32x4(t[i], t[i + 4], 0xDD);
    const __m512 c = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0x88);
    const __m512 d = _mm512_shuffle_f32x4(t[i + 8], t[i + 12], 0xDD);
    rows[i] = _mm512_shuffle_f32x4(a, c, 0x88);
    rows[i + 4] = _mm512_shuffle_f32x4(b, d, 0x88);
    rows[i + 8] = _mm512_shuffle_f32x4(a, c, 0xDD);
    rows[i + 12] = _mm512_shuffle_f32x4(b, d, 0xDD);
  }
}

// Weights of 16 inputs, a vector each, to 16 outputs; zeros beyond the last.
void load(const Weight& weight, int64_t input, int64_t output, int64_t outputs, __m512 rows[kLanes]) {
  const float* first = weight.data + input * weight.input_stride + output * weight.output_stride;
  const bool across = weight.output_stride == 1;
  const int64_t inputs = weight.inputs - input, count = across ? inputs : outputs - output;
  const __mmask16 valid = leading(across ? outputs - output : inputs);
  const int64_t stride = across ? weight.input_stride : weight.output_stride;
  for (int64_t i = 0; i < kLanes; ++i)
    rows[i] = i < count ? _mm512_maskz_loadu_ps(valid, first + i * stride) : _mm512_setzero_ps();
  if (!across) transpose(rows);
}

// Visits the weights to 16 outputs group by group, a vector an input.
template <typename Visit>
void visit(const Weight* weights, int64_t num, int64_t output, int64_t outputs, Visit visitor) {
  __m512 rows[kLanes];
  for (int64_t w = 0, begin = 0; w < num; ++w) {
    const int64_t padded = (weights[w].inputs + kInputs - 1) / kInputs * kInputs;
    for (int64_t i = 0; i < padded; i += kLanes) {
      load(weights[w], i, output, outputs, rows);
      for (int64_t k = 0; k < std::min<int64_t>(kLanes, padded - i); k += kInputs)
        visitor((begin + i + k) / kInputs, rows + k);
    }
    begin += padded;
  }
}

struct Size {
  float largest = 0;
  float total = 0;
};

// Takes every `threads`-th row of a matrix into account.
void measure(const Weight& weight, int64_t outputs, int64_t worker, int64_t threads, Size& size) {
  const bool across = weight.output_stride == 1;
  const int64_t rows = across ? weight.inputs : outputs, columns = across ? outputs : weight.inputs;
  const int64_t stride = across ? weight.input_stride : weight.output_stride;
  __m512 largest = _mm512_setzero_ps(), total = _mm512_setzero_ps();
  for (int64_t row = worker; row < rows; row += threads)
    for (int64_t column = 0; column < columns; column += kLanes) {
      const __m512 entries = _mm512_maskz_loadu_ps(leading(columns - column), weight.data + row * stride + column);
      largest = _mm512_max_ps(largest, _mm512_abs_ps(entries));
      total = _mm512_add_ps(total, _mm512_abs_ps(entries));
    }
  size.largest = std::max(size.largest, _mm512_reduce_max_ps(largest));
  size.total += _mm512_reduce_add_ps(total);
}

}  // namespace

extern "C" {

// Inputs of a group, of which every source fills whole ones.
int64_t sliced_inputs() { return kInputs; }

// Bytes for the prepared weights.
int64_t sliced_room(int64_t outputs, int64_t groups) {
  return (outputs + kLanes - 1) / kLanes * groups * kSlices * sizeof(__m512i);
}

// Rounds weights to whole steps of one size, the same for a matrix and its transpose. One of the two strides of every
// matrix is 1. `packed`: (blocks of 16 outputs, groups, slices, 16 outputs, 4 inputs).
void sliced_prepare(const Weight* weights, int64_t num, int64_t outputs, int64_t groups, void* packed, float* scale,
                    int64_t threads) {
  std::vector<Size> sizes(threads);
  spread(threads, [&](int64_t worker) {
    for (int64_t w = 0; w < num; ++w) measure(weights[w], outputs, worker, threads, sizes[worker]);
  });
  float largest = 0, total = 0;
  for (const Size& size : sizes) {
    largest = std::max(largest, size.largest);
    total += size.total;
  }
  // Weights that are no finite numbers must not pass unseen; a step of 0 for those too small to matter.
  if (!std::isfinite(total)) return void(std::fill(scale, scale + outputs, NAN));
  const float step = largest / kLargest;
  std::fill(scale, scale + outputs, step);
  const __m512 inverse = _mm512_set1_ps(step < 0x1p-126f ? 0 : 1 / step);
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker * kLanes; output < outputs; output += threads * kLanes) {
      __m512i* block = static_cast<__m512i*>(packed) + output / kLanes * groups * kSlices;
      visit(weights, num, output, outputs, [&](int64_t group, const __m512* w) {
        __m512i slices[kSlices] = {};
        for (int i = 0; i < kInputs; ++i) {
          // Signed digits to the base 256: adding 128 at every digit and taking it away again, digit by digit.
          const __m512i half = _mm512_set1_epi32(0x8080);
          const __m512i whole = _mm512_cvtps_epi32(_mm512_mul_ps(w[i], inverse));
          const __m512i digits = _mm512_xor_epi32(_mm512_add_epi32(whole, half), half);
          for (int s = 0; s < kSlices; ++s) {
            const __m512i digit = _mm512_and_si512(_mm512_srli_epi32(digits, 8 * s), _mm512_set1_epi32(255));
            slices[s] = _mm512_or_si512(slices[s], _mm512_slli_epi32(digit, 8 * i));
          }
        }
        std::copy(slices, slices + kSlices, block + group * kSlices);
      });
    }
  });
}

void sliced_field(const Job* job, int64_t threads) { run<false>(*job, 0, threads); }

void sliced_draw(const Job* job, uint64_t seed, int64_t threads) { run<true>(*job, seed, threads); }
}
