#include "autograd/held_block.h"

#include <algorithm>
#include <exception>
#include <utility>

#include "autograd/tape.h"

namespace ls::ag {
namespace {

using Blocks = std::vector<std::shared_ptr<HeldBlock>>;

void restore(const Tensor& buffer) {
  buffer.storage()->restore(current_stream(buffer.device()));
}

/// Where a backward pass comes to what was recorded while blocks were held, or leaves it.
class HoldNode final : public NodeFn {
 public:
  HoldNode(Blocks blocks, bool begins, bool gradients)
      : blocks_(std::move(blocks)), begins_(begins), gradients_(gradients) {}
  std::string name() const override { return begins_ ? "hold" : "release"; }
  bool must_run() const override { return true; }
  void backward(std::span<const Tensor>, const std::vector<bool>&, std::span<Tensor>) override {
    for (const std::shared_ptr<HeldBlock>& block : blocks_) {
      if (begins_) {
        block->hold_values();
        if (gradients_) {
          block->hold_gradients();
        }
        continue;
      }
      if (gradients_) {
        block->release_gradients();
      }
      block->release_values();
    }
  }

 private:
  Blocks blocks_;
  bool begins_, gradients_;
};

}  // namespace

HeldBlock::HeldBlock(FlatBuffer values, FlatBuffer grads, std::vector<Var> vars,
                     std::shared_ptr<ConvertedCopy> copy, std::shared_ptr<ShardExchange> exchange,
                     std::shared_ptr<HeldBytes> bytes)
    : values_(std::move(values)),
      grads_(std::move(grads)),
      vars_(std::move(vars)),
      copy_(std::move(copy)),
      exchange_(std::move(exchange)),
      bytes_(std::move(bytes)) {
  value_shard_ = values_.shard(exchange_->rank()).clone();
  gradient_shard_ =
      Tensor::zeros(value_shard_.shape(), value_shard_.dtype(), value_shard_.device());
  bytes_->shards += value_shard_.bytes() + gradient_shard_.bytes();
  copy_->drop();
  values_.whole().storage()->drop();
  grads_.whole().storage()->drop();
}

void HeldBlock::count(const Tensor& buffer, Index sign) {
  bytes_->whole += sign * buffer.bytes();
  bytes_->most = std::max(bytes_->most, bytes_->whole);
}

void HeldBlock::hold_values() {
  if (held_values_++ > 0) {
    return;
  }
  Tensor whole = values_.whole();
  const std::uint64_t version = whole.version();
  restore(whole);
  exchange_->gather(value_shard_, whole);
  whole.storage()->set_version(version);  // tensors that a tape saved hold the same elements
  count(whole, 1);
  if (const Tensor copy = copy_->restore(); copy.defined()) {
    count(copy, 1);
    copy_counted_ = true;
  }
}

void HeldBlock::release_values() {
  if (--held_values_ > 0) {
    return;
  }
  if (const Tensor copy = copy_->drop(); std::exchange(copy_counted_, false)) {
    count(copy, -1);
  }
  count(values_.whole(), -1);
  values_.whole().storage()->drop();
}

void HeldBlock::keep_values() {
  value_shard_.copy_(values_.shard(exchange_->rank()));
}

void HeldBlock::note_written() {
  Tensor(values_.whole()).bump_version();
}

void HeldBlock::hold_gradients() {
  if (held_gradients_++ > 0) {
    return;
  }
  restore(grads_.whole());
  count(grads_.whole(), 1);
}

void HeldBlock::hold_gradients_on() {
  hold_gradients();
  ++held_on_;
}

void HeldBlock::release_gradients() {
  held_gradients_ -= 1 + std::exchange(held_on_, 0);
  if (held_gradients_ > 0) {
    return;
  }
  for (std::size_t i = 0; i < vars_.size(); ++i) {
    Var& var = vars_[i];
    Tensor place = grads_.views()[i];
    if (!var.grad().defined()) {
      place.zero_();
    } else if (!same_elements(var.grad(), place)) {
      place.copy_(var.grad());
    }
    var.clear_grad();
  }
  if (filled_) {
    Tensor more =
        Tensor::empty(gradient_shard_.shape(), gradient_shard_.dtype(), gradient_shard_.device());
    exchange_->sum(grads_.whole(), more);
    gradient_shard_.add_(more);
  } else {
    exchange_->sum(grads_.whole(), gradient_shard_);
    filled_ = true;
  }
  count(grads_.whole(), -1);
  grads_.whole().storage()->drop();
}

Tensor& HeldBlock::gradient_shard() {
  if (!std::exchange(filled_, true)) {
    gradient_shard_.zero_();
  }
  return gradient_shard_;
}

void HeldBlock::clear_gradients() {
  filled_ = false;
}

Hold::Hold(Blocks blocks, GradientHold gradients)
    : blocks_(std::move(blocks)),
      gradients_(gradients),
      recorded_(!blocks_.empty() && Tape::current() && grad_enabled()),
      exceptions_(std::uncaught_exceptions()) {
  for (const std::shared_ptr<HeldBlock>& block : blocks_) {
    block->hold_values();
    if (recorded_ && gradients_ == GradientHold::kForward) {
      block->hold_gradients();
    } else if (recorded_ && gradients_ == GradientHold::kOn) {
      block->hold_gradients_on();
    }
  }
  if (recorded_) {
    Tape::current()->record(
        std::make_unique<HoldNode>(blocks_, false, gradients_ != GradientHold::kOn), {}, {});
  }
}

Hold::~Hold() {
  if (recorded_ && std::uncaught_exceptions() == exceptions_) {
    Tape::current()->record(
        std::make_unique<HoldNode>(blocks_, true, gradients_ == GradientHold::kBackward), {}, {});
  }
  for (const std::shared_ptr<HeldBlock>& block : blocks_) {
    block->release_values();
  }
}

}  // namespace ls::ag
