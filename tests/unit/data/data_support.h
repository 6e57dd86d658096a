#pragma once
// Tasks and single examples for the tests of the data room.
#include <fstream>
#include <string>
#include <vector>

#include "core/config/yaml.h"
#include "data/batcher.h"
#include "data/task.h"
#include "tests/support/text_folder.h"

namespace ls::data {

struct TaskHolder {
  Component<Task> task;
  template <class F>
  void fields(F& f) {
    f("task", task, {.help = "task"});
  }
};

/// From YAML such as "{name: parity, length: 8}".
inline std::unique_ptr<Task> task_from(const std::string& yaml,
                                       const TaskArgs& args = {.seed = 1}) {
  return make_task(read_config_text<TaskHolder>("task: " + yaml).task, args);
}

struct Example {
  std::vector<std::int64_t> tokens, labels;
  std::vector<float> vectors;
  std::vector<std::uint8_t> tags;
  std::vector<Index> starts;
  std::vector<std::uint64_t> legal;
  Index used = 0;
  friend bool operator==(const Example&, const Example&) = default;
};

inline Example example(const Task& task, ExampleKey key) {
  if (key.length == 0) {
    key.length = task.slices(key.split).at(static_cast<std::size_t>(key.slice)).length;
  }
  const auto t = static_cast<std::size_t>(key.length);
  Example e;
  const auto width = static_cast<std::size_t>(task.info().vector_width);
  e.tokens.resize(width ? 0 : t);
  e.vectors.resize(t * width);
  e.labels.assign(t, kIgnore);
  e.tags.resize(t);
  e.legal.resize(task.info().legal_sets ? t : 0);
  e.used = key.length;
  const ExampleView view{e.tokens, e.vectors, e.labels, e.tags, &e.starts, e.legal, &e.used};
  task.sample(key, view);
  check_example(task.info(), key, view);
  return e;
}

/// A folder of 60000 made-up words in sentences and lines, removed at the end.
struct Sentences {
  Sentences() {
    std::ofstream out(path + "/words.txt");
    Rng rng(1, "test/sentences");
    for (Index i = 0; i < 60000; ++i) {
      std::string word;
      for (Index letters = 2 + rng.below(7); letters > 0; --letters) {
        word += static_cast<char>('a' + rng.below(26));
      }
      out << word << (i % 9 == 8 ? i % 4 == 0 ? ".\n" : ". " : " ");
    }
  }
  ls::test::TextFolder folder{1};
  std::string path = folder.path + "/text";
};

inline bool same(const Tensor& a, const Tensor& b) {
  return a.defined() == b.defined() &&
         (!a.defined() ||
          (a.shape() == b.shape() && a.to_vector<double>() == b.to_vector<double>()));
}
inline bool same(const Batch& a, const Batch& b) {
  return a.step == b.step && a.slice == b.slice && a.length == b.length && a.rows == b.rows &&
         a.first_row == b.first_row && a.global_rows == b.global_rows && a.labelled == b.labelled &&
         a.documents == b.documents && a.continues == b.continues && same(a.tokens, b.tokens) &&
         same(a.vectors, b.vectors) && same(a.labels, b.labels) && same(a.tags, b.tags) &&
         same(a.legal, b.legal);
}

}  // namespace ls::data
