// What every kernel of a layer of binary sites with AVX-512 shares: random numbers and the decision.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "jobs.h"

constexpr int kLanes = 16;          // numbers a vector
constexpr int kWidth = 2 * kLanes;  // outputs that no two threads share
constexpr int kFive = 5;            // inputs a group of look-ups, of which every source fills whole ones
constexpr int64_t kRoom = 192 << 10;  // groups of inputs of single chains in a part

// The first lanes, at most 16.
inline __mmask16 leading(int64_t count) { return count >= kLanes ? 0xFFFF : count <= 0 ? 0 : (1u << count) - 1; }

// Weights of one output for look-ups, whole lines of memory.
inline int64_t row_size(int64_t groups) { return (groups * kFive + kLanes - 1) / kLanes * kLanes; }

struct Key {
  __m512i rounds[10][2];
};

// Philox 4x32-10 (Salmon et al., 2011). Each 64-bit lane works on its low half; what is above is ignored.
inline Key expand(uint64_t seed) {
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

// Several counters at once: one alone would wait for its own multiplications.
template <int kSome>
inline void philox(const Key& key, __m512i (&counter)[kSome][4]) {
  const __m512i m0 = _mm512_set1_epi64(0xD2511F53u), m1 = _mm512_set1_epi64(0xCD9E8D57u);
  for (const auto& round : key.rounds)
#pragma GCC unroll 4
    for (auto& c : counter) {
      const __m512i first = _mm512_mul_epu32(c[0], m0), second = _mm512_mul_epu32(c[2], m1);
      c[0] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(second, 32), c[1], round[0], 0x96);
      c[2] = _mm512_ternarylogic_epi64(_mm512_srli_epi64(first, 32), c[3], round[1], 0x96);
      c[1] = second;
      c[3] = first;
    }
}

// Four vectors of 32 random bits for 16 chains in a row: word w of chain c is word w of the counter (c, number, 0, 0).
inline void random_words(const Key& key, int64_t chain, uint32_t number, __m512i words[4]) {
  const __m512i even = _mm512_add_epi64(_mm512_set1_epi64(chain), _mm512_setr_epi64(0, 2, 4, 6, 8, 10, 12, 14));
  const __m512i odd = _mm512_add_epi64(even, _mm512_set1_epi64(1)), zero = _mm512_setzero_si512();
  __m512i counter[2][4] = {{even, _mm512_set1_epi64(number), zero, zero}, {odd, _mm512_set1_epi64(number), zero, zero}};
  philox(key, counter);
  for (int w = 0; w < 4; ++w)
    words[w] = _mm512_mask_blend_epi32(0xAAAA, counter[0][w], _mm512_slli_epi64(counter[1][w], 32));
}

// The random bits of 16 * kVectors outputs of 2 * kPairs chains in a row, (chains, vectors): output j of chain c has word
// j mod 4 of the counter (c, j / 4, 0, 0).
template <int kPairs, int kVectors>
inline void random_rows(const Key& key, int64_t chain, int64_t output, __m512i (&bits)[2 * kPairs][kVectors]) {
  __m512i counter[kPairs * kVectors][4];
  for (int p = 0; p < kPairs; ++p)
    for (int v = 0; v < kVectors; ++v) {
      const __m512i pair = _mm512_add_epi64(_mm512_set1_epi64(chain + 2 * p), _mm512_setr_epi64(0, 1, 0, 1, 0, 1, 0, 1));
      const __m512i four =
          _mm512_add_epi64(_mm512_set1_epi64(output / 4 + 4 * v), _mm512_setr_epi64(0, 0, 1, 1, 2, 2, 3, 3));
      __m512i* c = counter[p * kVectors + v];
      c[0] = pair, c[1] = four, c[2] = c[3] = _mm512_setzero_si512();
    }
  philox(key, counter);
  for (int p = 0; p < kPairs; ++p)
    for (int v = 0; v < kVectors; ++v) {
      const __m512i* words = counter[p * kVectors + v];
      const __m512i low = _mm512_mask_blend_epi32(0xAAAA, words[0], _mm512_slli_epi64(words[1], 32));
      const __m512i high = _mm512_mask_blend_epi32(0xAAAA, words[2], _mm512_slli_epi64(words[3], 32));
      bits[2 * p][v] = _mm512_unpacklo_epi64(low, high);
      bits[2 * p + 1][v] = _mm512_unpackhi_epi64(low, high);
    }
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

// A site's field and its number u: how far u is from deciding otherwise.
struct Decision {
  __mmask16 state;
  __m512 distance;  // of u from the probability of the nearer tail, times 1 + tail
  __m512 tail;      // exp(-|field|)
};

// 1 where u < sigmoid(field). Above 0 it is 1 - u that is compared with 1 - sigmoid: either tail keeps its digits.
inline Decision weigh(__m512 field, __m512i bits) {
  const __m512 e = exp_minus(_mm512_abs_ps(field));
  const __mmask16 above = _mm512_cmp_ps_mask(field, _mm512_setzero_ps(), _CMP_GT_OQ);
  bits = _mm512_mask_xor_epi32(bits, above, bits, _mm512_set1_epi32(-1));
  const __m512 u = _mm512_fmadd_ps(_mm512_cvtepu32_ps(bits), _mm512_set1_ps(0x1p-32f), _mm512_set1_ps(0x1p-33f));
  const __m512 distance = _mm512_sub_ps(_mm512_fmadd_ps(u, e, u), e);
  const __mmask16 below = _mm512_cmp_ps_mask(distance, _mm512_setzero_ps(), _CMP_LT_OQ);
  return {_kxor_mask16(below, above), distance, e};
}

inline __mmask16 decide(__m512 field, __m512i bits) { return weigh(field, bits).state; }

// log(1 + exp(field)), by the series of artanh.
inline __m512 softplus(__m512 field) {
  const __m512 e = exp_minus(_mm512_abs_ps(field));
  const __m512 s = _mm512_div_ps(e, _mm512_add_ps(e, _mm512_set1_ps(2.0f))), square = _mm512_mul_ps(s, s);
  __m512 p = _mm512_set1_ps(2.0f / 13);
  for (float c : {2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f})
    p = _mm512_fmadd_ps(p, square, _mm512_set1_ps(c));
  return _mm512_fmadd_ps(p, s, _mm512_max_ps(field, _mm512_setzero_ps()));
}

// Deals the chains in parts of whole `unit`s to threads: part(first chain, their number, first output, end of the outputs).
// A part has at most `room` groups of inputs of single chains, to stay in the second-level cache.
template <typename Part>
void deal(const Job& job, int64_t unit, int64_t room, int64_t threads, Part part) {
  const int64_t parts = std::max<int64_t>((job.chains * job.groups + room - 1) / room, 1);
  const int64_t size = ((job.chains + parts - 1) / parts + unit - 1) / unit * unit;
  // Where chains are few, threads share the outputs rather than read all weights.
  const int64_t ranges = parts < threads ? threads : 1;
  const int64_t width = ((job.outputs + ranges - 1) / ranges + kWidth - 1) / kWidth * kWidth;
  spread(threads, [&](int64_t worker) {
    for (int64_t task = worker; task < parts * ranges; task += threads) {
      const int64_t first = task / ranges * size, begin = task % ranges * width;
      if (first < job.chains && begin < job.outputs)
        part(first, std::min(size, job.chains - first), begin, std::min(begin + width, job.outputs));
    }
  });
}
