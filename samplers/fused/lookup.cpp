// Conditionals of binary layers by table look-up, 16 chains a vector, five inputs a look-up. Needs AVX-512.
//
// Five binary inputs have 32 joint states. For one output and five inputs the 32 sums of weights are a table in two
// registers, and one permutation looks 16 chains up in it: 80 multiplications in one instruction, where a fused
// multiply-add does 16. Weights are 32-bit fixed point, so sums are exact and no order of them matters. Tables are built
// when they are needed and stay in the cache while all chains of a part pass over them.

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <thread>
#include <vector>

namespace {

constexpr int kInputs = 5;              // inputs a table
constexpr int kLanes = 16;              // chains a vector
constexpr int kBlocks = 4;              // vectors of chains in registers together
constexpr int kColumns = 4;             // outputs in registers together: the four words of one random number
constexpr int kGroups = 32;             // groups whose tables stay in the first-level cache
constexpr int64_t kPartBytes = 768 << 10;  // indices of one part of the chains, to stay in the second-level cache

// The first lanes, at most 16.
inline __mmask16 leading(int64_t count) { return count >= kLanes ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1; }

struct Key {
  __m512i rounds[10][2];
};

// Philox 4x32-10 (Salmon et al., 2011). Each 64-bit lane works on its low half; what is above is ignored.
Key expand(uint64_t seed) {
  Key key;
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  for (auto& round : key.rounds) {
    round[0] = _mm512_set1_epi64(low);
    round[1] = _mm512_set1_epi64(high);
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return key;
}

inline void philox(const Key& key, __m512i counter[4]) {
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53u), m1 = _mm512_set1_epi64(0xCD9E8D57u);
  for (const auto& round : key.rounds) {
    const __m512i first = _mm512_mul_epu32(counter[0], m0), second = _mm512_mul_epu32(counter[2], m1);
    counter[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(second, 32), counter[1], round[0], 0x96);
    counter[2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(first, 32), counter[3], round[1], 0x96);
    counter[1] = second;
    counter[3] = first;
  }
}

// Four vectors of 32 random bits for 16 chains in a row: word w of chain c is word w of the counter (c, number, 0, 0).
inline void random_words(const Key& key, int64_t chain, uint32_t number, __m512i words[4]) {
  const __m512i even = _mm512_add_epi64(_mm512_set1_epi64(chain), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
  __m512i a[4] = {even, _mm512_set1_epi64(number), _mm512_setzero_si512(), _mm512_setzero_si512()};
  __m512i b[4] = {_mm512_add_epi64(even, _mm512_set1_epi64(1)), a[1], a[2], a[3]};
  philox(key, a);
  philox(key, b);
  for (int w = 0; w < 4; ++w) words[w] = _mm512_mask_blend_epi32(0xAAAA, a[w], _mm512_slli_epi64(b[w], 32));
}

// exp(-a) for a >= 0, to a few units in the last place.
inline __m512 exp_minus(__m512 a) {
  const __m512 t = _mm512_mul_ps(a, _mm512_set1_ps(-1.44269504f));
  const __m512 whole = _mm512_roundscale_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m512 r = _mm512_sub_ps(t, whole);
  __m512 p = _mm512_set1_ps(1.52527338e-5f);
  for (float c : {1.54035304e-4f, 1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f})
    p = _mm512_fmadd_ps(p, r, _mm512_set1_ps(c));
  return _mm512_scalef_ps(p, whole);
}

// 1 with probability sigmoid(field). The rarer of the two states is decided, so that its probability keeps its digits.
inline __mmask16 decide(__m512 field, __m512i bits) {
  const __m512 e = exp_minus(_mm512_abs_ps(field));
  const __m512 u = _mm512_fmadd_ps(_mm512_cvtepu32_ps(bits), _mm512_set1_ps(0x1p-32f), _mm512_set1_ps(0x1p-33f));
  const __mmask16 rare = _mm512_cmp_ps_mask(_mm512_fmadd_ps(u, e, u), e, _CMP_LT_OQ);
  return _kxor_mask16(rare, _mm512_cmp_ps_mask(field, _mm512_setzero_ps(), _CMP_GT_OQ));
}

// log(1 + exp(field)), by the series of artanh.
inline __m512 softplus(__m512 field) {
  const __m512 e = exp_minus(_mm512_abs_ps(field));
  const __m512 s = _mm512_div_ps(e, _mm512_add_ps(e, _mm512_set1_ps(2.0f))), square = _mm512_mul_ps(s, s);
  __m512 p = _mm512_set1_ps(2.0f / 13);
  for (float c : {2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f})
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(c));
  return _mm512_fmadd_ps(p, s, _mm512_max_ps(field, _mm512_setzero_ps()));
}

struct Source {
  const float* states;
  int64_t stride;
  int64_t size;
};

struct Job {
  const Source* sources;
  int64_t num_sources;
  const int32_t* weight;  // (outputs, 5 · groups), each source blocks to whole groups
  int64_t outputs;
  int64_t groups;
  float scale;
  const float* beta;  // one a chain
  const float* slope;
  const float* base;
  float* out;
  int64_t chains;
};

// The state of every group of five inputs, (blocks of 16 chains, groups, 16 chains).
void pack(const Job& job, int64_t first, int64_t count, __m512i* index) {
  const int64_t groups = job.groups;
  int64_t begin = 0;
  for (int64_t s = 0; s < job.num_sources; ++s) {
    const Source& source = job.sources[s];
    const int64_t own = (source.size + kInputs - 1) / kInputs, row_bytes = (source.size + 15) / 16 * 2 + 4;
    std::vector<uint8_t> bits(kLanes * row_bytes);
    const __m512i rows = _mm512_mullo_epi32(
        _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15), _mm512_set1_epi32(row_bytes));
    for (int64_t block = 0; block * kLanes < count; ++block) {
      for (int64_t lane = 0; lane < kLanes && block * kLanes + lane < count; ++lane) {
        const float* x = source.states + (first + block * kLanes + lane) * source.stride;
        for (int64_t i = 0; i < source.size; i += 16) {
          const __mmask16 valid = leading(source.size - i);
          const __mmask16 on = _mm512_cmp_ps_mask(_mm512_maskz_loadu_ps(valid, x + i), _mm512_setzero_ps(), _CMP_NEQ_OQ);
          std::memcpy(&bits[lane * row_bytes + i / 8], &on, 2);
        }
      }
      __m512i* target = index + block * groups + begin;
      for (int64_t g = 0; g < own; g += 5) {  // a word of 32 bits from any byte on holds 25 bits, five groups
        const int64_t bit = g * kInputs;
        __m512i word = _mm512_i32gather_epi32(rows, bits.data() + bit / 8, 1);
        word = _mm512_srl_epi32(word, _mm_cvtsi64_si128(bit % 8));
        for (int64_t k = g; k < std::min(g + 5, own); ++k) {
          target[k] = _mm512_and_si512(word, _mm512_set1_epi32(31));
          word = _mm512_srli_epi32(word, kInputs);
        }
      }
    }
    begin += own;
  }
}

// The 32 sums of every group of one output.
void build(const int32_t* weight, int64_t groups, int64_t ahead, __m512i* table) {
  for (int64_t g = 0; g < groups; ++g, weight += kInputs) {
    _mm_prefetch(weight + ahead, _MM_HINT_T0);  // of the next outputs: with few chains, waiting for weights is most of the time
    __m512i sums = _mm512_maskz_set1_epi32(0xAAAA, weight[0]);
    sums = _mm512_mask_add_epi32(sums, 0xCCCC, sums, _mm512_set1_epi32(weight[1]));
    sums = _mm512_mask_add_epi32(sums, 0xF0F0, sums, _mm512_set1_epi32(weight[2]));
    sums = _mm512_mask_add_epi32(sums, 0xFF00, sums, _mm512_set1_epi32(weight[3]));
    table[g * 2 * kColumns] = sums;
    table[g * 2 * kColumns + 1] = _mm512_add_epi32(sums, _mm512_set1_epi32(weight[4]));
  }
}

// 16 numbers from a table of 32. In assembly, since compilers copy the index, which is overwritten, instead of loading it.
inline __m512i look_up(const __m512i* index, __m512i low, __m512i high) {
  __m512i result;
  asm("vmovdqa32 %1, %0\n\tvpermi2d %3, %2, %0" : "=&v"(result) : "m"(*index), "v"(low), "v"(high));
  return result;
}

// Adds what `count` groups put into four outputs of some blocks of chains. Not inlined: it needs every register.
template <int kSome>
__attribute__((noinline)) void accumulate(const __m512i* table, const __m512i* index, int64_t stride, int64_t count,
                                          __m512i* total) {
  __m512i sums[kSome][kColumns];
#pragma GCC unroll 4
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) sums[b][c] = total[b * kColumns + c];
  for (int64_t g = 0; g < count; ++g, table += 2 * kColumns, ++index)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) {
      const __m512i low = table[2 * c], high = table[2 * c + 1];
#pragma GCC unroll 4
      for (int b = 0; b < kSome; ++b)
        sums[b][c] = _mm512_add_epi32(sums[b][c], look_up(index + b * stride, low, high));
    }
#pragma GCC unroll 4
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 4
    for (int c = 0; c < kColumns; ++c) total[b * kColumns + c] = sums[b][c];
}

using Accumulate = void (*)(const __m512i*, const __m512i*, int64_t, int64_t, __m512i*);
constexpr Accumulate kAccumulate[kBlocks] = {accumulate<1>, accumulate<2>, accumulate<3>, accumulate<4>};

// What one part of the chains needs. It is kept between calls, since fresh memory is slow.
struct Scratch {
  std::vector<__m512i> index;
  std::vector<__m512i> sums;
  std::vector<uint16_t> drawn;
  __m512i table[kGroups * kColumns * 2];
};

// The sums of four outputs over all inputs, for all chains of a part.
void sum_inputs(const Job& job, int64_t output, int64_t blocks, Scratch& scratch) {
  std::fill(scratch.sums.begin(), scratch.sums.end(), _mm512_setzero_si512());
  for (int64_t g = 0; g < job.groups; g += kGroups) {
    const int64_t some = std::min<int64_t>(kGroups, job.groups - g);
    for (int c = 0; c < kColumns; ++c) {
      const int32_t* row = job.weight + std::min(output + c, job.outputs - 1) * job.groups * kInputs;
      build(row + g * kInputs, some, kColumns * job.groups * kInputs, scratch.table + 2 * c);
    }
    for (int64_t block = 0; block < blocks; block += kBlocks)
      kAccumulate[std::min<int64_t>(kBlocks, blocks - block) - 1](
          scratch.table, &scratch.index[block * job.groups + g], job.groups, some, &scratch.sums[block * kColumns]);
  }
}

inline __m512 finish(const Job& job, __m512i sum, __m512 beta, int64_t output) {
  output = std::min(output, job.outputs - 1);
  const __m512 input =
      _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(job.scale), _mm512_set1_ps(job.slope[output]));
  return _mm512_fmadd_ps(beta, input, _mm512_set1_ps(job.base[output]));
}

// Four fields of 16 chains into their rows.
void write_fields(const __m512 fields[kColumns], float* out, int64_t stride, int64_t rows, __mmask8 valid) {
  const __m512 a = _mm512_unpacklo_ps(fields[0], fields[1]), b = _mm512_unpackhi_ps(fields[0], fields[1]);
  const __m512 c = _mm512_unpacklo_ps(fields[2], fields[3]), d = _mm512_unpackhi_ps(fields[2], fields[3]);
  alignas(64) float row[kLanes][kColumns];
  for (int k = 0; k < 4; ++k) {
    const __m512 low = k < 2 ? a : b, high = k < 2 ? c : d;
    const __m512 four = k % 2 == 0 ? _mm512_shuffle_ps(low, high, 0x44) : _mm512_shuffle_ps(low, high, 0xEE);
    for (int quarter = 0; quarter < 4; ++quarter)
      _mm_store_ps(row[4 * quarter + k], _mm512_castps512_ps128(_mm512_maskz_compress_ps(0xF << 4 * quarter, four)));
  }
  for (int64_t lane = 0; lane < rows; ++lane) _mm_mask_storeu_ps(out + lane * stride, valid, _mm_load_ps(row[lane]));
}

// Rows of 0 and 1 of 16 chains, from one bit mask over the chains for every output.
void write_states(const uint16_t* drawn, float* out, int64_t stride, int64_t rows, int64_t outputs) {
  for (int64_t output = 0; output < outputs; output += kLanes) {
    const __mmask16 valid = leading(outputs - output);
    __m256i columns = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(drawn + output));
    for (int64_t lane = kLanes - 1; lane >= 0; --lane, columns = _mm256_slli_epi16(columns, 1))
      if (lane < rows)
        _mm512_mask_storeu_ps(out + lane * stride + output, valid,
                              _mm512_maskz_mov_ps(_mm256_movepi16_mask(columns), _mm512_set1_ps(1.0f)));
  }
}

// Some chains, and of the outputs those from `begin` to `end`.
template <bool kDraw>
void part(const Job& job, const Key& key, int64_t first, int64_t count, int64_t begin, int64_t end, Scratch& scratch) {
  const int64_t blocks = (count + kLanes - 1) / kLanes, padded = (end - begin + kLanes - 1) / kLanes * kLanes;
  scratch.index.resize(blocks * job.groups);
  scratch.sums.resize(blocks * kColumns);
  scratch.drawn.resize(blocks * padded);
  pack(job, first, count, scratch.index.data());
  for (int64_t output = begin; output < end; output += kColumns) {
    sum_inputs(job, output, blocks, scratch);
    for (int64_t block = 0; block < blocks; ++block) {
      const int64_t chain = first + block * kLanes, rows = std::min<int64_t>(kLanes, job.chains - chain);
      const __m512 beta = _mm512_maskz_loadu_ps(leading(rows), job.beta + chain);
      __m512 fields[kColumns];
      for (int c = 0; c < kColumns; ++c) fields[c] = finish(job, scratch.sums[block * kColumns + c], beta, output + c);
      if (kDraw) {
        __m512i words[kColumns];
        random_words(key, chain, output / kColumns, words);
        for (int c = 0; c < kColumns; ++c)
          scratch.drawn[block * padded + output - begin + c] = decide(fields[c], words[c]);
      } else {
        const __mmask8 valid = (1u << std::min<int64_t>(kColumns, job.outputs - output)) - 1;
        write_fields(fields, job.out + chain * job.outputs + output, job.outputs, rows, valid);
      }
    }
  }
  for (int64_t block = 0; kDraw && block < blocks; ++block) {
    const int64_t chain = first + block * kLanes, rows = std::min<int64_t>(kLanes, job.chains - chain);
    write_states(&scratch.drawn[block * padded], job.out + chain * job.outputs + begin, job.outputs, rows, end - begin);
  }
}

template <bool kDraw>
void run(const Job& job, uint64_t seed, int64_t threads) {
  const Key key = expand(seed);
  const int64_t unit = kLanes * kBlocks, bytes = job.chains * job.groups * 4;
  const int64_t parts = (bytes + kPartBytes - 1) / kPartBytes;
  const int64_t size = ((job.chains + parts - 1) / parts + unit - 1) / unit * unit;
  // Where chains are few, threads share the outputs rather than build the same tables.
  const int64_t ranges = parts < threads ? threads : 1;
  const int64_t width = ((job.outputs + ranges - 1) / ranges + kLanes - 1) / kLanes * kLanes;
  auto work = [&](int64_t worker) {
    static thread_local Scratch scratch;
    for (int64_t task = worker; task < parts * ranges; task += threads) {
      const int64_t first = task / ranges * size, begin = task % ranges * width;
      if (first < job.chains && begin < job.outputs)
        part<kDraw>(job, key, first, std::min(size, job.chains - first), begin, std::min(begin + width, job.outputs),
                    scratch);
    }
  };
  std::vector<std::thread> others;
  for (int64_t worker = 1; worker < threads; ++worker) others.emplace_back(work, worker);
  work(0);
  for (auto& other : others) other.join();
}

struct Weight {
  const float* data;
  int64_t inputs;
  int64_t input_stride;
  int64_t output_stride;
};

// Up to 16 weights of neighbouring inputs to one output.
inline __m512 load(const Weight& weight, int64_t input, int64_t output, __mmask16 valid) {
  const float* first = weight.data + output * weight.output_stride + input * weight.input_stride;
  if (weight.input_stride == 1) return _mm512_maskz_loadu_ps(valid, first);
  const __m512i lanes = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  const __m512i offsets = _mm512_mullo_epi32(lanes, _mm512_set1_epi32(weight.input_stride));
  return _mm512_mask_i32gather_ps(_mm512_setzero_ps(), valid, offsets, first, 4);
}

template <typename Visit>
void visit(const Weight* weights, int64_t num, int64_t output, Visit visitor) {
  for (int64_t w = 0, begin = 0; w < num; ++w) {
    const int64_t padded = (weights[w].inputs + kInputs - 1) / kInputs * kInputs;
    for (int64_t i = 0; i < padded; i += 16)
      visitor(begin + i, leading(padded - i), load(weights[w], i, output, leading(weights[w].inputs - i)));
    begin += padded;
  }
}

}  // namespace

extern "C" {

// Rounds weights to multiples of the returned power of two, which leaves every sum below 2^30 and what rounding adds.
float lookup_prepare(const Weight* weights, int64_t num, int64_t outputs, int64_t groups, int32_t* whole) {
  float largest = 0;
  for (int64_t output = 0; output < outputs; ++output) {
    __m512 sum = _mm512_setzero_ps();
    visit(weights, num, output, [&](int64_t, __mmask16, __m512 w) { sum = _mm512_add_ps(sum, _mm512_abs_ps(w)); });
    const float total = _mm512_reduce_add_ps(sum);
    largest = total <= largest ? largest : total;
    if (std::isnan(total)) return total;
  }
  if (std::isinf(largest)) return largest;
  const int exponent = std::max(std::ilogb(largest) + 1, -90) - 30;
  const __m512 inverse = _mm512_set1_ps(std::ldexp(1.0f, -exponent));
  for (int64_t output = 0; output < outputs; ++output)
    visit(weights, num, output, [&](int64_t place, __mmask16 valid, __m512 w) {
      int32_t* target = whole + output * groups * kInputs + place;
      _mm512_mask_storeu_epi32(target, valid, _mm512_cvtps_epi32(_mm512_mul_ps(w, inverse)));
    });
  return std::ldexp(1.0f, exponent);
}

void lookup_field(const Job* job, int64_t threads) { run<false>(*job, 0, threads); }

void lookup_draw(const Job* job, uint64_t seed, int64_t threads) { run<true>(*job, seed, threads); }

// States of independent sites with fields beta * fields, (rows, width): 16 neighbouring sites a vector.
void draw_sites(const float* fields, int64_t rows, int64_t width, float beta, uint64_t seed, float* out) {
  const Key key = expand(seed);
  for (int64_t row = 0; row < rows; ++row)
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
}

// Sums over each row of log(1 + exp(beta * field)).
void log_partition(const float* fields, int64_t rows, int64_t width, float beta, double* out) {
  for (int64_t row = 0; row < rows; ++row) {
    __m512d sum = _mm512_setzero_pd();
    for (int64_t column = 0; column < width; column += kLanes) {
      const __mmask16 valid = leading(width - column);
      const __m512 field = _mm512_maskz_loadu_ps(valid, fields + row * width + column);
      const __m512 terms = _mm512_maskz_mov_ps(valid, softplus(_mm512_mul_ps(field, _mm512_set1_ps(beta))));
      sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_castps512_ps256(terms)));
      sum = _mm512_add_pd(sum, _mm512_cvtps_pd(_mm512_extractf32x8_ps(terms, 1)));
    }
    out[row] = _mm512_reduce_add_pd(sum);
  }
}
}
