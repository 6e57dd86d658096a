#pragma once
// A communicator that counts what goes over another one.
#include "core/comm/comm.h"

namespace ls::test {

/// Counts the messages of tensors, which travel as bytes, that this rank sends to others, and their
/// bytes; numbers, which are headers, are not counted.
class Counting final : public Communicator {
 public:
  explicit Counting(Communicator& base) : base_(base) {}
  int rank() const override { return base_.rank(); }
  int size() const override { return base_.size(); }
  std::string name() const override { return base_.name() + "/counted"; }
  Index sent() const { return sent_; }
  Index messages() const { return messages_; }
  /// Operations of any kind.
  Index calls() const { return calls_; }

 private:
  void count(const CommCall& call, Index bytes) {
    ++calls_;
    if (call.dtype == DType::kU8) {
      sent_ += bytes;
      ++messages_;
    }
  }
  void do_all_reduce(const CommCall& c, void* data) override {
    ++calls_;
    base_.all_reduce(data, c.n, c.dtype, c.op);
  }
  void do_reduce_scatter(const CommCall& c, const void* in, void* out) override {
    ++calls_;
    base_.reduce_scatter(in, out, c.n, c.dtype, c.op);
  }
  void do_broadcast(const CommCall& c, void* data) override {
    ++calls_;
    base_.broadcast(data, c.n, c.dtype, c.from);
  }
  void do_all_gather(const CommCall& c, const void* in, void* out,
                     std::span<const Index> bytes) override {
    count(c, bytes[static_cast<std::size_t>(rank())] * (size() - 1));
    base_.all_gather(in, out, bytes, DType::kU8);
  }
  void do_all_to_all(const CommCall& c, const void* in, std::span<const Index> in_bytes, void* out,
                     std::span<const Index> out_bytes) override {
    Index others = 0;
    for (int r = 0; r < size(); ++r) {
      others += r == rank() ? 0 : in_bytes[static_cast<std::size_t>(r)];
    }
    count(c, others);
    base_.all_to_all(in, in_bytes, out, out_bytes, DType::kU8);
  }
  void do_send_recv(const CommCall& c, const void* out, Index out_bytes, void* in,
                    Index in_bytes) override {
    if (c.to == kNoRank) {
      ++calls_;
    } else {
      count(c, out_bytes);
    }
    base_.send_recv(out, out_bytes, c.to, in, in_bytes, c.from, DType::kU8, c.tag);
  }
  void do_barrier(const CommCall&) override {
    ++calls_;
    base_.barrier();
  }
  std::unique_ptr<Communicator> do_split(std::span<const int>) override { return nullptr; }

  Communicator& base_;
  Index sent_ = 0, messages_ = 0, calls_ = 0;
};

}  // namespace ls::test
