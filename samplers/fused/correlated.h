// What correlations take, whatever the instructions.
#pragma once

#include <cstdint>

struct Correlated {
  const float* x;  // (rows, below), other than 0 counts as 1
  int64_t stride;
  const float* y;  // (rows, above)
  const float* dither;  // rows + above - 1 of them
  int64_t rows;
  int64_t half;  // rows from here on count negatively
  int64_t below;
  int64_t above;
  float scale;
  const float* left;   // (2, below)
  const float* right;  // (2, above)
  float* out;          // (below, above)
};
