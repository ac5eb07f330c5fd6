// Conditionals of binary layers by table look-up, 16 chains a vector, five inputs a look-up. Needs AVX-512.
//
// Five binary inputs have 32 joint states. For one output and five inputs the 32 sums of weights are a table in two
// registers, and one permutation looks 16 chains up in it: 80 multiplications in one instruction, where a fused
// multiply-add does 16. Weights are 32-bit fixed point, so sums are exact and no order of them matters. Tables are built
// when they are needed and stay in the cache while all chains of a part pass over them.

#include "binary.h"

namespace {

constexpr int kBlocks = 4;              // vectors of chains in registers together
constexpr int kColumns = 4;             // outputs in registers together: the four words of one random number
constexpr int kGroups = 32;             // groups whose tables stay in the first-level cache

// The state of every group of five inputs, (blocks of 16 chains, groups, 16 chains).
void pack(const Job& job, int64_t first, int64_t count, __m512i* index) {
  const int64_t groups = job.groups;
  int64_t begin = 0;
  for (int64_t s = 0; s < job.num_sources; ++s) {
    const Source& source = job.sources[s];
    const int64_t own = (source.size + kFive - 1) / kFive, row_bytes = (source.size + 15) / 16 * 2 + 4;
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
        const int64_t bit = g * kFive;
        __m512i word = _mm512_i32gather_epi32(rows, bits.data() + bit / 8, 1);
        word = _mm512_srl_epi32(word, _mm_cvtsi64_si128(bit % 8));
        for (int64_t k = g; k < std::min(g + 5, own); ++k) {
          target[k] = _mm512_and_si512(word, _mm512_set1_epi32(31));
          word = _mm512_srli_epi32(word, kFive);
        }
      }
    }
    begin += own;
  }
}

// The 32 sums of every group of one output.
void build(const int32_t* weight, int64_t groups, int64_t ahead, __m512i* table) {
  for (int64_t g = 0; g < groups; ++g, weight += kFive) {
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
      const int32_t* row = static_cast<const int32_t*>(job.weight) + std::min(output + c, job.outputs - 1) * row_size(job.groups);
      build(row + g * kFive, some, kColumns * row_size(job.groups), scratch.table + 2 * c);
    }
    for (int64_t block = 0; block < blocks; block += kBlocks)
      kAccumulate[std::min<int64_t>(kBlocks, blocks - block) - 1](
          scratch.table, &scratch.index[block * job.groups + g], job.groups, some, &scratch.sums[block * kColumns]);
  }
}

inline __m512 finish(const Job& job, __m512i sum, __m512 beta, int64_t output) {
  output = std::min(output, job.outputs - 1);
  const __m512 input =
      _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), _mm512_set1_ps(job.scale[output]), _mm512_set1_ps(job.slope[output]));
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
  deal(job, kLanes * kBlocks, kRoom, threads, [&](int64_t first, int64_t count, int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    part<kDraw>(job, key, first, count, begin, end, scratch);
  });
}

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
    const int64_t padded = (weights[w].inputs + kFive - 1) / kFive * kFive;
    for (int64_t i = 0; i < padded; i += 16)
      visitor(begin + i, leading(padded - i), load(weights[w], i, output, leading(weights[w].inputs - i)));
    begin += padded;
  }
}

}  // namespace

extern "C" {

// Inputs of a group, of which every source fills whole ones.
int64_t lookup_inputs() { return kFive; }

// Bytes for the prepared weights.
int64_t lookup_room(int64_t outputs, int64_t groups) { return outputs * row_size(groups) * sizeof(int32_t); }

// Rounds weights to multiples of one power of two, which leaves every sum below 2^30 and what rounding adds.
void lookup_prepare(const Weight* weights, int64_t num, int64_t outputs, int64_t groups, int32_t* whole, float* scale,
                    int64_t threads) {
  std::vector<float> totals(outputs);
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads) {
      __m512 sum = _mm512_setzero_ps();
      visit(weights, num, output, [&](int64_t, __mmask16, __m512 w) { sum = _mm512_add_ps(sum, _mm512_abs_ps(w)); });
      totals[output] = _mm512_reduce_add_ps(sum);
    }
  });
  float largest = 0;
  for (const float total : totals) {
    largest = total <= largest ? largest : total;
    if (!std::isfinite(total)) return void(std::fill(scale, scale + outputs, NAN));
  }
  const int exponent = std::max(std::ilogb(largest) + 1, -90) - 30;
  const __m512 inverse = _mm512_set1_ps(std::ldexp(1.0f, -exponent));
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads)
      visit(weights, num, output, [&](int64_t place, __mmask16 valid, __m512 w) {
        int32_t* target = whole + output * row_size(groups) + place;
        _mm512_mask_storeu_epi32(target, valid, _mm512_cvtps_epi32(_mm512_mul_ps(w, inverse)));
      });
  });
  std::fill(scale, scale + outputs, std::ldexp(1.0f, exponent));
}

void lookup_field(const Job* job, int64_t threads) { run<false>(*job, 0, threads); }

void lookup_draw(const Job* job, uint64_t seed, int64_t threads) { run<true>(*job, seed, threads); }
}
