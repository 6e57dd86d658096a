#include <fmt/core.h>

#include <filesystem>

#include "core/base/log.h"
#include "core/io/files.h"
#include "experiments/commands/command.h"
#include "experiments/report/page.h"

namespace ls::experiments {
namespace {

namespace fs = std::filesystem;

constexpr const char* kNotes =
    "OUTPUT/report.html is one page that needs no network and no other file; OUTPUT/figures has\n"
    "each figure as SVG, PNG, PDF and as CSV of exactly what is drawn. Published points lie in\n"
    "files of configs/published, or of the folder that --published names.";
constexpr const char* kPublished = "configs/published";

class Report final : public Command {
 public:
  static constexpr int kPlace = 26;
  void options(Options& o) override {
    o("folders", folders_,
      {.help = "folders of sweeps or runs, or folders above them", .required = true});
    o("--output", output_, {.help = "folder for the page; by default the first folder"});
    o("--published", published_,
      {.help = "folder of published points; by default configs/published, where that is here"});
    o.footer(kNotes);
  }
  int run(parallel::RankEnv& env) override;

 private:
  void draw(ReportSection& section, std::size_t number, const std::string& output) const;
  std::vector<std::string> folders_;
  std::string output_, published_;
};

/// Writes the files of each figure.
void Report::draw(ReportSection& section, std::size_t number, const std::string& output) const {
  std::string fault;
  for (const Figure& figure : section.figures) {
    const std::string file =
        number == 0 ? figure.name : fmt::format("{}_{}", figure.name, number + 1);
    const std::string path = output + "/figures/" + file;
    const std::string why = draw_figure(path, figure.panels, {.png = true, .pdf = true});
    fault = why.empty() ? fault : why;
    replace_file(path + ".csv", figure_csv(figure.panels));
    section.files.push_back("figures/" + file);
    section.pictures.push_back(why.empty() ? read_file(path + ".svg") : "");
  }
  if (!fault.empty()) {
    log_warn("no pictures: " + fault);
  }
}

int Report::run(parallel::RankEnv& env) {
  if (env.world().rank() != 0) {
    return 0;
  }
  const std::vector<ReportGroup> groups = collect_groups(folders_);
  std::error_code error;
  const bool default_there = published_.empty() && fs::is_directory(kPublished, error);
  const std::vector<PublishedPoint> published =
      default_there || !published_.empty() ? read_published(default_there ? kPublished : published_)
                                           : std::vector<PublishedPoint>();
  const std::string output = output_.empty() ? folders_.front() : output_;
  create_directories(output + "/figures");
  std::vector<ReportSection> sections;
  std::size_t figures = 0;
  for (const ReportGroup& group : groups) {
    ReportSection& section = sections.emplace_back(ReportSection{.group = &group});
    section.figures = figures_of(group, published);
    section.tables = tables_of(group);
    draw(section, sections.size() - 1, output);
    figures += section.figures.size();
  }
  const std::string page = output + "/report.html";
  replace_file(page, report_page(sections, output));
  fmt::print("page        {}\nfigures     {} in {}/figures\n", page, figures, output);
  return 0;
}

LS_COMMAND(Report, "report", "figures of runs and sweeps, and a page that shows them");

}  // namespace
}  // namespace ls::experiments
