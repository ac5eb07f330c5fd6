// Draws of binary layers, most of them decided by one byte of every weight, most others by two, the rest by all of it.
//
// A field from rounded weights is off by no more than a bound that does not depend on the states. Where the random number is
// further than that from the probability, the state is the same as with the weights themselves; where it is not, the
// next byte is added, and then the sum is taken from all digits. The states are those of table look-up, bit for bit. Needs
// AVX-512 with VNNI.

#include "binary.h"

#include <atomic>

namespace {

constexpr int kInputs = 4;       // inputs a multiplication
constexpr int kVectors = 2;      // vectors of outputs whose sums are in registers together
constexpr int kChains = 12;      // chains of which
constexpr int kTogether = 4;     // chains that are decided together
constexpr int kGroups = 98;      // groups whose weights stay in the first-level cache
constexpr int kLargest = 127;    // of a signed byte

// Weights in bytes, as they stand after `high`, or after `low` added.
struct Rounded {
  const float* step;    // of an output's bytes
  const float* centre;  // of what rounding leaves
  const float* radius;  // by which that is off at most
};

struct Screen {
  const __m512i* high;  // (blocks of 32 outputs, groups, 2, 16 outputs, 4 inputs)
  const int8_t* low;    // (outputs, stride): what the high bytes leave
  Rounded one, two;
};

// Inputs of a chain or an output as bytes, whole lines of memory.
inline int64_t byte_row(int64_t inputs) { return (inputs + 63) / 64 * 64; }

// The inputs of some chains: as bytes, (chains, stride), and as bits, (chains, stride / 16).
void pack(const Job& job, int64_t first, int64_t count, int64_t stride, uint8_t* bytes, __mmask16* bits) {
  for (int64_t chain = 0; chain < count; ++chain) {
    uint8_t* row = bytes + chain * stride;
    std::memset(row, 0, stride);
    for (int64_t s = 0; s < job.num_sources; ++s) {
      const Source& source = job.sources[s];
      const float* x = source.states + (first + chain) * source.stride;
      for (int64_t i = 0; i < source.size; i += kLanes) {
        const __m512 states = _mm512_maskz_loadu_ps(leading(source.size - i), x + i);
        const __mmask16 on = _mm512_cmp_ps_mask(states, _mm512_setzero_ps(), _CMP_NEQ_OQ);
        _mm_storeu_si128(reinterpret_cast<__m128i*>(row + i), _mm_maskz_set1_epi8(on, 1));
      }
      row += (source.size + kFive - 1) / kFive * kFive;
    }
    for (int64_t i = 0; i < stride / kLanes; ++i) {
      const __m128i some = _mm_loadu_si128(reinterpret_cast<const __m128i*>(bytes + chain * stride) + i);
      bits[chain * (stride / kLanes) + i] = _mm_test_epi8_mask(some, some);
    }
  }
}

// Adds what `count` groups put into 32 outputs of some chains. Not inlined: it needs every register.
template <int kSome>
__attribute__((noinline, target("avx512vnni"))) void accumulate(const __m512i* weight, const uint8_t* states,
                                                                int64_t stride, int64_t count, __m512i* total) {
  __m512i sums[kSome][kVectors];
#pragma GCC unroll 12
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) sums[b][v] = total[b * kVectors + v];
  for (int64_t g = 0; g < count; ++g, weight += kVectors, states += kInputs) {
    const __m512i weights[kVectors] = {weight[0], weight[1]};
#pragma GCC unroll 12
    for (int b = 0; b < kSome; ++b) {
      int32_t four;
      std::memcpy(&four, states + b * stride, sizeof four);
      const __m512i x = _mm512_set1_epi32(four);
#pragma GCC unroll 2
      for (int v = 0; v < kVectors; ++v) sums[b][v] = _mm512_dpbusd_epi32(sums[b][v], x, weights[v]);
    }
  }
#pragma GCC unroll 12
  for (int b = 0; b < kSome; ++b)
#pragma GCC unroll 2
    for (int v = 0; v < kVectors; ++v) total[b * kVectors + v] = sums[b][v];
}

using Accumulate = void (*)(const __m512i*, const uint8_t*, int64_t, int64_t, __m512i*);
constexpr Accumulate kAccumulate[kChains] = {accumulate<1>, accumulate<2>,  accumulate<3>,  accumulate<4>,
                                             accumulate<5>, accumulate<6>,  accumulate<7>,  accumulate<8>,
                                             accumulate<9>, accumulate<10>, accumulate<11>, accumulate<12>};

// What one part of the chains needs. It is kept between calls, since fresh memory is slow. Masks are of 16 outputs.
struct Scratch {
  std::vector<uint8_t> states;
  std::vector<__mmask16> bits;
  std::vector<__m512i> sums;
  std::vector<uint16_t> drawn;  // (masks, chains)
  std::vector<uint16_t> open;   // (2, chains): what one byte of the weights left open
  std::vector<int32_t> listed;  // chains
};

// Some chains with their inputs as bytes, (chains, stride), and as bits, (chains, words).
struct Part {
  const Job& job;
  const Screen& screen;
  const Key& key;
  int64_t first, count;
  int64_t inputs, groups, stride, words;
  int64_t row;  // masks of one vector of outputs: the chains, rounded up
  Scratch& scratch;
};

// The sums of the low bytes of the inputs that are on, for four chains.
__attribute__((target("avx512vnni"))) void low_sums(const int8_t* low, const __mmask16* const on[4], int64_t stride,
                                                    int32_t* result) {
  __m512i sums[4] = {};
  for (int64_t i = 0; i < stride; i += 64) {
    const __m512i some = _mm512_load_si512(low + i);
#pragma GCC unroll 4
    for (int c = 0; c < 4; ++c) {
      __mmask64 mask;
      std::memcpy(&mask, on[c] + i / kLanes, sizeof mask);
      sums[c] = _mm512_dpbusd_epi32(sums[c], _mm512_set1_epi8(1), _mm512_maskz_mov_epi8(mask, some));
    }
  }
  for (int c = 0; c < 4; ++c) result[c] = _mm512_reduce_add_epi32(sums[c]);
}

// The sum of the weights of the inputs that are on.
int32_t exact_sum(const int32_t* weight, const __mmask16* on, int64_t inputs) {
  __m512i sum = _mm512_setzero_si512();
  for (int64_t i = 0; i < inputs; i += kLanes)
    sum = _mm512_add_epi32(sum, _mm512_maskz_load_epi32(on[i / kLanes], weight + i));
  return _mm512_reduce_add_epi32(sum);
}

constexpr float kRounding = 0x1p-21f;  // of float32, a few times over

// By how much of itself a tail may change, if its field is off by `radius` at most and the arithmetic by a little.
inline __m512 reach(__m512 radius) {
  // exp(r) - 1 <= r + r^2 for r <= 1.
  const __m512 change = _mm512_fmadd_ps(radius, radius, _mm512_add_ps(radius, _mm512_set1_ps(0x1p-18f)));
  const __mmask16 small = _mm512_cmp_ps_mask(radius, _mm512_set1_ps(1.0f), _CMP_LE_OQ);
  return _mm512_mask_mov_ps(_mm512_set1_ps(INFINITY), small, change);
}

// Where the whole weights may decide otherwise, or there is no number to compare.
inline __mmask16 unsure(const Decision& rough, __m512 reach) {
  return _mm512_cmp_ps_mask(_mm512_abs_ps(rough.distance), _mm512_mul_ps(reach, rough.tail), _CMP_NGT_UQ);
}

// Sixteen outputs of one chain after the other, by their high bytes.
struct Column {
  __m512 step, centre, radius, base, slack, reached;
  __mmask16 valid;
  float beta = NAN;

  Column(const Job& job, const Screen& screen, int64_t output) : valid(leading(job.outputs - output)) {
    const auto load = [&](const float* values) { return _mm512_maskz_loadu_ps(valid, values + output); };
    const __m512 slope = load(job.slope), rounding = _mm512_set1_ps(kRounding);
    step = load(screen.one.step);
    base = load(job.base);
    centre = _mm512_add_ps(slope, load(screen.one.centre));
    radius = _mm512_fmadd_ps(rounding, _mm512_abs_ps(slope), load(screen.one.radius));
    slack = _mm512_mul_ps(rounding, _mm512_abs_ps(base));
  }

  void at(float value) {
    if (value == beta) return;
    beta = value;
    reached = reach(_mm512_fmadd_ps(_mm512_set1_ps(std::fabs(value)), radius, slack));
  }

  Decision weigh_sum(__m512i sum, __m512i bits) const {
    const __m512 input = _mm512_fmadd_ps(_mm512_cvtepi32_ps(sum), step, centre);
    return weigh(_mm512_fmadd_ps(_mm512_set1_ps(beta), input, base), bits);
  }
};

// The rounded sums of 32 outputs.
void sum_bytes(const Part& part, int64_t output) {
  Scratch& scratch = part.scratch;
  std::fill(scratch.sums.begin(), scratch.sums.end(), _mm512_setzero_si512());
  const __m512i* weight = part.screen.high + output / kWidth * part.groups * kVectors;
  for (int64_t g = 0; g < part.groups; g += kGroups)
    for (int64_t chain = 0; chain < part.count; chain += kChains)
      kAccumulate[std::min<int64_t>(kChains, part.count - chain) - 1](
          weight + g * kVectors, &scratch.states[chain * part.stride + g * kInputs], part.stride,
          std::min<int64_t>(kGroups, part.groups - g), &scratch.sums[chain * kVectors]);
}

// Decides 32 outputs by their rounded sums, and marks what they leave open.
void screen_outputs(const Part& part, int64_t output, uint16_t* drawn) {
  Scratch& scratch = part.scratch;
  Column columns[kVectors] = {{part.job, part.screen, output}, {part.job, part.screen, output + kLanes}};
  for (int64_t chain = 0; chain < part.count; chain += kTogether) {
    __m512i bits[kTogether][kVectors];
    random_rows<kTogether / 2, kVectors>(part.key, part.first + chain, output, bits);
    for (int64_t c = chain; c < std::min(chain + kTogether, part.count); ++c)
      for (int v = 0; v < kVectors; ++v) {
        columns[v].at(part.job.beta[part.first + c]);
        const Decision rough = columns[v].weigh_sum(scratch.sums[c * kVectors + v], bits[c - chain][v]);
        drawn[v * part.row + c] = rough.state;
        scratch.open[v * part.row + c] = unsure(rough, columns[v].reached) & columns[v].valid;
      }
  }
}

// The chains whose masks have a certain bit.
int64_t list_open(const uint16_t* open, int64_t count, int bit, int32_t* listed) {
  int64_t num = 0;
  __m512i chains = _mm512_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15);
  for (int64_t c = 0; c < count; c += kLanes, chains = _mm512_add_epi32(chains, _mm512_set1_epi32(kLanes))) {
    const __m256i masks = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(open + c));
    const __mmask16 found = _mm256_test_epi16_mask(masks, _mm256_set1_epi16(1 << bit));
    _mm512_storeu_si512(listed + num, _mm512_maskz_compress_epi32(found, chains));
    num += __builtin_popcount(found);
  }
  return num;
}

// The random bits of one output of any 16 chains.
__m512i random_word(const Part& part, int64_t output, __m512i chains) {
  chains = _mm512_add_epi32(chains, _mm512_set1_epi32(part.first));
  const __m512i number = _mm512_set1_epi64(output / 4), zero = _mm512_setzero_si512();
  __m512i counter[2][4] = {{_mm512_cvtepu32_epi64(_mm512_castsi512_si256(chains)), number, zero, zero},
                           {_mm512_cvtepu32_epi64(_mm512_extracti64x4_epi64(chains, 1)), number, zero, zero}};
  philox(part.key, counter);
  const int word = output % 4;
  return _mm512_inserti64x4(_mm512_castsi256_si512(_mm512_cvtepi64_epi32(counter[0][word])),
                            _mm512_cvtepi64_epi32(counter[1][word]), 1);
}

// Decides one output of up to 16 listed chains by two bytes of its weights, and where they do not suffice by all of them.
void settle(const Part& part, int64_t output, const int32_t* listed, int64_t num, uint16_t* drawn) {
  const Job& job = part.job;
  const Rounded& two = part.screen.two;
  const auto all = [&](const float* values) { return _mm512_set1_ps(values[output]); };
  const auto on = [&](int64_t chain) { return &part.scratch.bits[chain * part.words]; };
  const auto* high = reinterpret_cast<const int32_t*>(part.scratch.sums.data()) + output % kWidth;
  alignas(64) int32_t chain[kLanes], sum[kLanes], low[kLanes];
  const __m512i chains = _mm512_maskz_loadu_epi32(leading(num), listed);
  _mm512_store_si512(chain, chains);
  for (int64_t k = 0; k < num; k += 4) {
    const __mmask16* const four[4] = {on(chain[k]), on(chain[k + 1]), on(chain[k + 2]), on(chain[k + 3])};
    low_sums(part.screen.low + output * part.stride, four, part.stride, low + k);
  }
  const __m512i place = _mm512_mullo_epi32(chains, _mm512_set1_epi32(kWidth));
  const __m512 high_sum = _mm512_cvtepi32_ps(_mm512_i32gather_epi32(place, high, 4));
  const __m512 beta = _mm512_i32gather_ps(chains, job.beta + part.first, 4);
  const __m512i bits = random_word(part, output, chains);
  const auto field = [&](__m512 input) { return _mm512_fmadd_ps(beta, _mm512_add_ps(input, all(job.slope)), all(job.base)); };
  const __m512 rest = _mm512_fmadd_ps(_mm512_cvtepi32_ps(_mm512_load_si512(low)), all(two.step), all(two.centre));
  const Decision rough = weigh(field(_mm512_fmadd_ps(high_sum, all(part.screen.one.step), rest)), bits);
  const float rounding = kRounding * std::fabs(job.slope[output]) + two.radius[output];
  const __m512 radius = _mm512_fmadd_ps(_mm512_abs_ps(beta), _mm512_set1_ps(rounding),
                                        _mm512_set1_ps(kRounding * std::fabs(job.base[output])));
  const unsigned open = unsure(rough, reach(radius)) & leading(num);
  unsigned state = rough.state;
  if (open) {
    const int32_t* weight = static_cast<const int32_t*>(job.weight) + output * row_size(job.groups);
    for (unsigned some = open; some; some &= some - 1)
      sum[__builtin_ctz(some)] = exact_sum(weight, on(chain[__builtin_ctz(some)]), part.inputs);
    const __m512 exact = _mm512_cvtepi32_ps(_mm512_maskz_load_epi32(open, sum));
    const __m512 input = _mm512_fmadd_ps(exact, all(job.scale), all(job.slope));
    const unsigned settled = decide(_mm512_fmadd_ps(beta, input, all(job.base)), bits);
    state = (state & ~open) | (settled & open);
  }
  const int bit = output % kLanes;
  for (int64_t k = 0; k < num; ++k) {
    uint16_t& mask = drawn[chain[k]];
    mask = (mask & ~(1 << bit)) | (state >> k & 1) << bit;
  }
}

// Rows of 0 and 1.
void write(const Part& part, int64_t begin, int64_t end) {
  for (int64_t chain = 0; chain < part.count; ++chain) {
    float* row = part.job.out + (part.first + chain) * part.job.outputs;
    const uint16_t* drawn = &part.scratch.drawn[chain];
    for (int64_t output = begin; output < end; output += kLanes, drawn += part.row)
      _mm512_mask_storeu_ps(row + output, leading(end - output), _mm512_maskz_mov_ps(*drawn, _mm512_set1_ps(1.0f)));
  }
}

// The outputs from `begin` to `end`. Returns how many states one byte left open.
int64_t draw(const Part& part, int64_t begin, int64_t end) {
  Scratch& scratch = part.scratch;
  scratch.states.resize(part.count * part.stride + kLanes);
  scratch.bits.resize(part.count * part.words);
  scratch.sums.resize((part.count + kTogether) * kVectors);
  scratch.drawn.resize(((end - begin + kWidth - 1) / kWidth * kVectors) * part.row);
  scratch.open.assign(kVectors * part.row, 0);
  scratch.listed.resize(part.row + kLanes);
  pack(part.job, part.first, part.count, part.stride, scratch.states.data(), scratch.bits.data());
  int64_t num_open = 0;
  for (int64_t first = begin; first < end; first += kWidth) {
    uint16_t* drawn = &scratch.drawn[(first - begin) / kLanes * part.row];
    sum_bytes(part, first);
    screen_outputs(part, first, drawn);
    for (int64_t output = first; output < std::min(first + kWidth, end); ++output) {
      const int64_t vector = (output - first) / kLanes * part.row;
      const int64_t num = list_open(&scratch.open[vector], part.count, output % kLanes, scratch.listed.data());
      for (int64_t k = 0; k < num; k += kLanes)
        settle(part, output, &scratch.listed[k], std::min<int64_t>(kLanes, num - k), drawn + vector);
      num_open += num;
    }
  }
  write(part, begin, end);
  return num_open;
}

// Takes the nearest bytes, of a step that fits, away from whole numbers; step, centre and radius of what is left.
void round_to_bytes(std::vector<int32_t>& left, int8_t* bytes, float scale, double total, float* number, int64_t outputs) {
  int64_t largest = 0;
  for (const int32_t w : left) largest = std::max(largest, std::abs(int64_t{w}));
  const int64_t unit = largest / kLargest + 1;
  const double inverse = 1.0 / unit;
  double above = 0, below = 0;
  for (size_t i = 0; i < left.size(); ++i) {
    bytes[i] = static_cast<int8_t>(std::nearbyint(left[i] * inverse));
    left[i] -= unit * bytes[i];
    above += std::max(left[i], 0);
    below += std::max(-left[i], 0);
  }
  number[0] = scale * unit;
  number[outputs] = scale * (above - below) / 2;
  // With what sums of this size lose in float32.
  number[2 * outputs] = scale * ((above + below) / 2 + 4 * kRounding * total);
}

}  // namespace

extern "C" {

// Bytes for the high (digit 0) or the low bytes of the weights.
int64_t screen_room(int64_t outputs, int64_t inputs, int64_t digit) {
  const int64_t blocks = (outputs + kWidth - 1) / kWidth, groups = (inputs + kInputs - 1) / kInputs;
  return digit == 0 ? blocks * groups * kWidth * kInputs : outputs * byte_row(inputs);
}

// Rounds the whole numbers of lookup_prepare, (outputs, inputs), to two bytes, each with one step for every output.
// `numbers`: step, centre and radius of the high bytes, then of both, each for all outputs.
void screen_prepare(const int32_t* whole, int64_t outputs, int64_t inputs, const float* scale, int8_t* high, int8_t* low,
                    float* numbers, int64_t threads) {
  const int64_t groups = (inputs + kInputs - 1) / kInputs, stride = byte_row(inputs);
  spread(threads, [&](int64_t worker) {
    std::vector<int32_t> left(inputs);
    std::vector<int8_t> bytes(stride);
    for (int64_t output = worker; output < outputs; output += threads) {
      const int32_t* row = whole + output * row_size(inputs / kFive);
      std::copy(row, row + inputs, left.begin());
      double total = 0;
      for (const int32_t w : left) total += std::abs(double{w});
      int8_t* target = high + (output / kWidth * groups * kVectors + output / kLanes % kVectors) * 64 + output % kLanes * kInputs;
      for (int digit = 0; digit < 2; ++digit) {
        float* number = numbers + 3 * digit * outputs + output;
        round_to_bytes(left, bytes.data(), scale[output], total, number, outputs);
        if (digit == 1) std::copy(bytes.begin(), bytes.end(), low + output * stride);
        for (int64_t g = 0; digit == 0 && g < groups; ++g)
          std::memcpy(target + g * kVectors * 64, &bytes[g * kInputs], kInputs);
      }
    }
  });
}

// Returns how many states one byte left open.
int64_t screen_draw(const Job* job, const Screen* screen, uint64_t seed, int64_t threads) {
  const Key key = expand(seed);
  std::atomic<int64_t> open{0};
  const int64_t inputs = job->groups * kFive, groups = (inputs + kInputs - 1) / kInputs;
  const int64_t stride = byte_row(inputs);
  deal(*job, kChains, kRoom, threads, [&](int64_t first, int64_t count, int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    const int64_t row = (count + kLanes - 1) / kLanes * kLanes;
    open += draw({*job, *screen, key, first, count, inputs, groups, stride, stride / kLanes, row, scratch}, begin, end);
  });
  return open;
}
}
