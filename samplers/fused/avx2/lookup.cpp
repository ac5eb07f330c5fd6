// Conditionals of binary layers in full precision: draws by 16 bits of every weight and a bound of what they leave, or by all
// of it; fields by all of it. Needs AVX2.

#include "tables.h"

#include <atomic>

namespace {

constexpr int64_t kLargest = 65'533;  // of a group's sizes, in digits before they are rounded, for 16 bits
constexpr float kRounding = 0x1p-21f;  // of float32, a few times over

// One output as it is prepared: whole weights, their leading 16 bits, the latter's negative sums, and their shift.
struct Row {
  int32_t* whole;
  int16_t* digit;
  int32_t* below;
  int32_t* shift;
};

inline int64_t row_size(int64_t groups) {
  const int64_t inputs = round_up(groups * kFour, 16);
  return inputs + inputs / 2 + round_up(groups, 16) + 16;
}

inline Row row_of(const Job& job, int64_t output) {
  int32_t* whole = static_cast<int32_t*>(const_cast<void*>(job.weight)) + output * row_size(job.groups);
  const int64_t inputs = round_up(job.groups * kFour, 16);
  int32_t* below = whole + inputs + inputs / 2;
  return {whole, reinterpret_cast<int16_t*>(whole + inputs), below, below + round_up(job.groups, 16)};
}

inline void sum_negative(const int16_t* weight, int64_t groups, int32_t* below) {
  for (int64_t g = 0; g < groups; ++g, weight += kFour)
    below[g] = std::min<int>(weight[0], 0) + std::min<int>(weight[1], 0) + std::min<int>(weight[2], 0) + std::min<int>(weight[3], 0);
}

inline void sum_leading(const Part& part, int64_t output, int column) {
  const Row row = row_of(part.job, output);
  sum_digits(part, {row.digit, row.below, *row.shift}, column, true);
}

// The sums of the whole weights: of their leading 16 bits, and of the rest.
inline void sum_whole(const Part& part, int64_t output, int column) {
  const Row row = row_of(part.job, output);
  const int64_t groups = part.job.groups;
  static thread_local std::vector<int16_t> rest;
  static thread_local std::vector<int32_t> below;
  rest.resize(groups * kFour);
  below.resize(groups);
  for (int64_t i = 0; i < groups * kFour; ++i)
    rest[i] = static_cast<int16_t>(row.whole[i] - static_cast<int32_t>(static_cast<uint32_t>(row.digit[i]) << *row.shift));
  sum_negative(rest.data(), groups, below.data());
  sum_leading(part, output, column);
  sum_digits(part, {rest.data(), below.data(), 0}, column, false);
}

// The leading 16 bits of one output's weights.
void round_row(const Row& row, int64_t groups) {
  int64_t largest = 0;
  for (int64_t g = 0; g < groups; ++g) {
    int64_t total = 0;
    for (int i = 0; i < kFour; ++i) total += std::abs(int64_t{row.whole[g * kFour + i]});
    largest = std::max(largest, total);
  }
  int shift = 0;
  while (largest > kLargest << shift) ++shift;
  *row.shift = shift;
  const int64_t half = shift == 0 ? 0 : int64_t{1} << (shift - 1);
  for (int64_t g = 0; g < groups; ++g) {
    int64_t below = 0;
    for (int i = g * kFour; i < (g + 1) * kFour; ++i) {
      const int64_t digit = (row.whole[i] + half) >> shift;
      row.digit[i] = static_cast<int16_t>(digit);
      below += std::min<int64_t>(digit, 0);
    }
    row.below[g] = static_cast<int32_t>(below);
  }
}

// What is left of the weights: step of the leading digits, centre of the rest of a sum, and by how much that is off at most.
struct Rounded {
  const float* step;
  const float* centre;
  const float* radius;
};

struct Screen {
  const void* unused[2];
  Rounded one, two;
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
  const auto* states = reinterpret_cast<const uint8_t*>(&part.scratch.index[chain / kBlock * groups]) + place(chain % kBlock);
  const int32_t* whole = row_of(part.job, output).whole;
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

// The states of the chains in `open` by the whole weights.
uint32_t settle(const Part& part, int64_t chain, int64_t output, uint32_t open, __m256i word, __m256 beta) {
  alignas(32) int32_t sums[kLanes] = {};
  for (uint32_t some = open; some; some &= some - 1) {
    const int lane = __builtin_ctz(some);
    sums[lane] = exact_sum(part, output, chain + lane);
  }
  return decided(part.job, output, _mm256_load_si256(reinterpret_cast<const __m256i*>(sums)), word, beta) & open;
}

// Decides one output of 8 chains by the leading digits where they suffice. Returns the states; `open`: where they do not.
inline uint32_t decide_roughly(const Job& job, const Rounded& rounded, int64_t output, __m256i sum, __m256i word,
                               __m256 beta, uint32_t& open) {
  const auto all = [&](const float* values) { return _mm256_set1_ps(values[output]); };
  const __m256 input = _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), all(rounded.step), _mm256_add_ps(all(job.slope), all(rounded.centre)));
  const Decision rough = weigh(_mm256_fmadd_ps(beta, input, all(job.base)), word);
  // By how much of itself the tail may change, if its field is off by the radius at most and the arithmetic by a little:
  // exp(r) - 1 <= r + r^2 for r <= 1.
  const __m256 rounding = _mm256_set1_ps(kRounding);
  const __m256 off = _mm256_fmadd_ps(rounding, absolute(all(job.slope)), all(rounded.radius));
  const __m256 radius = _mm256_fmadd_ps(absolute(beta), off, _mm256_mul_ps(rounding, absolute(all(job.base))));
  const __m256 reach = _mm256_fmadd_ps(radius, radius, _mm256_add_ps(radius, _mm256_set1_ps(0x1p-18f)));
  const __m256 clear = _mm256_cmp_ps(absolute(rough.distance), _mm256_mul_ps(reach, rough.tail), _CMP_GT_OQ);
  const __m256 small = _mm256_cmp_ps(radius, _mm256_set1_ps(1.0f), _CMP_LE_OQ);
  open = ~_mm256_movemask_ps(_mm256_and_ps(clear, small)) & 0xFF;
  return _mm256_movemask_ps(rough.state);
}

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

// Rounds weights to multiples of one power of two, which leaves every sum below 2^30 and what rounding adds.
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
    if (!std::isfinite(total)) return void(std::fill(scale, scale + outputs, NAN));
  }
  // A little more room than a power of two: the rest below the leading digits then has 14 bits and a sign at most.
  const int exponent = std::max(std::ilogb(largest * (1 + 0x1p-13f)) + 1, -90) - 30;
  const float inverse = std::ldexp(1.0f, -exponent);
  Job job{};
  job.weight = packed;
  job.groups = groups;
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads) {
      const Row row = row_of(job, output);
      std::fill(row.whole, row.whole + groups * kFour, 0);
      visit_weights(weights, num, output, [&](int64_t place, float w) {
        row.whole[place] = static_cast<int32_t>(std::nearbyint(w * inverse));
      });
      round_row(row, groups);
    }
  });
  std::fill(scale, scale + outputs, std::ldexp(1.0f, exponent));
}

void lookup_field(const Job* job, int64_t threads) { fields(*job, threads, sum_whole); }

void lookup_draw(const Job* job, uint64_t seed, int64_t threads) { draws(*job, seed, threads, sum_whole, decide_all); }

// The leading digits stand with the whole weights.
int64_t screen_room(int64_t, int64_t, int64_t) { return 0; }

// Step, centre and radius of every output's leading digits, each for all outputs.
void screen_prepare(const void* packed, int64_t outputs, int64_t inputs, const float* scale, void*, void*, float* numbers,
                    int64_t threads) {
  Job job{};
  job.weight = packed;
  job.groups = inputs / kFour;
  spread(threads, [&](int64_t worker) {
    for (int64_t output = worker; output < outputs; output += threads) {
      const Row row = row_of(job, output);
      double above = 0, below = 0, total = 0;
      for (int64_t i = 0; i < inputs; ++i) {
        // The digit may have lost its highest bits, the rest lies within half a step.
        const int64_t step = int64_t{1} << *row.shift;
        const int64_t rest = ((row.whole[i] + step / 2) & (step - 1)) - step / 2;
        above += std::max<int64_t>(rest, 0);
        below += std::max<int64_t>(-rest, 0);
        total += std::abs(static_cast<double>(row.whole[i]));
      }
      numbers[output] = scale[output];
      numbers[outputs + output] = scale[output] * (above - below) / 2;
      // With what sums of this size lose in float32.
      numbers[2 * outputs + output] = scale[output] * ((above + below) / 2 + 4 * kRounding * total);
    }
  });
}

// Returns how many states the leading digits left open.
int64_t screen_draw(const Job* job, const Screen* screen, uint64_t seed, int64_t threads) {
  std::atomic<int64_t> num_open{0};
  draws(*job, seed, threads, sum_leading,
        [&](const Part& part, int64_t output, int64_t chain, __m256 beta, const __m256i* sums, const __m256i* words,
            uint32_t* states) {
          uint32_t open[kColumns], any = 0;
#pragma GCC unroll 4
          for (int c = 0; c < kColumns; ++c) {
            states[c] = decide_roughly(*job, screen->one, part.output(output + c), sums[c], words[c], beta, open[c]);
            any |= open[c];
          }
          any &= (1u << std::min<int64_t>(kLanes, part.count - chain)) - 1;
          if (!any) return;
          for (int c = 0; c < std::min<int64_t>(kColumns, part.end - output); ++c) {
            const uint32_t some = open[c] & any;
            if (!some) continue;
            num_open.fetch_add(__builtin_popcount(some), std::memory_order_relaxed);
            states[c] = (states[c] & ~some) | settle(part, chain, output + c, some, words[c], beta);
          }
        });
  return num_open;
}
}
