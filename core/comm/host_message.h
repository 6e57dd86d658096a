#pragma once
// A list of tensors as one run of bytes, for transports that reach no device.
#include <vector>

#include "core/tensor/tensor.h"

namespace ls {

class HostMessage {
 public:
  /// Undefined tensors have no bytes.
  explicit HostMessage(std::vector<Tensor> list);
  Index bytes() const { return bytes_; }
  /// On the host; of one contiguous tensor that lies there, its own memory.
  void* data() { return buffer_.raw(); }
  /// Tensors to bytes. The host waits for what lies elsewhere.
  void pack();
  /// Bytes to tensors.
  void unpack();
  /// The same of bytes that lie elsewhere.
  void unpack(const void* bytes);

 private:
  std::vector<Tensor> list_;
  Tensor buffer_;
  Index bytes_ = 0;
  bool in_place_ = false;
};

}  // namespace ls
