// One pass over the atoms of a dictionary, each set to the best unit vector given all others.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

#ifdef __AVX512F__
constexpr int64_t kLanes = 8;
#else
constexpr int64_t kLanes = 4;
#endif

// Whole vectors of either size: dictionary.py pads atoms to eight numbers.
typedef double Vector __attribute__((vector_size(kLanes * sizeof(double)), aligned(sizeof(double)), may_alias));

// What the other atoms leave of some vectors of the j-th one, which stay in registers.
template <int64_t vectors>
void leave(const double* weights, const double* wanted, const double* atoms, double* atom, int64_t j, int64_t k,
           int64_t d) {
  Vector sum[vectors];
  for (int64_t v = 0; v < vectors; ++v) sum[v] = *reinterpret_cast<const Vector*>(wanted + v * kLanes);
  for (int64_t i = 0; i < k; ++i) {
    const double by = i == j ? 0 : weights[i];
    for (int64_t v = 0; v < vectors; ++v) sum[v] -= by * *reinterpret_cast<const Vector*>(atoms + i * d + v * kLanes);
  }
  for (int64_t v = 0; v < vectors; ++v) *reinterpret_cast<Vector*>(atom + v * kLanes) = sum[v];
}

}  // namespace

// second: k × k, wanted and atoms: k × d, whole vectors. Atoms whose code was always 0 stay as they are.
extern "C" void improve_atoms(const double* second, const double* wanted, double* atoms, int64_t k, int64_t d) {
  std::vector<double> atom(d);
  for (int64_t j = 0; j < k; ++j) {
    const double* weights = second + j * k;
    if (weights[j] == 0) continue;
    for (int64_t c = 0; c < d;) {
      const int64_t left = (d - c) / kLanes, vectors = left >= 8 ? 8 : left >= 4 ? 4 : 1;
      const auto part = vectors == 8 ? leave<8> : vectors == 4 ? leave<4> : leave<1>;
      part(weights, wanted + j * d + c, atoms + c, atom.data() + c, j, k, d);
      c += vectors * kLanes;
    }
    double squared = 0;
    for (double value : atom) squared += value * value;
    const double inverse = 1 / std::max(std::sqrt(squared), 1e-30);
    for (int64_t c = 0; c < d; ++c) atoms[j * d + c] = inverse * atom[c];
  }
}
