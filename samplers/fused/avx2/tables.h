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

// Four weights as the two halves of their table: sums of the first two inputs in each of their states, then of the other two,
// both from the lowest sum on.
using Halves = __m128i;

// The weights of one output in whole numbers of 2^shift. Those of a group add up to less than 2^16 in size, or less than 2^14
// if groups are to be `paired`: bytes of 7 bits, of which two add up to a byte.
struct Digits {
  const Halves* groups;
  int shift;
  bool paired;
};

// What one thread needs. It is kept between calls, since fresh memory is slow.
struct Scratch {
  std::vector<__m256i> sums;    // (columns, chains)
  std::vector<uint32_t> drawn;  // (blocks, outputs): one bit a chain
  __m256i table[kChunk + 1];
};

// Some chains, and of the outputs those from `begin` to `end`.
struct Part {
  const Job& job;
  const __m256i* index;  // (blocks, groups): the states of four inputs
  int64_t first, count, blocks, begin, end;
  Scratch& scratch;

  __m256i* sums(int column) const { return &scratch.sums[column * vectors()]; }
  int64_t vectors() const { return blocks * kBlock / kLanes; }
  int64_t row() const { return round_up(end - begin, kLanes); }
  int64_t output(int64_t output) const { return std::min(output, job.outputs - 1); }
};

// The state of every group of four inputs of up to 32 chains.
inline void pack(const Job& job, int64_t first, int64_t chains, __m256i* index) {
  static thread_local std::vector<uint8_t> bits;
  for (int64_t s = 0; s < job.num_sources; ++s) {
    const Source& source = job.sources[s];
    const int64_t own = (source.size + kFour - 1) / kFour, whole = source.size / kLanes, more = source.size % kLanes;
    bits.assign((whole + 1) * kBlock, 0);
    for (int64_t c = 0; c < chains; ++c) {
      const float* x = source.states + (first + c) * source.stride;
      uint8_t* target = &bits[place(c)];
      for (int64_t i = 0; i < whole; ++i) target[i * kBlock] = nonzero(_mm256_loadu_ps(x + i * kLanes));
      if (more) target[whole * kBlock] = nonzero(load_some(x + whole * kLanes, more));
    }
    const __m256i four = _mm256_set1_epi8(15);
    for (int64_t g = 0; g < own; ++g) {
      const __m256i both = _mm256_loadu_si256(reinterpret_cast<const __m256i*>(&bits[g / 2 * kBlock]));
      index[g] = _mm256_and_si256(g % 2 == 0 ? both : _mm256_srli_epi16(both, 4), four);
    }
    index += own;
  }
}

// The halves of two groups' tables from their eight weights, 16 bits and a sign each.
inline __m256i halves(__m128i weights) {
  const __m256i both = _mm256_permute4x64_epi64(_mm256_castsi128_si256(weights), 0x50);
  const __m256i first = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, -1, 0, 1, -1, -1, 0, 1, -1, -1, 4, 5, -1, -1, 4, 5));
  const __m256i second = _mm256_broadcastsi128_si256(_mm_setr_epi8(-1, -1, -1, -1, 2, 3, 2, 3, -1, -1, -1, -1, 6, 7, 6, 7));
  const __m256i spread = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 0, 1, 0, 1, 0, 1, 4, 5, 4, 5, 4, 5, 4, 5));
  const __m256i lowest = _mm256_madd_epi16(_mm256_min_epi16(both, _mm256_setzero_si256()), _mm256_set1_epi16(1));
  const __m256i sums = _mm256_add_epi16(_mm256_shuffle_epi8(both, first), _mm256_shuffle_epi8(both, second));
  return _mm256_sub_epi16(sums, _mm256_shuffle_epi8(lowest, spread));
}

// The tables of some groups, low bytes before high bytes, and one of zeros. Returns what all sums were raised by.
inline int64_t build(const Digits& digits, int64_t first, int64_t count, __m256i* table) {
  const __m256i repeat = _mm256_broadcastsi128_si256(_mm_setr_epi8(0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7));
  const __m256i stretch = _mm256_setr_epi8(8, 9, 8, 9, 8, 9, 8, 9, 10, 11, 10, 11, 10, 11, 10, 11, 12, 13, 12, 13, 12, 13,
                                           12, 13, 14, 15, 14, 15, 14, 15, 14, 15);
  const __m256i low = _mm256_set1_epi16(digits.paired ? 127 : 255);
  const __m128i high = _mm_cvtsi32_si128(digits.paired ? 7 : 8), lowest = _mm_setr_epi32(0xFFFF, 0, 0xFFFF, 0);
  __m128i raised = _mm_setzero_si128();
  for (int64_t g = 0; g < count; ++g) {
    const Halves half = digits.groups[first + g];
    const __m256i both = _mm256_broadcastsi128_si256(half);
    const __m256i sums = _mm256_add_epi16(_mm256_shuffle_epi8(both, repeat), _mm256_shuffle_epi8(both, stretch));
    const __m256i bytes = _mm256_packus_epi16(_mm256_and_si256(sums, low), _mm256_srl_epi16(sums, high));
    table[g] = _mm256_permute4x64_epi64(bytes, 0xD8);
    raised = _mm_add_epi32(raised, _mm_and_si128(half, lowest));
  }
  table[count] = _mm256_setzero_si256();
  return int64_t{static_cast<uint32_t>(_mm_extract_epi32(raised, 0))} + static_cast<uint32_t>(_mm_extract_epi32(raised, 2));
}

// Sums over groups, of one block of chains: of pairs of bytes as one number, and of the odd bytes alone.
struct Bytes {
  __m256i pairs{}, odd{};

  void add(__m256i found) {
    // In assembly, in place and one after the other: GCC else looks up all blocks first, for which there are no registers.
    const __m256i high = _mm256_srli_epi16(found, 8);
    asm volatile("vpaddw %2, %0, %0\n\tvpaddw %3, %1, %1" : "+x"(pairs), "+x"(odd) : "x"(found), "x"(high));
  }

  __m256i even() const { return _mm256_sub_epi16(pairs, _mm256_slli_epi16(odd, 8)); }
};

// Where sums over some groups go.
struct Total {
  __m128i shift;
  __m128i high;          // bits of a low byte
  const __m256i* start;  // what to add them to, if not to what is there
};

struct Sums {
  Bytes low, high;

  // In the order of `place`.
  void add_to(__m256i* sums, const Total& total) const {
    const auto add = [&](int v, __m256i low, __m256i high) {
      const __m256i sum = _mm256_sll_epi32(_mm256_add_epi32(low, _mm256_sll_epi32(high, total.high)), total.shift);
      sums[v] = _mm256_add_epi32(total.start ? *total.start : sums[v], sum);
    };
    const __m256i zero = _mm256_setzero_si256();
    add(0, _mm256_unpacklo_epi16(low.even(), zero), _mm256_unpacklo_epi16(high.even(), zero));
    add(1, _mm256_unpackhi_epi16(low.even(), zero), _mm256_unpackhi_epi16(high.even(), zero));
    add(2, _mm256_unpacklo_epi16(low.odd, zero), _mm256_unpacklo_epi16(high.odd, zero));
    add(3, _mm256_unpackhi_epi16(low.odd, zero), _mm256_unpackhi_epi16(high.odd, zero));
  }
};

// What one or two groups put into a block of chains.
template <bool kPaired>
inline __m256i look_up(const __m128i* half, const __m256i* index) {
  const __m256i found = _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half[0]), index[0]);
  if constexpr (!kPaired) return found;
  return _mm256_add_epi8(found, _mm256_shuffle_epi8(_mm256_broadcastsi128_si256(half[2]), index[1]));
}

// Adds what `count` groups put into one output of some blocks of chains. Not inlined: it needs every register, and sums
// that are named one by one stay in them.
template <int kSome, bool kPaired>
__attribute__((noinline)) void accumulate(const __m256i* table, const __m256i* index, int64_t stride, int64_t count,
                                          const Total& total, __m256i* sums) {
  Sums a, b, c;
  constexpr int kStep = kPaired ? 2 : 1;
  for (int64_t g = 0; g < count; g += kStep, index += kStep) {
    const __m128i* half = reinterpret_cast<const __m128i*>(table + g);
    a.low.add(look_up<kPaired>(half, index));
    if constexpr (kSome > 1) b.low.add(look_up<kPaired>(half, index + stride));
    if constexpr (kSome > 2) c.low.add(look_up<kPaired>(half, index + 2 * stride));
    a.high.add(look_up<kPaired>(half + 1, index));
    if constexpr (kSome > 1) b.high.add(look_up<kPaired>(half + 1, index + stride));
    if constexpr (kSome > 2) c.high.add(look_up<kPaired>(half + 1, index + 2 * stride));
  }
  constexpr int kVectors = kBlock / kLanes;
  a.add_to(sums, total);
  if constexpr (kSome > 1) b.add_to(sums + kVectors, total);
  if constexpr (kSome > 2) c.add_to(sums + 2 * kVectors, total);
}

using Accumulate = void (*)(const __m256i*, const __m256i*, int64_t, int64_t, const Total&, __m256i*);
constexpr Accumulate kAccumulate[2][kTile] = {{accumulate<1, false>, accumulate<2, false>, accumulate<3, false>},
                                              {accumulate<1, true>, accumulate<2, true>, accumulate<3, true>}};

// The sums of one output's digits over all inputs, for all chains of a part; the first digits, or added to what is there.
inline void sum_digits(const Part& part, const Digits& digits, int column, bool first) {
  const int64_t groups = part.job.groups;
  __m256i* sums = part.sums(column);
  for (int64_t g = 0; g < groups; g += kChunk) {
    const int64_t some = std::min<int64_t>(kChunk, groups - g);
    const int64_t raised = build(digits, g, some, part.scratch.table);
    const __m256i lowest = _mm256_set1_epi32(static_cast<int>(static_cast<uint32_t>(-raised) << digits.shift));
    const bool fresh = first && g == 0;
    if (!fresh)
      for (int64_t k = 0; k < part.vectors(); ++k) sums[k] = _mm256_add_epi32(sums[k], lowest);
    const Total total{_mm_cvtsi32_si128(digits.shift), _mm_cvtsi32_si128(digits.paired ? 7 : 8), fresh ? &lowest : nullptr};
    // Tiles of equal size: one block alone would leave registers idle.
    int64_t block = 0;
    for (int64_t tiles = (part.blocks + kTile - 1) / kTile; tiles > 0; --tiles) {
      const int64_t tile = (part.blocks - block + tiles - 1) / tiles;
      kAccumulate[digits.paired][tile - 1](part.scratch.table, part.index + block * groups + g, groups, some, total,
                                           sums + block * kBlock / kLanes);
      block += tile;
    }
  }
}

// What the fields of four outputs need beside sums.
struct Columns {
  __m256 scale[kColumns], slope[kColumns], base[kColumns];

  Columns(const Part& part, int64_t first) {
    for (int column = 0; column < kColumns; ++column) {
      const int64_t output = part.output(first + column);
      scale[column] = _mm256_set1_ps(part.job.scale[output]);
      slope[column] = _mm256_set1_ps(part.job.slope[output]);
      base[column] = _mm256_set1_ps(part.job.base[output]);
    }
  }

  __m256 field(int column, __m256i sum, __m256 beta) const {
    return _mm256_fmadd_ps(beta, _mm256_fmadd_ps(_mm256_cvtepi32_ps(sum), scale[column], slope[column]), base[column]);
  }

  // One bit a chain.
  uint32_t state(int column, __m256i sum, __m256i word, __m256 beta) const {
    return _mm256_movemask_ps(weigh(field(column, sum, beta), word).state);
  }

  // All four at once, since one alone would wait for its own arithmetic.
  void decide(int64_t, __m256 beta, const __m256i* sums, const __m256i* words, uint32_t* states) const {
#pragma GCC unroll 4
    for (int column = 0; column < kColumns; ++column) states[column] = state(column, sums[column], words[column], beta);
  }
};

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

// Visits four outputs of 8 chains after the other: visit(columns, output, chain in the part, their β, sums of the outputs).
// `sum(part, output, column)` makes the sums of one output; `open(part, output)` the columns from an output on.
template <typename Sum, typename Open, typename Visit>
void visit_sums(const Part& part, Sum sum, Open open, Visit visit) {
  Scratch& scratch = part.scratch;
  scratch.sums.resize(kColumns * part.vectors());
  scratch.drawn.assign(part.blocks * part.row(), 0);
  for (int64_t output = part.begin; output < part.end; output += kColumns) {
    for (int column = 0; column < kColumns; ++column) sum(part, part.output(output + column), column);
    const auto columns = open(part, output);
    for (int64_t chain = 0; chain < part.count; chain += kLanes) {
      __m256i sums[kColumns];
      for (int column = 0; column < kColumns; ++column) sums[column] = part.sums(column)[chain / kLanes];
      visit(columns, output, chain, load_some(part.job.beta + part.first + chain, part.count - chain), sums);
    }
  }
}

// Runs work(part) for all parts of a job: some chains after the other, their outputs shared by the threads.
template <typename Work>
void run_parts(const Job& job, int64_t threads, Work work) {
  static thread_local std::vector<__m256i> memory;
  const int64_t size = std::max<int64_t>(kRoom / std::max<int64_t>(job.groups, 1) / kBlock, 1) * kBlock;
  for (int64_t first = 0; first < job.chains; first += size) {
    const int64_t count = std::min(size, job.chains - first), blocks = (count + kBlock - 1) / kBlock;
    memory.resize(blocks * job.groups + 1);
    __m256i* const index = memory.data();
    share(blocks, 1, threads, [&](int64_t begin, int64_t end) {
      for (int64_t block = begin; block < end; ++block)
        pack(job, first + block * kBlock, std::min<int64_t>(kBlock, count - block * kBlock), index + block * job.groups);
    });
    share(job.outputs, kWidth, threads, [&](int64_t begin, int64_t end) {
      static thread_local Scratch scratch;
      work(Part{job, index, first, count, blocks, begin, end, scratch});
    });
  }
}

// The fields of all outputs into their rows.
template <typename Sum>
void fields(const Job& job, int64_t threads, Sum sum) {
  const auto open = [](const Part& part, int64_t output) { return Columns(part, output); };
  run_parts(job, threads, [&](const Part& part) {
    visit_sums(part, sum, open,
               [&](const Columns& columns, int64_t output, int64_t chain, __m256 beta, const __m256i* sums) {
                 __m256 values[kColumns];
                 for (int column = 0; column < kColumns; ++column)
                   values[column] = columns.field(column, sums[column], beta);
                 write_fields(values, job.out + (part.first + chain) * job.outputs + output, job.outputs,
                              std::min<int64_t>(kLanes, part.count - chain), part.end - output);
               });
  });
}

// States of all outputs: columns.decide(chain, beta, sums, words, states) gives those of four outputs of 8 chains, one bit a
// chain.
template <typename Sum, typename Open>
void draws(const Job& job, uint64_t seed, int64_t threads, Sum sum, Open open) {
  const Key key = expand(seed);
  run_parts(job, threads, [&](const Part& part) {
    visit_sums(part, sum, open,
               [&](const auto& columns, int64_t output, int64_t chain, __m256 beta, const __m256i* sums) {
                 __m256i words[kColumns];
                 random_words(key, part.first + chain, output / kColumns, words);
                 uint32_t states[kColumns];
                 columns.decide(chain, beta, sums, words, states);
                 uint32_t* drawn = &part.scratch.drawn[chain / kBlock * part.row() + output - part.begin];
                 for (int column = 0; column < kColumns; ++column) drawn[column] |= states[column] << chain % kBlock;
               });
    write_states(part);
  });
}

// Decides by the sums as they are.
template <typename Sum>
void draws(const Job& job, uint64_t seed, int64_t threads, Sum sum) {
  draws(job, seed, threads, sum, [](const Part& part, int64_t output) { return Columns(part, output); });
}
