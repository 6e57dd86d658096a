#pragma once
// What code of blocks of threads (core/backend/cuda/device/block.h) sees of operands and sequences.
#include "core/backend/cuda/device/block.h"
#include "core/ops/common/elements.h"
#include "core/ops/common/sequences.h"
#include "core/tensor/context.h"

namespace ls::ops::common {

/// Rows of an operand or result [B,T,H,D] by batch row, token and head, the last axis without gaps;
/// [B,T,H] with D = 1, [B,T,D] with H = 1.
template <class T>
struct Rows {
  T* base = nullptr;
  Index b = 0, t = 0, h = 0;
  LS_ON_DEVICE explicit operator bool() const { return base != nullptr; }
  LS_ON_DEVICE T* at(Index row, Index token, Index head) const {
    return base + row * b + token * t + head * h;
  }
};

template <class T>
Rows<const T> rows_in(const TensorView& x) {
  return x.defined() ? Rows<const T>{x.data<T>(), x.stride(0), x.stride(1), x.stride(2)}
                     : Rows<const T>();
}
template <class T>
Rows<T> rows_to(TensorView& x) {
  return x.defined() ? Rows<T>{x.data<T>(), x.stride(0), x.stride(1), x.stride(2)} : Rows<T>();
}
/// Contiguous rows at `base`.
template <class T>
Rows<T> rows_at(T* base, Index tokens, Index heads, Index d) {
  return {base, tokens * heads * d, heads * d, d};
}

/// Memory of a machine for n elements each.
template <class Machine, class... P>
void take(Machine& machine, Index n, P*&... buffers) {
  ((buffers = static_cast<P*>(machine.allocate(n * Index{sizeof(P)}))), ...);
}

inline constexpr int kThreads = cuda::kBlock;
constexpr Index blocks_of(Index n, Index size) {
  return (n + size - 1) / size;
}
/// f(i) for the block's part of n elements, one a thread: grid blocks_of(n, kThreads).
template <class F>
LS_ON_DEVICE void each_of(const cuda::Block& block, Index n, F&& f) {
  const Index first = block.x * kThreads, rest = n - first;
  block.each(static_cast<int>(rest < kThreads ? rest : kThreads), [&](int i) { f(first + i); });
}

/// A stretch of tokens that a state runs through.
struct Stretch {
  Index row = 0, token = 0, length = 0;
  Index start = -1;  ///< entry of the incoming states; -1: zeros
  Index end = -1;    ///< entry of the outgoing states; -1: none
};

/// The sequences of a call, as common::sequences lists them, found where the offsets are.
struct StretchTable {
  Index batch = 0, tokens = 0;
  Index entries = 0;  ///< of the incoming states
  const std::int64_t* offsets = nullptr;
  Index count = 0;  ///< at most so many
  Stretch* at = nullptr;
  std::int32_t source = 0;  ///< of the error of bad offsets
  ErrorFlag* flag = nullptr;
  std::int64_t* checked = nullptr;  ///< offsets, or where they are bad, those of whole rows

  StretchTable() = default;
  StretchTable(const char* op, Index rows, Index length, const TensorView& given, Index states)
      : batch(rows),
        tokens(length),
        entries(states),
        offsets(length > 0 ? elements<std::int64_t>(given) : nullptr),
        count(offsets ? given.numel() - 1 : rows) {
    if (offsets) {
      source = error_source(
          fmt::format("{}: offsets ascend from 0 to {} and hold the end of every row of {} tokens",
                      op, rows * length, length));
    }
  }
  /// Offset i is none.
  LS_ON_DEVICE bool wrong(Index i) const {
    const Index here = offsets[i], last = i > 0 ? offsets[i - 1] : 0;
    const bool begins = i > 0 || here == 0, ends = i < count || here == batch * tokens;
    const bool inside = last <= here && here <= batch * tokens;
    return !begins || !ends || !inside || (here > last && (here - 1) / tokens != last / tokens);
  }
  LS_ON_DEVICE Stretch make(Index i) const {
    if (!offsets) {
      return {i, 0, tokens, i < entries ? i : -1, i};
    }
    const Index begin = checked[i], end = checked[i + 1];
    if (begin >= end) {
      return {0, 0, 0, -1, -1};
    }
    const Index row = begin / tokens, entry = begin % tokens == 0 ? row : batch;
    return {row, begin % tokens, end - begin, entry < entries ? entry : -1,
            end % tokens == 0 ? row : -1};
  }
};
/// One block.
struct CheckOffsets {
  struct Shared {
    Index first[kThreads];  ///< bad one that each thread has found
    Index bad;
  };
  LS_ON_DEVICE static void run(const cuda::Block& block, const StretchTable& table, Shared* m) {
    block.each(kThreads, [&](int e) {
      Index i = e;
      while (i <= table.count && !table.wrong(i)) {
        i += kThreads;
      }
      m->first[e] = i;
    });
    block.sync();
    block.each(1, [&](int) {
      m->bad = table.count + 1;
      for (const Index i : m->first) {
        m->bad = i < m->bad ? i : m->bad;
      }
      if (m->bad <= table.count && table.flag) {
        raise_error(table.flag, table.source, m->bad, table.offsets[m->bad]);
      }
    });
    block.sync();
    const bool good = m->bad > table.count;
    block.each(static_cast<int>(table.count) + 1, [&](int i) {
      table.checked[i] =
          good ? table.offsets[i] : (i < table.batch ? i : table.batch) * table.tokens;
    });
  }
};
struct MakeStretches {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const StretchTable& table, Shared*) {
    each_of(block, table.count, [&](Index i) { table.at[i] = table.make(i); });
  }
};
/// Sets `checked`, where there are offsets.
template <class Machine>
void check_offsets(Machine& machine, StretchTable& table) {
  if (table.offsets && !table.checked) {
    table.flag = machine.error_flag();
    take(machine, table.count + 1, table.checked);
    machine.template launch<CheckOffsets>({1, 1, 1}, table);
  }
}
template <class Machine>
void make_stretches(Machine& machine, StretchTable& table) {
  if (!table.at) {
    check_offsets(machine, table);
    take(machine, table.count, table.at);
    machine.template launch<MakeStretches>({blocks_of(table.count, kThreads), 1, 1}, table);
  }
}

/// Gradients of incoming states [entries,D], from those that each sequence leaves [sequences,D].
template <class A>
struct StartCall {
  StretchTable sequences;
  const A* from = nullptr;
  A* to = nullptr;
  Index width = 0;
};
template <class A>
struct SumStarts {
  struct Shared {};
  LS_ON_DEVICE static void run(const cuda::Block& block, const StartCall<A>& c, Shared*) {
    each_of(block, c.width, [&](Index x) {
      A sum = 0;
      for (Index n = 0; n < c.sequences.count; ++n) {
        if (c.sequences.at[n].start == block.y) {
          sum += c.from[n * c.width + x];
        }
      }
      c.to[block.y * c.width + x] = sum;
    });
  }
};
template <class A, class Machine>
void sum_starts(Machine& machine, const StretchTable& sequences, const A* from, Index entries,
                Index width, A* to) {
  if (to) {
    const StartCall<A> c{sequences, from, to, width};
    machine.template launch<SumStarts<A>>({blocks_of(width, kThreads), entries, 1}, c);
  }
}

}  // namespace ls::ops::common
