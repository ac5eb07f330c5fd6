// Lasso with a Gram matrix: coordinate descent finds the support, Newton steps on it finish, a duality gap certifies.
//
// For one example with correlations b = Dᵀx and Gram matrix G = DᵀD it minimises ½|x|² − b·z + ½ zᵀGz + Σ_j λ_j |z_j|, and
// keeps the gradient q = b − Gz of the residual's correlations beside z. Examples are independent and shared out among
// threads.

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <vector>

namespace {

constexpr double kShare = 0.15;   // of the worst violation: coordinates above it join the support together
constexpr int kCalm = 2;          // sweeps without a change of sign before a Newton step
constexpr int kSweeps = 30;       // at most, before a Newton step
constexpr int kAttempts = 5;      // Newton steps before the next look at all coordinates
constexpr int64_t kChunk = 16;    // examples that a thread takes at once
constexpr double kSingular = 1e-10;
constexpr int64_t kLanes = 8;     // rows are padded to whole vectors, because most of them are short

typedef double Vector __attribute__((vector_size(kLanes * sizeof(double)), aligned(sizeof(double)), may_alias));

int64_t padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// y ← y − by · x on whole vectors from that of index `first` on.
inline void subtract(double* y, const double* x, double by, int64_t size, int64_t first = 0) {
  for (int64_t i = first / kLanes * kLanes; i < size; i += kLanes)
    *reinterpret_cast<Vector*>(y + i) -= by * *reinterpret_cast<const Vector*>(x + i);
}

struct Problem {
  const double* gram;         // k × stride, symmetric
  const double* correlation;  // n × k
  const double* squared_norm; // n
  const double* penalty;      // k
  double* code;               // n × k, the start and then the solution
  double* objective;          // n
  double* gap;                // n
  int64_t num, k, stride;     // stride: k rounded up to whole vectors
  double tolerance;
  int64_t max_rounds;
  int64_t non_negative;
};

class Solver {
 public:
  explicit Solver(const Problem& p) : p_(p), k_(p.k), q_(p.stride), place_(p.k, -1) {}

  void solve(int64_t row) {
    z_ = p_.code + row * k_;
    const double* b = p_.correlation + row * k_;
    forget();
    restart(b);
    double best = measure(row, b);
    for (int64_t round = 0; round < p_.max_rounds && best > p_.tolerance; ++round) {
      enter();
      descend();
      leave();
      // Rounding adds up in q, one update after the other.
      if (round % 16 == 15) restart(b);
      best = measure(row, b);
    }
  }

 private:
  void restart(const double* b) {
    std::copy(b, b + k_, q_.begin());
    for (int64_t j = 0; j < k_; ++j)
      if (z_[j] != 0) subtract(q_.data(), p_.gram + j * p_.stride, z_[j], k_);
  }

  double violation(int64_t j) const { return (p_.non_negative ? q_[j] : std::abs(q_[j])) - p_.penalty[j]; }

  void forget() {
    for (int64_t j : support_) place_[j] = -1;
    support_.clear();
  }

  // The coordinates to work on: those of the rounds before, those that are not zero, and the worst violators of optimality
  // at zero.
  void enter() {
    double worst = 0;
    for (int64_t j = 0; j < k_; ++j) worst = std::max(worst, violation(j));
    const int64_t old = static_cast<int64_t>(support_.size());
    for (int64_t j = 0; j < k_; ++j)
      if (place_[j] < 0 && (z_[j] != 0 || violation(j) > kShare * worst)) {
        place_[j] = static_cast<int64_t>(support_.size());
        support_.push_back(j);
      }
    m_ = static_cast<int64_t>(support_.size());
    grow(old);
    for (auto* v : {&code_, &rest_, &penalty_}) v->resize(stride_);
    settled_ = true;
    for (int64_t a = 0; a < m_; ++a) {
      const int64_t j = support_[a];
      code_[a] = z_[j];
      rest_[a] = q_[j];
      penalty_[a] = p_.penalty[j];
      settled_ &= a < old || code_[a] != 0;
    }
  }

  // The Gram matrix of the support, of which the first `old` rows and columns are there.
  void grow(int64_t old) {
    if (m_ > stride_) {
      const int64_t stride = padded(m_ + m_ / 2);
      std::vector<double> wider(stride * stride);
      for (int64_t a = 0; a < old; ++a)
        std::copy(gram_.begin() + a * stride_, gram_.begin() + a * stride_ + old, wider.begin() + a * stride);
      gram_.swap(wider);
      stride_ = stride;
    }
    for (int64_t a = old; a < m_; ++a) {
      const double* gram = p_.gram + support_[a] * p_.stride;
      for (int64_t c = 0; c <= a; ++c) gram_[a * stride_ + c] = gram_[c * stride_ + a] = gram[support_[c]];
    }
  }

  // Write the codes back, and bring q up to date.
  void leave() {
    for (int64_t a = 0; a < m_; ++a) {
      const int64_t j = support_[a];
      if (code_[a] != z_[j]) subtract(q_.data(), p_.gram + j * p_.stride, code_[a] - z_[j], k_);
      z_[j] = code_[a];
    }
  }

  // Sweeps until one changes no sign; then, if no coordinate has just joined, Newton's step until it fits as a whole.
  void descend() {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      int sweep = 0;
      for (int calm = 0; calm < kCalm && sweep < kSweeps; ++sweep) calm = sweep_support() ? 0 : calm + 1;
      if (!settled_ || newton()) return;
    }
  }

  // One pass of coordinate descent; whether a sign changed.
  bool sweep_support() {
    bool changed = false;
    for (int64_t a = 0; a < m_; ++a) {
      const double curvature = gram_[a * stride_ + a];
      if (curvature <= 0) continue;
      const double old = code_[a], next = shrink(rest_[a] + curvature * old, penalty_[a]) / curvature;
      if (next == old) continue;
      changed |= sign(next) != sign(old);
      code_[a] = next;
      subtract(rest_.data(), gram_.data() + a * stride_, next - old, m_);
    }
    return changed;
  }

  static int sign(double value) { return (value > 0) - (value < 0); }

  double shrink(double value, double by) const {
    if (value > by) return value - by;
    return value < -by && !p_.non_negative ? value + by : 0;
  }

  // Newton's step on the orthant of the present signs, cut where the first coordinate reaches zero; whether it fitted.
  bool newton() {
    active_.clear();
    for (int64_t a = 0; a < m_; ++a)
      if (code_[a] != 0) active_.push_back(a);
    if (active_.empty() || !find_direction()) return false;
    double step = 1;
    int64_t first = -1;
    for (size_t i = 0; i < active_.size(); ++i) {
      const double z = code_[active_[i]], end = z + direction_[i];
      if (z * end <= 0 && z / (z - end) <= step) step = z / (z - end), first = static_cast<int64_t>(i);
    }
    for (size_t i = 0; i < active_.size(); ++i) {
      const int64_t a = active_[i];
      const double next = static_cast<int64_t>(i) == first ? 0 : code_[a] + step * direction_[i];
      subtract(rest_.data(), gram_.data() + a * stride_, next - code_[a], m_);
      code_[a] = next;
    }
    return first < 0;
  }

  // Solves G_AA δ = q_A − λ_A sign(z_A) by Cholesky, row by row; false where G_AA is singular to rounding.
  bool find_direction() {
    const int64_t m = static_cast<int64_t>(active_.size());
    const int64_t stride = padded(m);
    factor_.resize(m * stride);
    direction_.resize(stride);
    for (int64_t i = 0; i < m; ++i) {
      const double* g = gram_.data() + active_[i] * stride_;
      for (int64_t c = i; c < m; ++c) factor_[i * stride + c] = g[active_[c]];
      direction_[i] = rest_[active_[i]] - std::copysign(penalty_[active_[i]], code_[active_[i]]);
    }
    for (int64_t i = 0; i < m; ++i) {
      double* row = factor_.data() + i * stride;
      if (row[i] <= kSingular * gram_[active_[i] * stride_ + active_[i]]) return false;
      const double inverse = 1 / row[i];
      for (int64_t c = i + 1; c < m; ++c) {
        const double by = row[c] * inverse;
        subtract(factor_.data() + c * stride, row, by, m, c);
        direction_[c] -= by * direction_[i];
      }
    }
    for (int64_t i = m; i-- > 0;) {
      const double* row = factor_.data() + i * stride;
      double sum = direction_[i];
      for (int64_t c = i + 1; c < m; ++c) sum -= row[c] * direction_[c];
      direction_[i] = sum / row[i];
    }
    return true;
  }

  // The objective, and its distance from the dual objective at the residual, scaled into the dual's feasible set.
  double measure(int64_t row, const double* b) {
    double bz = 0, qz = 0, l1 = 0, limit = 1e300;
    for (int64_t j = 0; j < k_; ++j) {
      bz += b[j] * z_[j];
      qz += q_[j] * z_[j];
      l1 += p_.penalty[j] * std::abs(z_[j]);
      const double size = p_.non_negative ? q_[j] : std::abs(q_[j]);
      if (size > 0) limit = std::min(limit, p_.penalty[j] / size);
    }
    const double xx = p_.squared_norm[row], residual = std::max(xx - bz - qz, 0.0), xr = xx - bz;
    const double scale = residual > 0 ? std::clamp(xr / residual, 0.0, limit) : 0.0;
    p_.objective[row] = 0.5 * residual + l1;
    p_.gap[row] = std::max(p_.objective[row] - scale * xr + 0.5 * scale * scale * residual, 0.0);
    return p_.gap[row];
  }

  const Problem& p_;
  int64_t k_;
  double* z_ = nullptr;
  bool settled_ = false;
  int64_t m_ = 0, stride_ = 0;
  std::vector<double> q_, code_, rest_, penalty_, gram_, factor_, direction_;
  std::vector<int64_t> support_, active_;
  std::vector<int64_t> place_;  // in the support, or −1
};

}  // namespace

extern "C" void lasso_solve(const Problem* problem, int64_t threads) {
#pragma omp parallel num_threads(threads)
  {
    Solver solver(*problem);
#pragma omp for schedule(dynamic, kChunk)
    for (int64_t row = 0; row < problem->num; ++row) solver.solve(row);
  }
}
