#pragma once
// What a mixer knows of the sequence: document boundaries, positions, carried states, form.
#include <map>
#include <memory>
#include <optional>
#include <string>
#include <vector>

#include "layers/seq_runner.h"
#include "layers/state.h"

namespace ls::layers {

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
  /// By row, where the tokens before are other ranks' or not carried: tokens of its document
  /// before this pass. Null: as `incoming` says.
  const std::vector<Index>* seen = nullptr;
  /// By row: does it go on from `incoming`? Null: where tokens of its document came before.
  const std::vector<bool>* begun = nullptr;
  /// The same behind it, of its last document, for layers that read backward. Null: none.
  const std::vector<Index>* left = nullptr;
  Index first = 0;  ///< tokens of each row before this pass, of any document
  Index after = 0;  ///< the same behind it
  /// Tokens that a row has in the end, for what depends on it (rotary positions that are scaled by
  /// the length); 0: as many as this pass has, of rows that start afresh.
  Index length = 0;
  /// In place of all that is said of documents and positions: tensors that tell it, of a pass that
  /// is recorded to be done again when they hold something else (Stretch::varies).
  const StretchTensors* told = nullptr;
  bool keep_states = false;     ///< collect outgoing states
  SeqRunner* runner = nullptr;  ///< null: this process alone
};

/// One forward pass over [B, T] tokens. Not shared between threads.
class SeqContext {
 public:
  /// @throws Error(Shape) when document starts or carried states are for another number of rows
  SeqContext(Index batch, Index tokens, const SeqOptions& options);

  Index batch() const { return stretch_.rows(); }
  Index tokens() const { return stretch_.tokens(); }
  const Stretch& stretch() const { return stretch_; }
  /// Before scans run: where the tensors that tell them of positions and documents lie.
  void set_device(Device& device) {
    stretch_.set_device(device);
    turned_.reset();
  }
  /// What documents start from, [1,...] by slot, where the mixer does not say; it outlives this.
  void set_learned(const std::map<std::string, ag::Var>* states) { learned_ = states; }
  /// i64 [B,T]: index of each token within its document, carried tokens included.
  const Tensor& positions() const { return stretch_.positions(); }
  /// Tokens that a row has in the end; 0: not known, as it goes on from a state.
  Index length() const;
  /// True when an incoming state asks for a gradient.
  bool states_need_grad() const;
  /// States after the last token; filled when `keep_states` is set.
  ModelState& outgoing() { return outgoing_; }
  /// Null where rows start afresh.
  const ModelState* incoming() const { return options_.incoming; }

  /// Runs the scan that `Op` is on inputs [B,T,...], or [B,nT,...] for n updates a token; fills
  /// state and boundary inputs, keeps the outgoing states under `slot`, a name unique within the
  /// mixer, and returns the op's outputs. A state input that is given, [1,...], is what every
  /// document starts from, in place of zeros; it may be a parameter.
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

  /// While alive, the context is that of the turned sequence: what runs on turned inputs reads from
  /// the last token to the first, documents begin where they end, and of ranks the last is the
  /// first. No state goes in or out.
  ///   const SeqContext::Backward scope(seq);
  ///   y = seq.turned(mixer.forward(seq.turned(x), seq));
  class Backward {
   public:
    /// @throws Error(Unsupported) where states come in
    explicit Backward(SeqContext& seq);
    ~Backward();
    Backward(const Backward&) = delete;
    Backward& operator=(const Backward&) = delete;

   private:
    SeqContext& seq_;
    bool kept_;
  };
  /// x [B,T,...] with the last token of each row first; twice is x.
  ag::Var turned(const ag::Var& x) const;

  // What layers of one pass tell each other besides the residual stream. Mixers within others tell
  // those at the same place alone.

  /// Hands a value on to later layers (the first layer's values, for value residuals).
  /// @throws Error(Internal) where one of this name was handed on already
  void hand_on(const std::string& name, const ag::Var& value);
  /// What an earlier layer handed on; undefined where none did.
  ag::Var handed(const std::string& name) const;
  /// Adds a scalar, in the loss's own units (a mean over tokens), to what training minimizes.
  void add_loss(const ag::Var& loss);
  /// The sum of what was added; undefined where nothing was.
  const ag::Var& added_loss() const { return added_loss_; }

  /// Values handed on, by name, and the added loss: in and out of a block that runs again.
  struct Between {
    std::map<std::string, ag::Var> handed;
    ag::Var loss;
  };
  Between exchange_between(Between next);

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
  /// A layer that runs within a mixer, at a place of this name.
  class Within {
   public:
    Within(SeqContext& seq, const std::string& place);
    ~Within();
    Within(const Within&) = delete;
    Within& operator=(const Within&) = delete;

   private:
    Layer layer_;
    SeqContext& seq_;
    std::size_t length_;
  };

 private:
  /// Undefined where there is none; of a state that is used up, the second time too.
  ag::Var take_incoming(const std::string& path);
  ag::Var learned_state(const std::string& path) const;
  SeqRunner& runner() { return options_.runner ? *options_.runner : local_; }
  /// Tokens of the scan for each of the context.
  Index updates_of(const OpInfo& op, const std::vector<ag::Var>& in) const;
  void keep(const std::string& path, StateSlot slot);
  SeqOptions options_;
  Stretch stretch_;
  std::optional<Stretch> turned_;  // read the other way, once that was asked for
  LocalRunner local_;
  std::string path_, within_;
  std::map<std::string, ag::Var> handed_;
  ag::Var added_loss_;
  ModelState outgoing_;
  const std::map<std::string, ag::Var>* learned_ = nullptr;
};

}  // namespace ls::layers
