// One pass over the atoms of a dictionary, each set to the best unit vector given all others.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

// second: k × k, wanted and atoms: k × d. Atoms whose code was always 0 stay as they are.
extern "C" void improve_atoms(const double* second, const double* wanted, double* atoms, int64_t k, int64_t d) {
  std::vector<double> atom(d);
  for (int64_t j = 0; j < k; ++j) {
    const double* weights = second + j * k;
    if (weights[j] == 0) continue;
    std::copy(wanted + j * d, wanted + (j + 1) * d, atom.begin());
    for (int64_t i = 0; i < k; ++i) {
      const double by = i == j ? 0 : weights[i];
      const double* other = atoms + i * d;
      for (int64_t c = 0; c < d; ++c) atom[c] -= by * other[c];
    }
    double squared = 0;
    for (double value : atom) squared += value * value;
    const double inverse = 1 / std::max(std::sqrt(squared), 1e-30);
    for (int64_t c = 0; c < d; ++c) atoms[j * d + c] = inverse * atom[c];
  }
}
