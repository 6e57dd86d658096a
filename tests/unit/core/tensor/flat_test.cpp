#include "core/tensor/flat.h"

#include <doctest/doctest.h>

using namespace ls;

TEST_SUITE("unit") {
  TEST_CASE("views of a flat buffer are aligned, apart and all of it falls into equal parts") {
    const Shape shapes[] = {{3, 5}, {}, {128}, {0, 4}, {7, 11, 2}};
    for (const DType type : {DType::kF32, DType::kBF16, DType::kF64}) {
      for (const Index shards : {1, 2, 3, 8}) {
        const FlatBuffer flat(shapes, type, cpu(), shards);
        const auto begin = reinterpret_cast<std::uintptr_t>(flat.whole().raw());
        std::uintptr_t last = begin;
        for (std::size_t i = 0; i < 5; ++i) {
          const Tensor& v = flat.views()[i];
          const auto at = reinterpret_cast<std::uintptr_t>(v.raw());
          CHECK(v.shape() == shapes[i]);
          CHECK(v.shares_storage(flat.whole()));
          CHECK(v.is_contiguous());
          CHECK((at - begin) % FlatBuffer::kAlign == 0);
          CHECK(at >= last);
          last = at + static_cast<std::uintptr_t>(v.bytes());
          Tensor(v).fill_(static_cast<double>(i + 1));
        }
        CHECK(last <= begin + static_cast<std::uintptr_t>(flat.whole().bytes()));
        for (std::size_t i = 0; i < 5; ++i) {
          for (const double x : flat.views()[i].to_vector<double>()) {
            CHECK(x == static_cast<double>(i + 1));
          }
        }
        Index sum = 0;
        for (Index s = 0; s < shards; ++s) {
          CHECK(flat.shard(s).bytes() % FlatBuffer::kAlign == 0);
          CHECK(flat.shard(s).numel() == flat.shard(0).numel());
          sum += flat.shard(s).numel();
        }
        CHECK(sum == flat.whole().numel());
      }
    }
  }
}
