#include "core/tensor/flat.h"

#include "core/base/checked.h"

namespace ls {
namespace {

Index rounded_up(Index n, Index unit) {
  return checked_mul((checked_add(n, unit - 1)) / unit, unit);
}

}  // namespace

FlatPlaces::FlatPlaces(std::span<const Shape> shapes, Index shards) {
  LS_CHECK(shards > 0, kInternal, "a buffer in {} parts", shards);
  const Index unit = FlatBuffer::kAlign / dtype_size(DType::kBF16);  // the smallest parameters
  Index end = 0;
  for (const Shape& shape : shapes) {
    begins.push_back(end);
    end = rounded_up(checked_add(end, shape.numel()), unit);
  }
  total = rounded_up(end, checked_mul(unit, shards));
}

FlatBuffer::FlatBuffer(std::span<const Shape> shapes, DType dtype, Device& device, Index shards)
    : shards_(shards) {
  const FlatPlaces places(shapes, shards);
  whole_ = Tensor::zeros({places.total}, dtype, device);
  for (std::size_t i = 0; i < shapes.size(); ++i) {
    const Index begin = places.begins[i];
    views_.push_back(whole_.slice(0, begin, begin + shapes[i].numel()).view(shapes[i]));
  }
}

Tensor FlatBuffer::shard(Index s) const {
  LS_CHECK(0 <= s && s < shards_, kInternal, "part {} of {}", s, shards_);
  const Index n = whole_.numel() / shards_;
  return whole_.slice(0, s * n, (s + 1) * n);
}

}  // namespace ls
