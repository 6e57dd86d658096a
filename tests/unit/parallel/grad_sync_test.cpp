#include "parallel/grad_sync.h"

#include <doctest/doctest.h>

#include <cstring>
#include <string>
#include <vector>

#include "core/base/error.h"
#include "core/comm/thread_comm.h"

using namespace ls;
using namespace ls::parallel;

namespace {

/// Gradients of one rank: several dtypes, an empty one, ones below and above a bucket of 256 bytes.
struct Gradients {
  explicit Gradients(int rank) {
    const auto value = [&](std::size_t i) {
      return static_cast<double>((static_cast<int>(i) * 37 + rank * 101) % 64) / 8 - 3;
    };
    for (std::size_t i = 0; i < a.size(); ++i) {
      a[i] = static_cast<float>(value(i));
    }
    for (std::size_t i = 0; i < b.size(); ++i) {
      b[i] = static_cast<float>(value(i + 7));
    }
    for (std::size_t i = 0; i < c.size(); ++i) {
      c[i] = static_cast<float>(value(i + 9));
    }
    for (std::size_t i = 0; i < d.size(); ++i) {
      d[i] = value(i + 11);
    }
    for (std::size_t i = 0; i < e.size(); ++i) {
      e[i] = bf16(static_cast<float>(value(i + 13)));
    }
  }
  std::vector<RawBuffer> buffers() {
    return {{a.data(), std::ssize(a), DType::kF32},
            {b.data(), std::ssize(b), DType::kF32},
            {nullptr, 0, DType::kF32},
            {c.data(), std::ssize(c), DType::kF32},
            {d.data(), std::ssize(d), DType::kF64},
            {e.data(), std::ssize(e), DType::kBF16}};
  }
  std::vector<float> a = std::vector<float>(5), b = std::vector<float>(50),
                     c = std::vector<float>(1000);
  std::vector<double> d = std::vector<double>(3);
  std::vector<bf16> e = std::vector<bf16>(17);
};

/// The message of the Error(Comm) that every rank must get; "" where one did not.
std::vector<std::string> errors_of(int ranks, const std::function<void(Communicator&)>& body) {
  std::vector<std::string> messages(static_cast<std::size_t>(ranks));
  run_ranks(ranks, [&](Communicator& comm) {
    try {
      body(comm);
    } catch (const Error& e) {
      CHECK(e.kind() == ErrorKind::kComm);
      messages[static_cast<std::size_t>(comm.rank())] = e.what();
    }
  });
  return messages;
}

}  // namespace

TEST_SUITE("unit") {
  TEST_CASE("gradients of every rank become their sum") {
    // The values are eighths: sums are exact, so the order and the buckets cannot matter.
    for (const int ranks : {1, 2, 4}) {
      for (const Index bucket : {Index{1}, Index{256}, Index{1} << 20}) {
        run_ranks(ranks, [&](Communicator& comm) {
          Gradients mine(comm.rank());
          GradSync sync(comm, bucket);
          sync.sum(mine.buffers());
          std::vector<Gradients> all;
          for (int r = 0; r < ranks; ++r) {
            all.emplace_back(r);
          }
          const auto check = [&](auto member) {
            int wrong = 0;
            for (std::size_t i = 0; i < (mine.*member).size(); ++i) {
              double sum = 0;
              for (Gradients& g : all) {
                sum += static_cast<double>(static_cast<float>((g.*member)[i]));
              }
              wrong += !(static_cast<double>(static_cast<float>((mine.*member)[i])) == sum);
            }
            CHECK(wrong == 0);
          };
          check(&Gradients::a);
          check(&Gradients::b);
          check(&Gradients::c);
          check(&Gradients::d);
          check(&Gradients::e);
        });
      }
    }
  }

  TEST_CASE("sums, on every call and with buffers that move") {
    run_ranks(4, [](Communicator& comm) {
      GradSync sync(comm);
      for (int step = 0; step < 3; ++step) {
        std::vector<float> x(10, static_cast<float>(comm.rank() + step));
        const RawBuffer grads[] = {{x.data(), std::ssize(x), DType::kF32}};
        sync.sum(grads);
        CHECK(x == std::vector<float>(10, 6.0f + 4 * static_cast<float>(step)));
      }
    });
  }

  TEST_CASE("gradients that do not match are refused before they are mixed") {
    const auto messages = errors_of(3, [](Communicator& comm) {
      std::vector<float> x(12, 1.0f);
      const RawBuffer grads[] = {{x.data(), comm.rank() == 2 ? 6 : 5, DType::kF32},
                                 {x.data() + 6, comm.rank() == 2 ? 5 : 6, DType::kF32}};
      GradSync(comm).sum(grads);
    });
    for (const std::string& m : messages) {
      CHECK(
          m.find("the list of gradients differs between ranks: rank 2 disagrees with ranks 0, 1") ==
          0);
    }
    const auto solo = solo_communicator();
    Index whole = 1;
    const RawBuffer wrong[] = {{&whole, 1, DType::kI64}};
    CHECK_THROWS_AS(GradSync(*solo).sum(wrong), Error);
    CHECK_THROWS_AS(GradSync(*solo, 0), Error);
  }

  TEST_CASE("ranks that differ are named, the same way on every rank") {
    const auto differ = [](std::vector<std::uint64_t> hashes) {
      const auto messages = errors_of(static_cast<int>(hashes.size()), [&](Communicator& comm) {
        check_same_across_ranks(comm, hashes[static_cast<std::size_t>(comm.rank())], "the seed");
      });
      for (const std::string& m : messages) {
        CHECK(m == messages[0]);
      }
      return messages[0].substr(0, messages[0].find(';'));
    };
    CHECK(differ({7, 7, 7}) == "");
    CHECK(differ({7}) == "");
    CHECK(differ({8, 7, 7}) == "the seed differs between ranks: rank 0 disagrees with ranks 1, 2");
    CHECK(differ({7, 8, 7, 9}) ==
          "the seed differs between ranks: ranks 1, 3 disagree with ranks 0, 2");
    CHECK(differ({7, 8}) == "the seed differs between ranks: rank 1 disagrees with rank 0");
  }

  TEST_CASE("a hash sees every byte, the length, the type and where buffers end") {
    std::vector<std::uint8_t> bytes(101);
    for (std::size_t i = 0; i < bytes.size(); ++i) {
      bytes[i] = static_cast<std::uint8_t>(i * 31);
    }
    const auto hash = [&](Index n, DType dtype = DType::kU8) {
      const RawBuffer one[] = {{bytes.data(), n, dtype}};
      return hash_buffers(one);
    };
    const std::uint64_t whole = hash(101);
    CHECK(whole == hash(101));
    for (std::uint8_t& b : bytes) {
      b ^= 1;
      CHECK(hash(101) != whole);
      b ^= 1;
    }
    CHECK(hash(100) != whole);
    CHECK(hash(101, DType::kBool) != whole);
    const RawBuffer cut_a[] = {{bytes.data(), 50, DType::kU8}, {bytes.data() + 50, 51, DType::kU8}};
    const RawBuffer cut_b[] = {{bytes.data(), 51, DType::kU8}, {bytes.data() + 51, 50, DType::kU8}};
    CHECK(hash_buffers(cut_a) != hash_buffers(cut_b));
    // Exchanged words stay visible.
    std::uint64_t words[8] = {1, 2, 3, 4, 5, 6, 7, 8};
    const RawBuffer list[] = {{words, 8, DType::kI64}};
    const std::uint64_t in_order = hash_buffers(list);
    std::swap(words[0], words[1]);
    CHECK(hash_buffers(list) != in_order);
    std::swap(words[0], words[1]);
    std::swap(words[0], words[4]);
    CHECK(hash_buffers(list) != in_order);
  }
}
