// Sums of the weights of the inputs that are on, by table look-up: 32 chains a vector, four inputs a look-up. Needs AVX2.
//
// Four binary inputs have 16 joint states. For one output the 16 sums of their weights, 16 bits each, are a table of low
// bytes and one of high bytes, and a shuffle of bytes looks 32 chains up in it: 128 multiplications in one instruction,
// where a fused multiply-add does 8. Bytes are summed in pairs of 16 bits, of which the odd ones are summed once more alone.
// Tables are built when they are needed and stay in the cache while all chains of a part pass over them.
#pragma once

#include "binary.h"

constexpr int kColumns = 4;  // outputs that are decided together: the four words of one random number
constexpr int kTile = 3;     // blocks of chains whose sums are in registers together
constexpr int kChunk = 256;  // groups of which bytes add up to 16 bits; their tables stay in the first-level cache

// The byte of a block in which one of its chains has its inputs, so that sums come out in order.
inline int place(int chain) { return 2 * (chain & 3) + 16 * (chain >> 2 & 1) + 8 * (chain >> 3 & 1) + (chain >> 4); }

// The weights of one output in whole numbers of 2^shift.
struct Digits {
  const int16_t* weight;  // (groups, 4), modulo 2^16: what counts is that no group's sizes add up to more than 2^16 - 1
  const int32_t* below;   // of every group the sum of its negative weights
  int shift;
};

// What one part of the chains needs. It is kept between calls, since fresh memory is slow.
struct Scratch {
  std::vector<__m256i> index;   // (blocks, groups): the states of four inputs
  std::vector<__m256i> sums;    // (columns, chains)
  std::vector<uint32_t> drawn;  // (blocks, outputs): one bit a chain
  std::vector<uint8_t> bits;
  __m256i table[kChunk];
};

// Some chains, and of the outputs those from `begin` to `end`.
struct Part {
  const Job& job;
  int64_t first, count, begin, end, blocks;
  Scratch& scratch;

  __m256i* sums(int column) const { return &scratch.sums[column * vectors()]; }
  int64_t vectors() const { return blocks * kBlock / kLanes; }
  int64_t row() const { return round_up(end - begin, kLanes); }
  int64_t output(int64_t output) const { return std::min(output, job.outputs - 1); }
};

// The state of every group of four inputs, (blocks of 32 chains, groups).
inline void pack(const Part& part) {
  const Job& job = part.job;
  int64_t begin = 0;
  for (int64_t s = 0; s < job.num_sources; ++s) {
    const Source& source = job.sources[s];
    const int64_t own = (source.size + kFour - 1) / kFour, bytes = (source.size + kLanes - 1) / kLanes;
    auto& bits = part.scratch.bits;
    bits.assign(bytes * kBlock, 0);
    for (int64_t block = 0; block < part.blocks; ++block) {
      const int64_t chains = std::min<int64_t>(kBlock, part.count - block * kBlock);
      if (chains < kBlock) std::fill(bits.begin(), bits.end(), 0);
      for (int64_t c = 0; c < chains; ++c) {
        const float* x = source.states + (part.first + block * kBlock + c) * source.stride;
        uint8_t* target = &bits[place(c)];
        const int64_t whole = source.size / kLanes;
        for (int64_t i = 0; i < whole; ++i) target[i * kBlock] = nonzero(_mm256_loadu_ps(x + i * kLanes));
        if (whole < bytes) target[whole * kBlock] = nonzero(load_some(x + whole * kLanes, source.size % kLanes));
      }
      __m256i* index = &part.scratch.index[block * job.groups + begin];
      const __m256i four = _mm256_set1_epi8(15);
      for (int64_t g = 0; g < own; ++g) {
        const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&bits[g / 2 * kBlock]));
        index[g] = _mm256_and_si256(g % 2 == 0 ? both : _mm256_srli_epi16(both, 4), four);
      }
    }
    begin += own;
  }
}

// The tables of some groups, low bytes before high bytes; the sums are counted from that of the negative weights on.
inline void build(const Digits& digits, int64_t first, int64_t count, __m256i* table) {
  const __m256i m0 = _mm256_set1_epi32(static_cast<int>(0xFFFF0000)), m1 = _mm256_set1_epi64x(-(int64_t{1} << 32));
  const __m256i m2 = _mm256_setr_epi64x(0, -1, 0, -1), m3 = _mm256_setr_epi64x(0, 0, -1, -1);
  const __m256i low = _mm256_set1_epi16(255);
  const int16_t* weight = digits.weight + first * kFour;
  for (int64_t g = 0; g < count; ++g, weight += kFour) {
    const __m256i a = _mm256_and_si256(m0, _mm256_set1_epi16(weight[0]));
    const __m256i b = _mm256_and_si256(m1, _mm256_set1_epi16(weight[1]));
    const __m256i c = _mm256_and_si256(m2, _mm256_set1_epi16(weight[2]));
    const __m256i d = _mm256_and_si256(m3, _mm256_set1_epi16(weight[3]));
    const __m256i below = _mm256_set1_epi16(static_cast<int16_t>(digits.below[first + g]));
    const __m256i sums = _mm256_sub_epi16(_mm256_add_epi16(_mm256_add_epi16(a, b), _mm256_add_epi16(c, d)), below);
    const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(sums, low), _mm256_srli_epi16(sums, 8));
    table[g] = _mm256_permute4x64_epi64(bytes, 0xD8);
  }
}

// Sums over groups, of one block of chains: of pairs of bytes as one number, and of the odd bytes alone; of low bytes and high.
struct Bytes {
  __m256i pairs, odd;

  void add(__m256i table, __m256i index) {
    const __m256i found = _mm256_shuffle_epi8(table, index);
    pairs = _mm256_add_epi16(pairs, found);
    odd = _mm256_add_epi16(odd, _mm256_srli_epi16(found, 8));
    // One after the other: GCC else looks up all blocks first, for which there are no registers.
    asm volatile("" : "+x"(pairs), "+x"(odd));
  }

  __m256i even() const { return _mm256_sub_epi16(pairs, _mm256_slli_epi16(odd, 8)); }
};

struct Sums {
  Bytes low{}, high{};

  // In the order of `place`; to what is there, or to `start` if there is one.
  void add_to(__m256i* total, __m128i shift, const __m256i* start) const {
    const auto add = [&](int v, __m256i low, __m256i high) {
      const __m256i sum = _mm256_add_epi32(low, _mm256_slli_epi32(high, 8));
      total[v] = _mm256_add_epi32(start ? *start : total[v], _mm256_sll_epi32(sum, shift));
    };
    const __m256i zero = _mm256_setzero_si256();
    add(0, _mm256_unpacklo_epi16(low.even(), zero), _mm256_unpacklo_epi16(high.even(), zero));
    add(1, _mm256_unpackhi_epi16(low.even(), zero), _mm256_unpackhi_epi16(high.even(), zero));
    add(2, _mm256_unpacklo_epi16(low.odd, zero), _mm256_unpacklo_epi16(high.odd, zero));
    add(3, _mm256_unpackhi_epi16(low.odd, zero), _mm256_unpackhi_epi16(high.odd, zero));
  }
};

// Adds what `count` groups put into one output of some blocks of chains. Not inlined: it needs every register, and sums
// that are named one by one stay in them.
template <int kSome>
__attribute__((noinline)) void accumulate(const __m256i* table, const __m256i* index, int64_t stride, int64_t count,
                                          int shift, const __m256i* start, __m256i* total) {
  Sums a, b, c;
  for (int64_t g = 0; g < count; ++g, ++index) {
    const __m128i* halves = reinterpret_cast<const __m128i*>(table + g);
    const __m256i low = _mm256_broadcastsi128_si256(halves[0]), high = _mm256_broadcastsi128_si256(halves[1]);
    a.low.add(low, index[0]);
    a.high.add(high, index[0]);
    if constexpr (kSome > 1) {
      b.low.add(low, index[stride]);
      b.high.add(high, index[stride]);
    }
    if constexpr (kSome > 2) {
      c.low.add(low, index[2 * stride]);
      c.high.add(high, index[2 * stride]);
    }
  }
  const __m128i by = _mm_cvtsi32_si128(shift);
  constexpr int kVectors = kBlock / kLanes;
  a.add_to(total, by, start);
  if constexpr (kSome > 1) b.add_to(total + kVectors, by, start);
  if constexpr (kSome > 2) c.add_to(total + 2 * kVectors, by, start);
}

using Accumulate = void (*)(const __m256i*, const __m256i*, int64_t, int64_t, int, const __m256i*, __m256i*);
constexpr Accumulate kAccumulate[kTile] = {accumulate<1>, accumulate<2>, accumulate<3>};

// The sums of one output's digits over all inputs, for all chains of a part; the first digits, or added to what is there.
inline void sum_digits(const Part& part, const Digits& digits, int column, bool first) {
  const int64_t groups = part.job.groups;
  uint32_t below = 0;
  for (int64_t g = 0; g < groups; ++g) below += digits.below[g];
  __m256i* sums = part.sums(column);
  const __m256i negative = _mm256_set1_epi32(static_cast<int>(below << digits.shift));
  if (!first)
    for (int64_t k = 0; k < part.vectors(); ++k) sums[k] = _mm256_add_epi32(sums[k], negative);
  for (int64_t g = 0; g < groups; g += kChunk) {
    const int64_t some = std::min<int64_t>(kChunk, groups - g);
    const __m256i* start = first && g == 0 ? &negative : nullptr;
    build(digits, g, some, part.scratch.table);
    for (int64_t block = 0; block < part.blocks; block += kTile)
      kAccumulate[std::min<int64_t>(kTile, part.blocks - block) - 1](
          part.scratch.table, &part.scratch.index[block * groups + g], groups, some, digits.shift, start,
          sums + block * kBlock / kLanes);
  }
}

// The field of one output of 8 chains.
inline __m256 field_of(const Job& job, int64_t output, __m256i sum, __m256 beta) {
  const __m256 input =
      _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), _mm256_set1_ps(job.scale[output]), _mm256_set1_ps(job.slope[output]));
  return _mm256_fmadd_ps(beta, input, _mm256_set1_ps(job.base[output]));
}

// Four fields of 8 chains into their rows.
inline void write_fields(const __m256 fields[kColumns], float* out, int64_t stride, int64_t rows, int64_t columns) {
  const __m256 a = _mm256_unpacklo_ps(fields[0], fields[1]), b = _mm256_unpackhi_ps(fields[0], fields[1]);
  const __m256 c = _mm256_unpacklo_ps(fields[2], fields[3]), d = _mm256_unpackhi_ps(fields[2], fields[3]);
  const __m256 lines[4] = {_mm256_shuffle_ps(a, c, 0x44), _mm256_shuffle_ps(a, c, 0xEE), _mm256_shuffle_ps(b, d, 0x44),
                           _mm256_shuffle_ps(b, d, 0xEE)};
  for (int64_t k = 0; k < rows; ++k) {
    const __m128 line = k < 4 ? _mm256_castps256_ps128(lines[k]) : _mm256_extractf128_ps(lines[k - 4], 1);
    if (columns >= kColumns)
      _mm_storeu_ps(out + k * stride, line);
    else  // slow on some processors
      _mm_maskstore_ps(out + k * stride, _mm256_castsi256_si128(leading(columns)), line);
  }
}

// Rows of 0 and 1, from one bit a chain for every output.
inline void write_states(const Part& part) {
  const int64_t size = part.end - part.begin;
  for (int64_t chain = 0; chain < part.count; ++chain) {
    const uint32_t* drawn = &part.scratch.drawn[chain / kBlock * part.row()];
    float* row = part.job.out + (part.first + chain) * part.job.outputs + part.begin;
    const __m128i to_sign = _mm_cvtsi32_si128(31 - static_cast<int>(chain % kBlock));
    for (int64_t output = 0; output < size; output += kLanes) {
      const __m256i bits = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(drawn + output));
      const __m256i on = _mm256_srai_epi32(_mm256_sll_epi32(bits, to_sign), 31);
      store_some(row + output, size - output, _mm256_and_ps(_mm256_castsi256_ps(on), _mm256_set1_ps(1.0f)));
    }
  }
}

// Visits four outputs of 8 chains after the other: visit(part, output, chain in the part, β of the chains, sums of the outputs).
// `sum(part, output, column)` makes the sums of one output.
template <typename Sum, typename Visit>
void visit_sums(const Part& part, Sum sum, Visit visit) {
  Scratch& scratch = part.scratch;
  scratch.index.resize(part.blocks * part.job.groups);
  scratch.sums.resize(kColumns * part.vectors());
  scratch.drawn.assign(part.blocks * part.row(), 0);
  pack(part);
  for (int64_t output = part.begin; output < part.end; output += kColumns) {
    for (int column = 0; column < kColumns; ++column) sum(part, part.output(output + column), column);
    for (int64_t chain = 0; chain < part.count; chain += kLanes) {
      __m256i sums[kColumns];
      for (int column = 0; column < kColumns; ++column)
        sums[column] = part.sums(column)[chain / kLanes];
      visit(part, output, chain, load_some(part.job.beta + part.first + chain, part.count - chain), sums);
    }
  }
}

// Runs work(part) for all parts of a job.
template <typename Work>
void run_parts(const Job& job, int64_t threads, Work work) {
  deal(job, kBlock, kRoom, threads, [&](int64_t first, int64_t count, int64_t begin, int64_t end) {
    static thread_local Scratch scratch;
    work(Part{job, first, count, begin, end, (count + kBlock - 1) / kBlock, scratch});
  });
}

// The fields of all outputs into their rows.
template <typename Sum>
void fields(const Job& job, int64_t threads, Sum sum) {
  run_parts(job, threads, [&](const Part& part) {
    visit_sums(part, sum, [&](const Part&, int64_t output, int64_t chain, __m256 beta, const __m256i* sums) {
      __m256 values[kColumns];
      for (int column = 0; column < kColumns; ++column)
        values[column] = field_of(job, part.output(output + column), sums[column], beta);
      write_fields(values, job.out + (part.first + chain) * job.outputs + output, job.outputs,
                   std::min<int64_t>(kLanes, part.count - chain), part.end - output);
    });
  });
}

// States of all outputs. decide(part, output, chain, beta, sums, words, states) gives those of four outputs of 8 chains, one
// bit a chain: all four at once, since one alone would wait for its own arithmetic.
template <typename Sum, typename Decide>
void draws(const Job& job, uint64_t seed, int64_t threads, Sum sum, Decide decide) {
  const Key key = expand(seed);
  run_parts(job, threads, [&](const Part& part) {
    visit_sums(part, sum, [&](const Part&, int64_t output, int64_t chain, __m256 beta, const __m256i* sums) {
      __m256i words[kColumns];
      random_words(key, part.first + chain, output / kColumns, words);
      uint32_t states[kColumns];
      decide(part, output, chain, beta, sums, words, states);
      uint32_t* drawn = &part.scratch.drawn[chain / kBlock * part.row() + output - part.begin];
      for (int column = 0; column < kColumns; ++column) drawn[column] |= states[column] << chain % kBlock;
    });
    write_states(part);
  });
}

// The states that fields from these sums decide, one bit a chain.
inline uint32_t decided(const Job& job, int64_t output, __m256i sum, __m256i word, __m256 beta) {
  return _mm256_movemask_ps(weigh(field_of(job, output, sum, beta), word).state);
}

inline void decide_all(const Part& part, int64_t output, int64_t, __m256 beta, const __m256i* sums, const __m256i* words,
                       uint32_t* states) {
#pragma GCC unroll 4
  for (int column = 0; column < kColumns; ++column)
    states[column] = decided(part.job, part.output(output + column), sums[column], words[column], beta);
}
