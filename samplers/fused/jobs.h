// What the kernels of binary layers take, and how work is spread over threads; whatever the instructions.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

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

// Runs work(begin, end) for ranges of `unit`s that cover 0 to `size`, each by the thread that is free first.
template <typename Work>
void share(int64_t size, int64_t unit, int64_t threads, Work work) {
  // Several ranges a thread: one may lose its core for a while.
  const int64_t width = std::max<int64_t>(size / (4 * threads) / unit, 1) * unit;
  std::atomic<int64_t> next{0};
  spread(threads, [&](int64_t) {
    for (int64_t begin = next.fetch_add(width); begin < size; begin = next.fetch_add(width))
      work(begin, std::min(begin + width, size));
  });
}
