// What every kernel of a layer of binary sites with AVX2 shares: random numbers and the decision, 8 numbers a vector.
#pragma once

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>
#include <vector>

#include "../jobs.h"

constexpr int kLanes = 8;   // numbers a vector
constexpr int kFour = 4;    // inputs a group, of which every source fills whole ones
constexpr int kBlock = 32;  // chains a vector of bytes
constexpr int kWidth = 16;  // outputs that no two threads share
constexpr int64_t kRoom = 256 << 10;  // groups of inputs of single chains in a part, for the second-level cache

inline int64_t round_up(int64_t size, int64_t unit) { return (size + unit - 1) / unit * unit; }

// All bits of the first lanes, at most 8.
inline __m256i leading(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(std::clamp<int64_t>(count, 0, kLanes))),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// The first `count` numbers, and zeros.
inline __m256 load_some(const float* values, int64_t count) {
  return count >= kLanes ? _mm256_loadu_ps(values) : _mm256_maskload_ps(values, leading(count));
}

inline void store_some(float* out, int64_t count, __m256 values) {
  if (count >= kLanes)
    _mm256_storeu_ps(out, values);
  else
    _mm256_maskstore_ps(out, leading(count), values);
}

// One bit a lane that is not 0; what is no number counts as 0.
inline int nonzero(__m256 values) {
  return _mm256_movemask_ps(_mm256_cmp_ps(values, _mm256_setzero_ps(), _CMP_NEQ_OQ));
}

struct Key {
  __m256i rounds[10][2];
};

// Philox 4x32-10 (Salmon et al., 2011). Each 64-bit lane works on its low half; what is above is ignored.
inline Key expand(uint64_t seed) {
  Key key;
  uint32_t low = static_cast<uint32_t>(seed), high = static_cast<uint32_t>(seed >> 32);
  for (auto& round : key.rounds) {
    round[0] = _mm256_set1_epi64x(low);
    round[1] = _mm256_set1_epi64x(high);
    low += 0x9E3779B9u;
    high += 0xBB67AE85u;
  }
  return key;
}

// Four vectors of 32 random bits for 8 chains in a row: word w of chain c is word w of the counter (c, number, 0, 0).
inline void random_words(const Key& key, int64_t chain, uint32_t number, __m256i words[4]) {
  const __m256i even = _mm256_add_epi64(_mm256_set1_epi64x(chain), _mm256_setr_epi64x(0, 2, 4, 6));
  const __m256i odd = _mm256_add_epi64(even, _mm256_set1_epi64x(1)), zero = _mm256_setzero_si256();
  const __m256i m0 = _mm256_set1_epi64x(0xD2511F53u), m1 = _mm256_set1_epi64x(0xCD9E8D57u);
  __m256i counter[2][4] = {{even, _mm256_set1_epi64x(number), zero, zero}, {odd, _mm256_set1_epi64x(number), zero, zero}};
  for (const auto& round : key.rounds)
#pragma GCC unroll 2
    for (auto& c : counter) {
      const __m256i first = _mm256_mul_epu32(c[0], m0), second = _mm256_mul_epu32(c[2], m1);
      c[0] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(second, 32), c[1]), round[0]);
      c[2] = _mm256_xor_si256(_mm256_xor_si256(_mm256_srli_epi64(first, 32), c[3]), round[1]);
      c[1] = second;
      c[3] = first;
    }
  for (int w = 0; w < 4; ++w) words[w] = _mm256_blend_epi32(counter[0][w], _mm256_slli_epi64(counter[1][w], 32), 0xAA);
}

inline __m256 absolute(__m256 values) { return _mm256_andnot_ps(_mm256_set1_ps(-0.0f), values); }

// exp(-a) for a >= 0, to a few units in the last place; 0 below the smallest normal number.
inline __m256 exp_minus(__m256 a) {
  // The order of the arguments keeps what is no number.
  const __m256 t = _mm256_max_ps(_mm256_set1_ps(-127.0f), _mm256_mul_ps(a, _mm256_set1_ps(-1.44269504f)));
  const __m256 whole = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 r = _mm256_sub_ps(t, whole);
  __m256 p = _mm256_set1_ps(1.52527338e-5f);
  for (float c : {1.54035304e-4f, 1.33335581e-3f, 9.61812911e-3f, 5.55041087e-2f, 2.40226507e-1f, 6.93147181e-1f, 1.0f})
    p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
  return _mm256_mul_ps(p, _mm256_castsi256_ps(power));
}

// A site's field and its number u: how far u is from deciding otherwise.
struct Decision {
  __m256 state;     // all bits or none
  __m256 distance;  // of u from the probability of the nearer tail, times 1 + tail
  __m256 tail;      // exp(-|field|)
};

// 1 where u < sigmoid(field). Above 0 it is 1 - u that is compared with 1 - sigmoid: either tail keeps its digits.
inline Decision weigh(__m256 field, __m256i bits) {
  const __m256 e = exp_minus(absolute(field));
  const __m256 above = _mm256_cmp_ps(field, _mm256_setzero_ps(), _CMP_GT_OQ);
  bits = _mm256_xor_si256(bits, _mm256_castps_si256(above));
  const __m256 high = _mm256_cvtepi32_ps(_mm256_srli_epi32(bits, 16));
  const __m256 low = _mm256_cvtepi32_ps(_mm256_and_si256(bits, _mm256_set1_epi32(0xFFFF)));
  const __m256 number = _mm256_fmadd_ps(high, _mm256_set1_ps(65536.0f), low);
  const __m256 u = _mm256_fmadd_ps(number, _mm256_set1_ps(0x1p-32f), _mm256_set1_ps(0x1p-33f));
  const __m256 distance = _mm256_sub_ps(_mm256_fmadd_ps(u, e, u), e);
  const __m256 below = _mm256_cmp_ps(distance, _mm256_setzero_ps(), _CMP_LT_OQ);
  return {_mm256_xor_ps(below, above), distance, e};
}

// log(1 + exp(field)), by the series of artanh.
inline __m256 softplus(__m256 field) {
  const __m256 e = exp_minus(absolute(field));
  const __m256 s = _mm256_div_ps(e, _mm256_add_ps(e, _mm256_set1_ps(2.0f))), square = _mm256_mul_ps(s, s);
  __m256 p = _mm256_set1_ps(2.0f / 13);
  for (float c : {2.0f / 11, 2.0f / 9, 2.0f / 7, 2.0f / 5, 2.0f / 3, 2.0f})
    p = _mm256_fmadd_ps(p, square, _mm256_set1_ps(c));
  return _mm256_fmadd_ps(p, s, _mm256_max_ps(field, _mm256_setzero_ps()));
}
