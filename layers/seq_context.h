#pragma once
// What a mixer knows of the sequence: document boundaries, positions, carried states, form.
#include <memory>
#include <string>
#include <vector>

#include "layers/seq_runner.h"
#include "layers/state.h"

namespace ls::layers {

/// Document starts of a batch, per row: ascending token indices in [0, T) at which a new document
/// begins. A row whose first start is 0 forgets its carried state; a row without starts continues.
/// Without rows: no boundary inside the batch.
using DocumentStarts = std::vector<std::vector<Index>>;

/// What a forward pass is given besides its tokens; what is pointed to must outlive the context.
///   {.form = scan.form, .chunk = scan.chunk, .documents = &batch.documents, .incoming = &carried}
struct SeqOptions {
  Form form = Form::kAuto;
  Index chunk = 0;                            ///< 0: each family's default
  const DocumentStarts* documents = nullptr;  ///< null or empty: no boundary inside the batch
  const ModelState* incoming = nullptr;       ///< null or empty: every state is zero
  /// As `incoming`, and used up: without a tape, states go on in its memory where nobody else holds
  /// them.
  ModelState* taken = nullptr;
  bool keep_states = false;     ///< collect outgoing states
  SeqRunner* runner = nullptr;  ///< null: this process alone
};

/// One forward pass over [B, T] tokens. Not shared between threads.
class SeqContext {
 public:
  /// @throws Error(Shape) when document starts or carried states are for another number of rows
  SeqContext(Index batch, Index tokens, const SeqOptions& options);
  ~SeqContext();

  Index batch() const { return batch_; }
  Index tokens() const { return tokens_; }
  /// i64 [B,T]: index of each token within its document, carried tokens included.
  const Tensor& positions();
  /// True when an incoming state asks for a gradient.
  bool states_need_grad() const;
  /// States after the last token; filled when `keep_states` is set.
  ModelState& outgoing() { return outgoing_; }

  /// Runs the scan that `Op` is on inputs [B,T,...]; fills state and boundary inputs, keeps the
  /// outgoing states under `slot`, a name unique within the mixer, and returns the op's outputs.
  template <class Op>
  typename Op::template Out<ag::Var> scan(const std::string& slot,
                                          const typename Op::template In<ag::Var>& in,
                                          const typename Op::Attrs& attrs = {}) {
    const std::vector<ag::Var> out =
        scan(op_info<Op>(), slot, ls::detail::spread_members<ag::Var>(in), &attrs);
    return ls::detail::gather_members<typename Op::template Out<ag::Var>>(
        std::span<const ag::Var>(out));
  }
  std::vector<ag::Var> scan(const OpInfo& op, const std::string& slot, std::vector<ag::Var> in,
                            const void* attrs);

  /// While alive, scans keep no outgoing states: a block runs again in a backward pass.
  class Replay {
   public:
    explicit Replay(SeqContext& seq) : seq_(seq), kept_(seq.options_.keep_states) {
      seq_.options_.keep_states = false;
    }
    ~Replay() { seq_.options_.keep_states = kept_; }
    Replay(const Replay&) = delete;
    Replay& operator=(const Replay&) = delete;

   private:
    SeqContext& seq_;
    bool kept_;
  };

  /// Prefixes slot names and error messages while a layer runs.
  class Layer {
   public:
    Layer(SeqContext& seq, const std::string& name);
    ~Layer();
    Layer(const Layer&) = delete;
    Layer& operator=(const Layer&) = delete;

   private:
    SeqContext& seq_;
    std::size_t length_;
    ErrorContext context_;
  };

 private:
  struct Packing;  // documents of all rows laid end to end
  const Packing& packing();
  std::span<const Index> starts(Index row) const;
  /// Tokens of its document that came before this pass.
  Index seen_before(Index row) const;
  /// Every row's document has at least this many tokens before this pass.
  bool all_have_seen(Index tokens) const;
  /// Undefined where there is none; of a state that is used up, the second time too.
  ag::Var take_incoming(const std::string& path);
  void keep(const std::string& path, StatePart part, const ag::Var& state);

  Index batch_, tokens_;
  SeqOptions options_;
  LocalRunner local_;
  std::string path_;
  Tensor positions_;
  std::unique_ptr<Packing> packing_;
  ModelState outgoing_;
};

}  // namespace ls::layers
