#include <fmt/core.h>

#include <map>

#include "core/config/yaml.h"
#include "data/task.h"
#include "experiments/commands/command.h"
#include "experiments/commands/scan_text.h"
#include "experiments/progress.h"
#include "experiments/table.h"
#include "layers/model.h"
#include "optim/optimizer.h"
#include "optim/schedule.h"

namespace ls::experiments {
namespace {

/// Notes the scans that a layer runs, by another runner.
class ScanRecorder final : public layers::SeqRunner {
 public:
  explicit ScanRecorder(layers::SeqRunner& runs) : runs_(runs) {}
  std::vector<ag::Var> run(const layers::ScanInfo& family, std::vector<ag::Var> inputs,
                           std::shared_ptr<const void> attrs, const layers::Stretch& stretch,
                           const layers::ScanCall& call) override {
    if (std::find(scans.begin(), scans.end(), &family) == scans.end()) {
      scans.push_back(&family);
    }
    return runs_.run(family, std::move(inputs), std::move(attrs), stretch, call);
  }
  std::vector<Index> seen_after(const layers::Stretch& stretch) override {
    return runs_.seen_after(stretch);
  }
  std::vector<const layers::ScanInfo*> scans;

 private:
  layers::SeqRunner& runs_;
};

/// "S [HV,Dk,Dv]" for the output sT[N,HV,Dk,Dv]: without the axis of sequences.
std::string states_of(const layers::ScanInfo& f) {
  std::string all;
  for (const layers::StatePort& port : f.states) {
    const ArgSpec& out = f.op->out[static_cast<std::size_t>(f.op->output_index(port.output))];
    std::string axes;
    for (std::size_t i = 1; i < out.axes.size(); ++i) {
      axes += (axes.empty() ? "" : ",") + out.axes[i].text;
    }
    all += fmt::format("{}{} [{}]", all.empty() ? "" : ", ", port.name, axes);
  }
  return all;
}

/// Prints a text whose lines follow the width of the terminal.
template <class... Args>
void print(fmt::format_string<Args...> text, Args&&... args) {
  fmt::print("{}", fitted(fmt::format(text, std::forward<Args>(args)...), terminal_columns()));
}

// One layer of the mixer, built and run: parameters and state come from real buffers.
void describe_mixer(const std::string& name, Index width, const std::vector<Index>& lengths) {
  const ComponentCatalog& catalog = layers::TokenMixer::registry();
  print("{}: {}\n\nfields\n{}\n", name, catalog.help(name), describe_component(catalog, name));
  layers::ModelConfig config;
  config.width = width;
  config.layers = {Component<layers::TokenMixer>(name)};
  config.channel.choose("none");
  layers::Model model(config, {.vocab_in = 2, .classes = 2}, 0);
  Table parameters({"parameter", "shape", "weight decay"});
  Index count = 0;
  const std::string prefix = "blocks.0.mixer.";
  for (const ag::Parameter& p : model.parameters().items()) {
    if (p.name.rfind(prefix, 0) == 0) {
      parameters.add({p.name.substr(prefix.size()), p.var.shape().str(), p.decay ? "yes" : "no"});
      count += p.var.value().numel();
    }
  }
  print("one layer at width {}, default settings: {} parameters\n{}\n", width, count,
        parameters.str(terminal_columns()));
  layers::LocalRunner local;
  ScanRecorder recorder(local);
  model.state_after(1, &recorder);
  Table scans({"scan op", "family", "kind", "carries, a sequence", "what"});
  for (const layers::ScanInfo* f : recorder.scans) {
    scans.add({f->op->name, f->family, std::string(enum_name(f->kind)), states_of(*f), f->help});
  }
  print("{}\n", scans.str(terminal_columns()));
  Table state({"after tokens", "matrix", "vector", "conv", "kv", "total bytes", "buffers"});
  for (const Index t : lengths) {
    const layers::ModelState s = model.state_after(t);
    const layers::StateBytes b = s.bytes();
    std::string buffers;
    for (const auto& [path, slot] : s.slots) {
      const Tensor& value = slot.value.value();
      buffers +=
          fmt::format("{}{} {} {}", buffers.empty() ? "" : ", ", path.substr(path.rfind('.') + 1),
                      value.select(0, 0).shape().str(), enum_name(value.dtype()));
    }
    state.add({std::to_string(t), std::to_string(b.matrix), std::to_string(b.vector),
               std::to_string(b.conv), std::to_string(b.kv), std::to_string(b.total()), buffers});
  }
  print("state of one sequence in bytes, measured from the buffers of a forward pass\n{}",
        state.str(terminal_columns()));
}

/// "recurrent, chunk" of the scans that the op is; "" where it is none.
std::string forms_of(const OpInfo& op) {
  std::string all;
  for (const std::string& name : layers::scan_registry().names()) {
    const layers::ScanInfo& scan = *layers::scan_registry().at(name);
    if (scan.op == &op) {
      all += fmt::format("{}{} (scan {}, family {})", all.empty() ? "" : "\n         ",
                         scan_forms(scan), name, scan.family);
    }
  }
  return all;
}

/// "cpu f64, f32, bf16" of the kernels of that name; one line a name.
std::string kernels_of(const OpInfo& op) {
  std::map<std::string, std::string> types;
  std::vector<std::string> order;
  for (const Kernel& k : op.kernels) {
    const std::string name =
        k.name == enum_name(k.device) ? k.name : fmt::format("{} {}", enum_name(k.device), k.name);
    std::string& all = types[name];
    if (all.empty()) {
      order.push_back(name);
    }
    all += fmt::format("{}{}", all.empty() ? "" : ", ", enum_name(k.dtype));
  }
  std::string lines;
  for (const std::string& name : order) {
    lines += fmt::format("{}{} {}", lines.empty() ? "" : "\n         ", name, types[name]);
  }
  return lines.empty() ? "none; the reference runs" : lines;
}

void describe_op(const OpInfo& op, std::string_view before = "") {
  std::string text = fmt::format("{}{}: {}\n\ninputs   {}\noutputs  {}\nkernels  {}\n", before,
                                 op.name, op.help, op.contract_in, op.contract_out, kernels_of(op));
  if (const std::string forms = forms_of(op); !forms.empty()) {
    text += fmt::format("forms    {}\n", forms);
  }
  Table arguments({"argument", "gradient"});
  for (const ArgSpec& arg : op.in) {
    arguments.add({arg.text, !arg.differentiable ? "none"
                             : arg.grad_is_acc   ? "yes, in the acc type"
                                                 : "yes"});
  }
  text += fmt::format("\n{}", arguments.str(terminal_columns()));
  if (!op.attrs.empty()) {
    Table attributes({"attribute", "type", "default", "what"});
    for (const AttrInfo& a : op.attrs) {
      attributes.add({a.name, a.type, a.initial, a.help});
    }
    text += fmt::format("\n{}", attributes.str(terminal_columns()));
  }
  print("{}", text);
}

class Describe final : public Command {
 public:
  static constexpr int kPlace = 45;
  void options(Options& o) override {
    o("name", name_,
      {.help = "mixer, channel mixer, task, optimizer, schedule or op", .required = true});
    o("--width", width_, {.help = "model width", .min = 1, .max = 1 << 20});
    o("--tokens", tokens_,
      {.help = "lengths at which the state is measured", .min = 1, .max = 1 << 24});
  }
  int run(parallel::RankEnv& env) override;

 private:
  std::string name_;
  Index width_ = 256;
  std::vector<Index> tokens_ = {1, 256, 4096};
};

int Describe::run(parallel::RankEnv&) {
  const ComponentCatalog& mixers = layers::TokenMixer::registry();
  const ComponentCatalog* const all[] = {&mixers, &layers::ChannelMixer::registry(),
                                         &data::Task::registry(), &optim::Optimizer::registry(),
                                         &optim::Schedule::registry()};
  std::vector<std::string> known;
  // An op may have the name of something else, such as attention.
  const OpInfo* const* const op = op_registry().find(name_);
  for (const ComponentCatalog* c : all) {
    const std::vector<std::string> names = c->names();
    known.insert(known.end(), names.begin(), names.end());
    if (std::find(names.begin(), names.end(), name_) == names.end()) {
      continue;
    }
    if (c == &mixers) {
      describe_mixer(name_, width_, tokens_);
    } else {
      print("{} ({}): {}\n\nfields\n{}", name_, c->kind(), c->help(name_),
            describe_component(*c, name_));
    }
    if (op != nullptr) {
      fmt::print("\n");
      describe_op(**op, "op ");
    }
    return 0;
  }
  if (op != nullptr) {
    describe_op(**op);
    return 0;
  }
  const std::vector<std::string> ops = op_registry().names();
  known.insert(known.end(), ops.begin(), ops.end());
  const std::string near = nearest_name(name_, known);
  LS_FAIL(kConfig,
          "there is no mixer, channel mixer, task, optimizer, schedule or op '{}'{}; longscan list "
          "names them",
          name_, near.empty() ? "" : ", did you mean '" + near + "'?");
}
LS_COMMAND(Describe, "describe",
           "settings, parameters and measured state of a mixer; settings of a task, ...; "
           "contract and attributes of an op");

}  // namespace
}  // namespace ls::experiments
