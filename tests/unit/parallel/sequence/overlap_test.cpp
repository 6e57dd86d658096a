// What a scan's ranks wait for is under way while they work: a transport that holds each message
// until the work that does not need it has been done, so that waiting any earlier would never end.
#include <doctest/doctest.h>

#include <condition_variable>
#include <mutex>
#include <thread>

#include "autograd/tape.h"
#include "core/base/rng.h"
#include "core/comm/thread_comm.h"
#include "core/ops/decayed_linear/decayed_linear.h"
#include "core/ops/delta_rule/delta_rule.h"
#include "core/ops/gru/gru.h"
#include "parallel/sequence/runner.h"

using namespace ls;

namespace {

using Vars = std::vector<ag::Var>;
using Events = std::vector<std::string>;

/// What happened on one rank, in order.
class Log {
 public:
  void add(const std::string& event) {
    const std::lock_guard lock(mutex_);
    events_.push_back(event);
    changed_.notify_all();
  }
  /// Until `event` was added `n` times since the last take; false where it never is.
  bool wait_for(const std::string& event, Index n) {
    std::unique_lock lock(mutex_);
    return changed_.wait_for(lock, std::chrono::seconds(30), [&] {
      return std::count(events_.begin(), events_.end(), event) >= n;
    });
  }
  Events take() {
    const std::lock_guard lock(mutex_);
    return std::exchange(events_, {});
  }

 private:
  std::mutex mutex_;
  std::condition_variable changed_;
  Events events_;
};

/// Hands on to another communicator. Message 1 is held until message 2 was issued, message 2 until
/// the scan of the first part was run or, where `runs` is false, not at all.
class Holding final : public Communicator {
 public:
  Holding(Communicator& base, Log& log, bool runs) : base_(base), log_(log), runs_(runs) {}
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  std::string name() const override { return "holding"; }
  CommQueue& queue() override {
    if (std::this_thread::get_id() == owner_) {
      log_.add("issue");
    }
    return own_;
  }
  void restart() { calls_ = 0; }

 protected:
  void do_all_gather(const CommCall&, const void* in, void* out,
                     std::span<const Index> bytes) override {
    const int call = calls_++;  // two a message: what it looks like, and its bytes
    if (call == 0) {
      CHECK(log_.wait_for("issue", 2));
    } else if (call == 2 && runs_) {
      CHECK(log_.wait_for("run", 1));
    }
    base_.all_gather(in, out, bytes, DType::kU8);
    if (call % 2 == 1) {
      log_.add("arrive");
    }
  }
  void do_all_reduce(const CommCall& c, void* data) override {
    base_.all_reduce(data, c.n, c.dtype, c.op);
  }
  void do_reduce_scatter(const CommCall& c, const void* in, void* out) override {
    base_.reduce_scatter(in, out, c.n, c.dtype, c.op);
  }
  void do_broadcast(const CommCall& c, void* data) override {
    base_.broadcast(data, c.n, c.dtype, c.from);
  }
  void do_all_to_all(const CommCall&, const void* in, std::span<const Index> in_bytes, void* out,
                     std::span<const Index> out_bytes) override {
    base_.all_to_all(in, in_bytes, out, out_bytes, DType::kU8);
  }
  void do_send_recv(const CommCall& c, const void* out, Index out_bytes, void* in,
                    Index in_bytes) override {
    base_.send_recv(out, out_bytes, c.to, in, in_bytes, c.from, DType::kU8, c.tag);
  }
  void do_barrier(const CommCall&) override { base_.barrier(); }
  std::unique_ptr<Communicator> do_split(std::span<const int>) override { return nullptr; }

 private:
  Communicator& base_;
  Log& log_;
  bool runs_;
  int calls_ = 0;
  std::thread::id owner_ = std::this_thread::get_id();
  CommQueue own_;
};

/// Hands gradients on and says so.
class Told final : public ag::NodeFn {
 public:
  explicit Told(Log& log) : log_(log) {}
  std::string name() const override { return "told"; }
  void backward(std::span<const Tensor> dout, const std::vector<bool>&,
                std::span<Tensor> din) override {
    log_.add("run");
    std::ranges::copy(dout, din.begin());
  }

 private:
  Log& log_;
};

/// The local runner, which says that it ran, and that it was derived.
class TellingRunner final : public layers::SeqRunner {
 public:
  explicit TellingRunner(Log& log) : log_(log) {}
  Vars run(const layers::ScanInfo& scan, Vars in, std::shared_ptr<const void> attrs,
           const layers::Stretch& stretch, const layers::ScanCall& call) override {
    Vars out = local_.run(scan, std::move(in), std::move(attrs), stretch, call);
    if (stretch.tokens() == 0) {
      return out;
    }
    log_.add("run");
    const Tensor o = out[0].value();
    out[0] = ag::Tape::current()->record(std::make_unique<Told>(log_), {&out[0], 1}, {&o, 1})[0];
    return out;
  }

 private:
  Log& log_;
  layers::LocalRunner local_;
};

/// Events of a scan over two ranks, forward, then backward, on both.
template <class Op>
void check_events(const std::function<typename Op::template In<ag::Var>(Rng&)>& inputs, bool runs,
                  const Events& expected) {
  run_ranks(2, [&](Communicator& threads) {
    Log log;
    Rng rng(3, "overlap");
    const Vars in = ls::detail::spread_members<ag::Var>(inputs(rng));
    const auto attrs = std::make_shared<const typename Op::Attrs>();
    TellingRunner local(log);
    Holding comm(threads, log, runs);
    parallel::SplitRunner runner(comm, local, "gather");
    ag::Tape tape;
    const Vars out =
        runner.run(layers::scan_of(op_info<Op>(), attrs.get()), in, attrs, layers::Stretch(1, 6),
                   {.slot = "scan", .keep = false, .fresh = {}});
    CHECK(log.take() == expected);
    comm.restart();
    tape.backward({&out[0], 1}, std::vector<Tensor>{out[0].value()});
    CHECK(log.take() == expected);
  });
}

/// Runs parts of a scan on two ranks whose events are one log. The first rank does not begin its
/// second part before the other has begun its first.
class TurnsRunner final : public layers::SeqRunner {
 public:
  TurnsRunner(Log& log, int rank) : log_(log), rank_(rank) {}
  Vars run(const layers::ScanInfo& scan, Vars in, std::shared_ptr<const void> attrs,
           const layers::Stretch& stretch, const layers::ScanCall& call) override {
    if (stretch.tokens() > 0) {
      if (rank_ == 0 && parts_ == 1) {
        CHECK(log_.wait_for("1 begins", 1));
      }
      ++parts_;
      log_.add(fmt::format("{} begins", rank_));
    }
    return local_.run(scan, std::move(in), std::move(attrs), stretch, call);
  }
  int parts() const { return parts_; }

 private:
  Log& log_;
  int rank_, parts_ = 0;
  layers::LocalRunner local_;
};

ag::Var uniform(Rng& rng, const Shape& shape, double low, double high) {
  Tensor x = Tensor::empty(shape, DType::kF64);
  for (Index i = 0; i < x.numel(); ++i) {
    x.data<double>()[i] = low + (high - low) * rng.uniform();
  }
  return ag::Var::leaf(x);
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("parallel/sequence: work goes on while messages are under way") {
    const Shape shape{1, 6, 2, 4}, heads{1, 6, 2};
    check_events<ops::DecayedLinear>(
        [&](Rng& rng) {
          return ops::DecayedLinear::In<ag::Var>{.q = uniform(rng, shape, -1, 1),
                                                 .k = uniform(rng, shape, -1, 1),
                                                 .v = uniform(rng, shape, -1, 1),
                                                 .g = uniform(rng, heads, -1, 0)};
        },
        true, {"issue", "issue", "arrive", "run", "arrive", "run"});
    // All that needs no state is one run of the op, which is done when its summary is.
    check_events<ops::DeltaRule>(
        [&](Rng& rng) {
          return ops::DeltaRule::In<ag::Var>{.q = uniform(rng, shape, -1, 1),
                                             .k = uniform(rng, shape, -0.5, 0.5),
                                             .v = uniform(rng, shape, -1, 1),
                                             .beta = uniform(rng, heads, 0, 1)};
        },
        false, {"issue", "issue", "arrive", "arrive"});
  }

  TEST_CASE(
      "parallel/sequence: ranks that take turns work at the same time, on parts of the rows") {
    Log log;
    run_ranks(2, [&](Communicator& comm) {
      Rng rng(4, "turns");
      const Vars in = ls::detail::spread_members<ag::Var>(ops::Gru::In<ag::Var>{
          .gx = uniform(rng, {4, 5, 12}, -1, 1), .r = uniform(rng, {1, 12, 4}, -1, 1)});
      const auto attrs = std::make_shared<const ops::Gru::Attrs>();
      TurnsRunner local(log, comm.rank());
      parallel::SplitRunner runner(comm, local, "relay");
      const ag::NoGrad no_grad;
      runner.run(layers::scan_of(op_info<ops::Gru>(), attrs.get()), in, attrs,
                 layers::Stretch(4, 5), {.slot = "scan", .keep = false, .fresh = {}});
      CHECK(local.parts() == 4);
    });
  }
}
