// What the kernels of binary layers take, and how their work is dealt to threads; whatever the instructions.
#pragma once

#include <algorithm>
#include <cstdint>

constexpr int kWidth = 32;  // outputs that no two threads share

struct Source {
  const float* states;
  int64_t stride;
  int64_t size;
};

struct Job {
  const Source* sources;
  int64_t num_sources;
  const void* weight;  // as the kernel prepared it
  int64_t outputs;
  int64_t groups;  // of inputs; each source fills whole groups
  const float* scale;  // one an output
  const float* beta;  // one a chain
  const float* slope;
  const float* base;
  float* out;
  int64_t chains;
};

struct Weight {
  const float* data;
  int64_t inputs;
  int64_t input_stride;
  int64_t output_stride;
};

// Runs work(0) ... work(threads - 1) at once, on the threads that torch has waiting.
template <typename Work>
void spread(int64_t threads, Work work) {
#pragma omp parallel for num_threads(threads) schedule(static, 1)
  for (int64_t worker = 0; worker < threads; ++worker) work(worker);
}

// Deals the chains in parts of whole `unit`s to threads: part(first chain, their number, first output, end of the outputs).
// A part has at most `room` groups of inputs of single chains, to stay in the second-level cache.
template <typename Part>
void deal(const Job& job, int64_t unit, int64_t room, int64_t threads, Part part) {
  const int64_t parts = (job.chains * job.groups + room - 1) / room;
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
