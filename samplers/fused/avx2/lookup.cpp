// Conditionals of binary layers in full precision: draws by 16 bits of every weight and a bound of what they leave, or by all
// of it; fields by all of it. Needs AVX2.

#include "tables.h"

#include <atomic>

namespace {

constexpr int kRest = 14;              // bits of the whole weights' lower digits
constexpr float kRounding = 0x1p-21f;  // of float32, a few times over
constexpr float kPairing = 0x1p-6f;    // radius of a sum up to which leading digits may be shorter

// Whole weights of one output.
inline int64_t row_size(int64_t groups) { return round_up(groups * kFour, 16); }

inline const int32_t* row_of(const Job& job, int64_t output) {
  return static_cast<const int32_t*>(job.weight) + output * row_size(job.groups);
}

// What digit_of gives for each weight, as halves of tables.
template <typename DigitOf>
void split(const int32_t* whole, int64_t groups, DigitOf digit_of, Halves* target) {
  for (int64_t g = 0; g < groups; g += 2) {
    alignas(16) int16_t eight[8] = {};
    for (int64_t i = 0; i < std::min<int64_t>(8, (groups - g) * kFour); ++i)
      eight[i] = static_cast<int16_t>(digit_of(whole[g * kFour + i]));
    _mm256_storeu_si256(reinterpret_cast<__m256i*>(target + g),
                        halves(_mm_load_si128(reinterpret_cast<const __m128i*>(eight))));
  }
}

inline int32_t rounded(int32_t weight, int shift) { return shift == 0 ? weight : (weight + (1 << (shift - 1))) >> shift; }

// The sums of the whole weights, of their upper digits and their lower ones.
inline void sum_whole(const Part& part, int64_t output, int column) {
  static thread_local std::vector<Halves> memory;
  const int64_t groups = part.job.groups;
  memory.resize(groups + 1);
  const int32_t* whole = row_of(part.job, output);
  split(whole, groups, [](int32_t w) { return rounded(w, kRest); }, memory.data());
  sum_digits(part, {memory.data(), kRest, false}, column, true);
  split(whole, groups, [](int32_t w) { return w - rounded(w, kRest) * (1 << kRest); }, memory.data());
  sum_digits(part, {memory.data(), 0, false}, column, false);
}

// What is left of the weights: step of the leading digits, centre of the rest of a sum, and by how much that is off at most.
struct Rounded {
  const float* step;
  const float* centre;
  const float* radius;
};

// The leading digits of one output: how they are to be taken, in a line of its own, then the groups.
struct Leading {
  int32_t shift;
  int32_t paired;
};

inline int64_t leading_size(int64_t groups) { return groups + 2; }

struct Screen {
  const Halves* digits;
  const void* unused;
  Rounded one, two;

  Digits leading(int64_t groups, int64_t output) const {
    const Halves* row = digits + output * leading_size(groups);
    const auto* how = reinterpret_cast<const Leading*>(row);
    return {row + 1, how->shift, how->paired != 0};
  }
};

// The sum of the whole weights of the inputs that are on.
int32_t exact_sum(const Part& part, int64_t output, int64_t chain) {
  static const auto masks = [] {
    std::array<std::array<int32_t, 4>, 16> all{};
    for (int state = 0; state < 16; ++state)
      for (int i = 0; i < 4; ++i) all[state][i] = state >> i & 1 ? -1 : 0;
    return all;
  }();
  const int64_t groups = part.job.groups;
  const auto* states = reinterpret_cast<const uint8_t*>(part.index + chain / kBlock * groups) + place(chain % kBlock);
  const int32_t* whole = row_of(part.job, output);
  __m128i sum = _mm_setzero_si128();
  for (int64_t g = 0; g < groups; ++g) {
    const __m128i on = _mm_loadu_si128(reinterpret_cast<const __m128i*>(masks[states[g * kBlock]].data()));
    const __m128i weights = _mm_loadu_si128(reinterpret_cast<const __m128i*>(whole + g * kFour));
    sum = _mm_add_epi32(sum, _mm_and_si128(weights, on));
  }
  alignas(16) int32_t parts[4];
  _mm_store_si128(reinterpret_cast<__m128i*>(parts), sum);
  return parts[0] + parts[1] + parts[2] + parts[3];
}

// As `weigh`, with less care: the tail to 2^-17 of itself, the number to 2^-31.
inline Decision estimate(__m256 field, __m256i bits) {
  const __m256 t = _mm256_max_ps(_mm256_set1_ps(-127.0f), _mm256_mul_ps(absolute(field), _mm256_set1_ps(-1.44269504f)));
  const __m256 whole = _mm256_round_ps(t, _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
  const __m256 r = _mm256_sub_ps(t, whole);
  __m256 p = _mm256_set1_ps(9.66637e-3f);
  for (float c : {5.592198e-2f, 0.2402235f, 0.693121f, 1.0f}) p = _mm256_fmadd_ps(p, r, _mm256_set1_ps(c));
  const __m256i power = _mm256_slli_epi32(_mm256_add_epi32(_mm256_cvtps_epi32(whole), _mm256_set1_epi32(127)), 23);
  const __m256 e = _mm256_mul_ps(p, _mm256_castsi256_ps(power));
  const __m256 above = _mm256_cmp_ps(field, _mm256_setzero_ps(), _CMP_GT_OQ);
  const __m256i number = _mm256_srli_epi32(_mm256_xor_si256(bits, _mm256_castps_si256(above)), 1);
  const __m256 u = _mm256_mul_ps(_mm256_cvtepi32_ps(number), _mm256_set1_ps(0x1p-31f));
  const __m256 distance = _mm256_sub_ps(_mm256_fmadd_ps(u, e, u), e);
  return {_mm256_xor_ps(_mm256_cmp_ps(distance, _mm256_setzero_ps(), _CMP_LT_OQ), above), distance, e};
}

// Four outputs, by their leading digits where these suffice, else by the whole weights.
struct Screened {
  const Part& part;
  int64_t first;
  Columns exact;
  std::atomic<int64_t>& num_open;
  __m256 step[kColumns], centre[kColumns], radius[kColumns], slack[kColumns];

  Screened(const Part& part, int64_t first, const Rounded& rounded, std::atomic<int64_t>& num_open)
      : part(part), first(first), exact(part, first), num_open(num_open) {
    const __m256 rounding = _mm256_set1_ps(kRounding);
    for (int column = 0; column < kColumns; ++column) {
      const int64_t output = part.output(first + column);
      step[column] = _mm256_set1_ps(rounded.step[output]);
      centre[column] = _mm256_add_ps(exact.slope[column], _mm256_set1_ps(rounded.centre[output]));
      radius[column] = _mm256_fmadd_ps(rounding, absolute(exact.slope[column]), _mm256_set1_ps(rounded.radius[output]));
      slack[column] = _mm256_mul_ps(rounding, absolute(exact.base[column]));
    }
  }

  // The states of 8 chains; `open`: where the leading digits do not suffice.
  uint32_t roughly(int column, __m256i sum, __m256i word, __m256 beta, uint32_t& open) const {
    const __m256 input = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), step[column], centre[column]);
    const Decision rough = estimate(_mm256_fmadd_ps(beta, input, exact.base[column]), word);
    // By how much of itself the tail may change, if its field is off by `off` at most and the arithmetic by a little:
    // exp(r) - 1 <= r + r^2 for r <= 1.
    const __m256 off = _mm256_fmadd_ps(absolute(beta), radius[column], slack[column]);
    const __m256 reach = _mm256_fmadd_ps(off, off, _mm256_add_ps(off, _mm256_set1_ps(0x1p-16f)));
    const __m256 bound = _mm256_fmadd_ps(reach, rough.tail, _mm256_set1_ps(0x1p-30f));
    const __m256 clear = _mm256_cmp_ps(absolute(rough.distance), bound, _CMP_GT_OQ);
    const __m256 small = _mm256_cmp_ps(off, _mm256_set1_ps(1.0f), _CMP_LE_OQ);
    open = ~_mm256_movemask_ps(_mm256_and_ps(clear, small));
    return _mm256_movemask_ps(rough.state);
  }

  void decide(int64_t chain, __m256 beta, const __m256i* sums, const __m256i* words, uint32_t* states) const {
    uint32_t open[kColumns], any = 0;
#pragma GCC unroll 4
    for (int column = 0; column < kColumns; ++column) {
      states[column] = roughly(column, sums[column], words[column], beta, open[column]);
      any |= open[column];
    }
    any &= (1u << std::min<int64_t>(kLanes, part.count - chain)) - 1;
    if (!any) return;
    for (int column = 0; column < std::min<int64_t>(kColumns, part.end - first); ++column) {
      const uint32_t some = open[column] & any;
      if (some) states[column] = (states[column] & ~some) | settle(column, chain, some, words[column], beta);
    }
  }

  // The states of some chains by the whole weights.
  uint32_t settle(int column, int64_t chain, uint32_t some, __m256i word, __m256 beta) const {
    alignas(32) int32_t sums[kLanes] = {};
    for (uint32_t left = some; left; left &= left - 1) {
      const int lane = __builtin_ctz(left);
      sums[lane] = exact_sum(part, first + column, chain + lane);
    }
    num_open.fetch_add(__builtin_popcount(some), std::memory_order_relaxed);
    return exact.state(column, _mm256_load_si256(reinterpret_cast<const __m256i*>(sums)), word, beta) & some;
  }
};

// Rounds one output's weights to leading digits of so many bits; the centre and the radius of what a sum leaves, in whole
// numbers.
struct Rest {
  int shift = 0;
  double centre = 0, radius = 0;

  Rest(const int32_t* whole, int64_t groups, int bits) {
    int64_t largest = 0;
    for (int64_t g = 0; g < groups; ++g) {
      int64_t total = 0;
      for (int i = 0; i < kFour; ++i) {
        const int64_t size = std::abs(int64_t{whole[g * kFour + i]});
        total += size;
        largest = std::max(largest, 2 * size);
      }
      largest = std::max(largest, total);
    }
    while (largest > ((int64_t{1} << bits) - 6) << shift) ++shift;
    double above = 0, below = 0;
    for (int64_t i = 0; i < groups * kFour; ++i) {
      const int64_t rest = whole[i] - int64_t{rounded(whole[i], shift)} * (int64_t{1} << shift);
      above += std::max<int64_t>(rest, 0);
      below += std::max<int64_t>(-rest, 0);
    }
    centre = (above - below) / 2;
    radius = (above + below) / 2;
  }
};

template <typename Visit>
void visit_weights(const Weight* weights, int64_t num, int64_t output, Visit visit) {
  for (int64_t w = 0, begin = 0; w < num; ++w) {
    const Weight& weight = weights[w];
    const float* first = weight.data + output * weight.output_stride;
    for (int64_t i = 0; i < weight.inputs; ++i) visit(begin + i, first[i * weight.input_stride]);
    begin += round_up(weight.inputs, kFour);
  }
}

}  // namespace

extern "C" {

// Inputs of a group, of which every source fills whole ones.
int64_t lookup_inputs() { return kFour; }

// Bytes for the prepared weights.
int64_t lookup_room(int64_t outputs, int64_t groups) { return outputs * row_size(groups) * sizeof(int32_t); }

// Rounds weights to multiples of one power of two, which leaves every sum below 2^29: two digits of 14 bits and a sign.
void lookup_prepare(const Weight* weights, int64_t num, int64_t outputs, int64_t groups, void* packed, float* scale,
                    int64_t threads) {
  std::vector<float> totals(outputs);
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads)
      visit_weights(weights, num, output, [&](int64_t, float w) { totals[output] += std::fabs(w); });
  });
  float largest = 0;
  for (const float total : totals) {
    largest = total <= largest ? largest : total;
    if (std::isfinite(total)) continue;
    std::memset(packed, 0, lookup_room(outputs, groups));
    return void(std::fill(scale, scale + outputs, NAN));
  }
  // A little more room than a power of two, for what rounding adds.
  const int exponent = std::max(std::ilogb(double{largest} * (1 + 0x1p-13)) + 1, -90) - 29;
  const float inverse = std::ldexp(1.0f, -exponent);
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads) {
      int32_t* whole = static_cast<int32_t*>(packed) + output * row_size(groups);
      std::fill(whole, whole + groups * kFour, 0);
      visit_weights(weights, num, output, [&](int64_t place, float w) {
        whole[place] = static_cast<int32_t>(std::nearbyint(w * inverse));
      });
    }
  });
  std::fill(scale, scale + outputs, std::ldexp(1.0f, exponent));
}

void lookup_field(const Job* job, int64_t threads) { fields(*job, threads, sum_whole); }

void lookup_draw(const Job* job, uint64_t seed, int64_t threads) { draws(*job, seed, threads, sum_whole); }

// Bytes for the leading digits, and none for others.
int64_t screen_room(int64_t outputs, int64_t inputs, int64_t digit) {
  return digit == 0 ? outputs * leading_size(inputs / kFour) * sizeof(Halves) : 0;
}

// The leading digits of the whole numbers of lookup_prepare. `numbers`: step, centre and radius, each for all outputs.
void screen_prepare(const void* packed, int64_t outputs, int64_t inputs, const float* scale, Halves* digits, void*,
                    float* numbers, int64_t threads) {
  const int64_t groups = inputs / kFour;
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads) {
      const int32_t* whole = static_cast<const int32_t*>(packed) + output * row_size(groups);
      double total = 0;
      for (int64_t i = 0; i < inputs; ++i) total += std::abs(static_cast<double>(whole[i]));
      const Rest shorter(whole, groups, 14);
      const bool paired = shorter.radius * scale[output] <= kPairing;
      const Rest rest = paired ? shorter : Rest(whole, groups, 16);
      Halves* row = digits + output * leading_size(groups);
      *reinterpret_cast<Leading*>(row) = {rest.shift, paired};
      split(whole, groups, [&](int32_t w) { return rounded(w, rest.shift); }, row + 1);
      numbers[output] = scale[output];
      numbers[outputs + output] = scale[output] * rest.centre;
      // With what sums of this size lose in float32.
      numbers[2 * outputs + output] = scale[output] * (rest.radius + 4 * kRounding * total);
    }
  });
}

// Returns how many states the leading digits left open.
int64_t screen_draw(const Job* job, const Screen* screen, uint64_t seed, int64_t threads) {
  std::atomic<int64_t> num_open{0};
  draws(
      *job, seed, threads,
      [&](const Part& part, int64_t output, int column) {
        sum_digits(part, screen->leading(job->groups, output), column, true);
      },
      [&](const Part& part, int64_t output) { return Screened(part, output, screen->one, num_open); });
  return num_open;
}
}
