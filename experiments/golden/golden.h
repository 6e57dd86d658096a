#pragma once
// Checking ops against files of reference results (`longscan check`): one small adapter per op says
// how its inputs and attributes are named in the files.
//
//   LS_GOLDEN(RmsNorm, "rms_norm") {
//     c.out("y", ag::call<ops::RmsNorm>({.x = c.in("x"), .weight = c.acc_or_none("weight")},
//                                  {.eps = c.number("eps")}).y);
//   }
#include <functional>
#include <map>
#include <optional>
#include <set>
#include <string>
#include <vector>

#include "autograd/call.h"
#include "core/io/h5.h"
#include "core/op/scan_attrs.h"

namespace ls::golden {

struct GoldenOptions {
  DType dtype = DType::kF64;
  Form form = Form::kAuto;
  Index chunk = 0;
  Index split = 1;  ///< so many ranks, on threads, hold stretches of the sequence
  Device* device = &cpu();
};

/// One case of a file: inputs, reference outputs, cotangents and gradients, f64 (indices i64).
struct GoldenCase {
  std::string op, name;
  std::map<std::string, Tensor> inputs, outputs, cotangents, grads;
  std::map<std::string, h5::Attribute> attributes;
  double rtol = 1e-10;
};

/// @throws Error(Io) when the file is not of the golden format: no cases, a case without outputs, a
///   gradient or cotangent that belongs to nothing, an rtol that is not above 0
std::vector<GoldenCase> read_golden(const std::string& path);

/// What an adapter sees. Every input and attribute of the case has to be asked for: what is left
/// over is an input or attribute that we do not know.
class GoldenCall {
 public:
  GoldenCall(const GoldenCase& golden, const GoldenOptions& options);

  bool has(const std::string& input) const { return case_.inputs.count(input) != 0; }
  /// An input in the dtype of the check (indices as they are); a leaf where a gradient is stored.
  ag::Var in(const std::string& name);
  ag::Var in_or_none(const std::string& name) { return has(name) ? in(name) : ag::Var(); }
  /// The same in the acc type: states, gates, gains.
  ag::Var acc(const std::string& name);
  ag::Var acc_or_none(const std::string& name) { return has(name) ? acc(name) : ag::Var(); }
  /// The f64 values of an input that is not differentiated.
  Tensor values(const std::string& name);

  bool has_attribute(const std::string& name) const { return case_.attributes.count(name) != 0; }
  double number(const std::string& name, double absent = 0);
  Index integer(const std::string& name, Index absent = 0) {
    return static_cast<Index>(number(name, static_cast<double>(absent)));
  }
  bool flag(const std::string& name, bool absent = false) { return number(name, absent) != 0; }
  std::string text(const std::string& name, const std::string& absent = "");
  /// Place of a text among `known`, the first where it is absent.
  /// @throws Error(Unsupported) on another
  int choice(const std::string& name, const std::vector<std::string>& known);
  std::vector<double> numbers(const std::string& name);
  /// Attributes that only inform.
  void ignore(std::initializer_list<const char*> attributes);

  void out(const std::string& name, const ag::Var& value);
  void out(const std::string& name, const Tensor& value) { out(name, ag::Var(value)); }

  /// Runs a scan op in the form, in chunks and over the ranks that the check asks for. States given
  /// in `in` are the incoming ones of each row, or of each document with `offsets`.
  template <class Op>
  typename Op::template Out<ag::Var> scan(const typename Op::template In<ag::Var>& in,
                                          const typename Op::Attrs& attrs, bool can_split = true) {
    const std::vector<ag::Var> out =
        scan(op_info<Op>(), ls::detail::spread_members<ag::Var>(in), &attrs, can_split);
    return ls::detail::gather_members<typename Op::template Out<ag::Var>>(
        std::span<const ag::Var>(out));
  }

  /// Names in the file of inputs that have others in the contract: {ours, the file's}.
  using Names = std::vector<std::pair<std::string, std::string>>;
  /// The inputs of an op that the file has, under the names of its contract or those of `names`; a
  /// state s0 is `initial_state` there.
  template <class Op>
  typename Op::template In<ag::Var> inputs(const Names& names = {}) {
    const std::vector<ag::Var> in = inputs(op_info<Op>(), names);
    return ls::detail::gather_members<typename Op::template In<ag::Var>>(
        std::span<const ag::Var>(in));
  }
  /// A whole case: scan, and its outputs under the names of the contract; a state sT is
  /// `final_state` in the file.
  template <class Op>
  void run_scan(const typename Op::template In<ag::Var>& in, const typename Op::Attrs& attrs) {
    ignore({"final"});
    run_scan(op_info<Op>(), ls::detail::spread_members<ag::Var>(in), &attrs);
  }

  const GoldenCase& golden() const { return case_; }
  const GoldenOptions& options() const { return options_; }

 private:
  friend class GoldenRun;
  ag::Var load(const std::string& name, DType dtype, DType through);
  std::vector<ag::Var> scan(const OpInfo& op, const std::vector<ag::Var>& in, const void* attrs,
                            bool can_split);
  std::vector<ag::Var> inputs(const OpInfo& op, const Names& names);
  void run_scan(const OpInfo& op, const std::vector<ag::Var>& in, const void* attrs);

  const GoldenCase& case_;
  GoldenOptions options_;
  /// Inputs are rounded to this type first.
  std::optional<DType> rounding_;
  std::map<std::string, ag::Var> leaves_, outputs_;
  std::set<std::string> used_inputs_, used_attributes_;
  bool form_done_ = false, chunk_done_ = false, split_done_ = false;
};

using GoldenAdapter = std::function<void(GoldenCall&)>;
Registry<GoldenAdapter>& golden_registry();

struct GoldenReport {
  std::string op, name;
  double worst_output = 0, worst_grad = 0;  ///< max|x - ref| / max|ref|
  std::string worst_output_name, worst_grad_name;
  double tolerance_output = 0, tolerance_grad = 0;
  std::string note;   ///< options that did not apply
  std::string fault;  ///< unknown op, input or attribute, missing or misshapen output, exception
  /// The fault is Error(Unsupported): the case asks for a variant that we do not have.
  bool unsupported = false;
  bool passed() const;
};
/// Runs one case; never throws for what the case or an op gets wrong.
///
/// In f32 and bf16 the inputs themselves are rounded, which some cases magnify beyond any tolerance
/// (logits of 500). A case that fails in such a type and passes in f64 is compared with the f64
/// result of the rounded inputs instead, by the same tolerance; the note says so.
GoldenReport check_golden(const GoldenCase& golden, const GoldenOptions& options);

}  // namespace ls::golden

/// At namespace scope, in experiments/golden/: what is computed, its name in the files, and then
/// the body of a function of `GoldenCall& c`.
#define LS_GOLDEN(Type, name)                                       \
  static void ls_golden_##Type(::ls::golden::GoldenCall& c);        \
  [[maybe_unused]] static const bool ls_golden_added_##Type =       \
      ::ls::golden::golden_registry().add(name, &ls_golden_##Type); \
  static void ls_golden_##Type(::ls::golden::GoldenCall& c)
