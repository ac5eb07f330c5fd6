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

constexpr double kShare = 0.2;       // of the worst violation: coordinates above it make the first support
constexpr double kNear = 0.97;       // of its bound: coordinates above it join the support later
constexpr double kFew = 0.2;         // of the support: with more that have just joined, a Newton step would not fit yet
constexpr int kCalm = 2;             // sweeps without a change of sign before a Newton step
constexpr int kSweeps = 30;          // at most, before a Newton step
constexpr int kAttempts = 5;         // Newton steps before the next look at all coordinates
constexpr int64_t kChunk = 16;       // examples that a thread takes at once
constexpr int64_t kTogether = 4;     // coordinates, or pivots, whose rows are taken off the others in one go
constexpr double kSingular = 1e-10;
constexpr double kFar = 1e300;
#ifdef __AVX512F__
constexpr int64_t kLanes = 8;        // rows are padded to whole vectors, because most of them are short
#else
constexpr int64_t kLanes = 4;
#endif
constexpr int64_t kBlock = 8;        // vectors of q that stay in registers

typedef double Vector __attribute__((vector_size(kLanes * sizeof(double)), aligned(sizeof(double)), may_alias));

int64_t padded(int64_t size) { return (size + kLanes - 1) / kLanes * kLanes; }

// y ← y − Σ_p by_p · x_p on whole vectors from that of index `first` on; the rows x_p are `stride` apart.
template <int64_t num = 1>
inline void subtract(double* y, const double* x, int64_t stride, const double* by, int64_t size, int64_t first = 0) {
  for (int64_t i = first / kLanes * kLanes; i < size; i += kLanes) {
    Vector sum = *reinterpret_cast<const Vector*>(y + i);
    for (int64_t p = 0; p < num; ++p) sum -= by[p] * *reinterpret_cast<const Vector*>(x + p * stride + i);
    *reinterpret_cast<Vector*>(y + i) = sum;
  }
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
  explicit Solver(const Problem& p)
      : p_(p),
        k_(p.k),
        q_(p.stride),
        size_(p.k),
        inverse_(p.k),
        support_(p.k + 1),
        rows_(p.k + 1),
        place_(p.k, -1) {
    for (int64_t j = 0; j < k_; ++j) inverse_[j] = 1 / p.penalty[j];
  }

  void solve(int64_t row) {
    z_ = p_.code + row * k_;
    const double* b = p_.correlation + row * k_;
    forget();
    // No branches here and below: which codes are zero cannot be foreseen.
    int64_t end = 0;
    for (int64_t j = 0; j < k_; ++j) {
      rows_[end] = j;
      end += z_[j] != 0;
    }
    nonzero_ = end;
    double best = measure(row, b);
    for (int64_t round = 0; round < p_.max_rounds && best > p_.tolerance; ++round) {
      enter();
      descend();
      leave();
      best = measure(row, b);
    }
  }

 private:
  void forget() {
    for (int64_t a = 0; a < m_; ++a) place_[support_[a]] = -1;
    m_ = 0;
  }

  // q ← b − Gz, a few vectors of it at a time for all codes: what comes from memory is G only.
  void correlate(const double* b) {
    std::copy(b, b + k_, q_.begin());
    int64_t at = 0;
    for (; at + kBlock * kLanes <= p_.stride; at += kBlock * kLanes) correlate<kBlock>(at);
    for (; at < p_.stride; at += kLanes) correlate<1>(at);
  }

  template <int64_t vectors>
  void correlate(int64_t at) {
    Vector sum[vectors];
    Vector* q = reinterpret_cast<Vector*>(q_.data() + at);
    for (int64_t v = 0; v < vectors; ++v) sum[v] = q[v];
    for (int64_t i = 0; i < nonzero_; ++i) {
      const int64_t j = rows_[i];
      const Vector* gram = reinterpret_cast<const Vector*>(p_.gram + j * p_.stride + at);
      const double z = z_[j];
      for (int64_t v = 0; v < vectors; ++v) sum[v] -= z * gram[v];
    }
    for (int64_t v = 0; v < vectors; ++v) q[v] = sum[v];
  }

  // The coordinates to work on: those of the rounds before, those that are not zero, and those that violate optimality
  // at zero, at first the worst of them, later those that may come to it too.
  void enter() {
    const int64_t old = m_;
    const double bar = old > 0 ? kNear : 1 + kShare * (worst_ - 1);
    int64_t end = old;
    for (int64_t j = 0; j < k_; ++j) {
      support_[end] = j;
      end += (place_[j] < 0) & ((size_[j] > bar) | (z_[j] != 0));
    }
    m_ = end;
    for (int64_t a = old; a < m_; ++a) place_[support_[a]] = a;
    grow(old);
    for (auto* v : {&code_, &rest_, &penalty_, &curvature_, &step_}) v->resize(stride_);
    int64_t fresh = 0;
    for (int64_t a = 0; a < m_; ++a) {
      const int64_t j = support_[a];
      fresh += a >= old && z_[j] == 0;
      code_[a] = z_[j];
      rest_[a] = q_[j];
      penalty_[a] = p_.penalty[j];
      curvature_[a] = gram_[a * stride_ + a];
      step_[a] = curvature_[a] > 0 ? 1 / curvature_[a] : 0;
    }
    settled_ = fresh <= kFew * m_;
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

  // Writes the codes back.
  void leave() {
    int64_t end = 0;
    for (int64_t a = 0; a < m_; ++a) {
      const int64_t j = support_[a];
      z_[j] = code_[a];
      rows_[end] = j;
      end += code_[a] != 0;
    }
    nonzero_ = end;
  }

  // Sweeps until one changes no sign; if few coordinates have just joined, another and Newton's step, until it fits.
  void descend() {
    for (int attempt = 0; attempt < kAttempts; ++attempt) {
      const int enough = settled_ ? kCalm : 1;
      int sweep = 0;
      for (int calm = 0; calm < enough && sweep < kSweeps; ++sweep) calm = sweep_support() ? 0 : calm + 1;
      if (!settled_ || newton()) return;
    }
  }

  // One pass of coordinate descent; whether a sign changed.
  bool sweep_support() {
    bool changed = false;
    for (int64_t a = 0; a < m_;) {
      const bool many = m_ - a >= kTogether;
      changed |= many ? descend<kTogether>(a) : descend<1>(a);
      a += many ? kTogether : 1;
    }
    return changed;
  }

  // Some coordinates of it: what one does to the next ones comes before what all do to the rest.
  template <int64_t num>
  bool descend(int64_t first) {
    const double* gram = gram_.data() + first * stride_;
    bool changed = false;
    double pull[num], by[num];
    for (int64_t p = 0; p < num; ++p) pull[p] = rest_[first + p];
    for (int64_t p = 0; p < num; ++p) {
      const int64_t a = first + p;
      const double old = code_[a], low = p_.non_negative ? -kFar : -penalty_[a];
      const double drive = pull[p] + curvature_[a] * old;
      const double next = step_[a] * (drive - std::clamp(drive, low, penalty_[a]));
      by[p] = next - old;
      changed |= by[p] != 0 && next * old <= 0;
      code_[a] = next;
      for (int64_t r = p + 1; r < num; ++r) pull[r] -= by[p] * gram[p * stride_ + first + r];
    }
    subtract<num>(rest_.data(), gram, stride_, by, m_);
    return changed;
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
      const double by = next - code_[a];
      subtract(rest_.data(), gram_.data() + a * stride_, 0, &by, m_);
      code_[a] = next;
    }
    return first < 0;
  }

  // Solves G_AA δ = q_A − λ_A sign(z_A) by Cholesky, row by row; false where G_AA is singular to rounding.
  bool find_direction() {
    const int64_t m = static_cast<int64_t>(active_.size()), stride = padded(m + 1);
    factor_.resize(stride * stride);
    direction_.resize(m);
    for (int64_t i = 0; i < m; ++i) {
      const double* g = gram_.data() + active_[i] * stride_;
      double* row = factor_.data() + i * stride;
      for (int64_t c = i; c < m; ++c) row[c] = g[active_[c]];
      row[m] = rest_[active_[i]] - std::copysign(penalty_[active_[i]], code_[active_[i]]);
    }
    for (int64_t i = 0; i < m;) {
      const bool many = m - i >= kTogether;
      if (!(many ? eliminate<kTogether>(i, m, stride) : eliminate<1>(i, m, stride))) return false;
      i += many ? kTogether : 1;
    }
    for (int64_t i = m; i-- > 0;) {
      const double* row = factor_.data() + i * stride;
      double sum = row[m];
      for (int64_t c = i + 1; c < m; ++c) sum -= row[c] * direction_[c];
      direction_[i] = sum / row[i];
    }
    return true;
  }

  // Takes `num` pivots' multiples off the rows below them; false where one is zero to rounding.
  template <int64_t num>
  bool eliminate(int64_t first, int64_t m, int64_t stride) {
    double* rows = factor_.data() + first * stride;
    double inverse[num], by[num];
    for (int64_t p = 0; p < num; ++p) {
      const double* row = rows + p * stride;
      const int64_t a = active_[first + p];
      if (row[first + p] <= kSingular * curvature_[a]) return false;
      inverse[p] = 1 / row[first + p];
      for (int64_t c = p + 1; c < num; ++c) {
        by[0] = row[first + c] * inverse[p];
        subtract(rows + c * stride, row, 0, by, m + 1, first + c);
      }
    }
    for (int64_t c = first + num; c < m; ++c) {
      for (int64_t p = 0; p < num; ++p) by[p] = rows[p * stride + c] * inverse[p];
      subtract<num>(factor_.data() + c * stride, rows, stride, by, m + 1, c);
    }
    return true;
  }

  // The objective, and its distance from the dual objective at the residual, scaled into the dual's feasible set.
  double measure(int64_t row, const double* b) {
    correlate(b);
    double bz = 0, qz = 0, l1 = 0, worst = 0;
    for (int64_t j = 0; j < k_; ++j) {
      bz += b[j] * z_[j];
      qz += q_[j] * z_[j];
      l1 += p_.penalty[j] * std::abs(z_[j]);
      size_[j] = (p_.non_negative ? q_[j] : std::abs(q_[j])) * inverse_[j];
      worst = std::max(worst, size_[j]);
    }
    worst_ = worst;
    const double xx = p_.squared_norm[row], residual = std::max(xx - bz - qz, 0.0), xr = xx - bz;
    const double scale = residual > 0 ? std::clamp(xr / residual, 0.0, 1 / std::max(worst, 1e-300)) : 0.0;
    p_.objective[row] = 0.5 * residual + l1;
    p_.gap[row] = std::max(p_.objective[row] - scale * xr + 0.5 * scale * scale * residual, 0.0);
    return p_.gap[row];
  }

  const Problem& p_;
  int64_t k_;
  double* z_ = nullptr;
  bool settled_ = false;
  int64_t nonzero_ = 0, m_ = 0, stride_ = 0;
  double worst_ = 0;  // of size_
  std::vector<double> q_, size_, inverse_;  // size: |q|, or q, as a share of the penalty
  std::vector<double> code_, rest_, penalty_, curvature_, step_, gram_, factor_, direction_;
  std::vector<int64_t> support_, active_;
  std::vector<int64_t> rows_;   // of G whose codes are not zero, the first nonzero_
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
