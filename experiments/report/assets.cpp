// The assembler puts the files into the object as they are; CMake says where they lie.
#include "experiments/report/assets.h"

#define LS_FILE(name, path)                                                                   \
  asm(".section .rodata\n"                                                                    \
      ".global ls_file_" #name "\n.global ls_file_" #name                                     \
      "_end\n"                                                                                \
      "ls_file_" #name ":\n.incbin \"" path                                                   \
      "\"\n"                                                                                  \
      "ls_file_" #name                                                                        \
      "_end:\n.byte 0\n"                                                                      \
      ".previous\n");                                                                         \
  extern "C" const char ls_file_##name[], ls_file_##name##_end[];                             \
  static std::string_view file_##name() {                                                     \
    return {ls_file_##name, static_cast<std::size_t>(ls_file_##name##_end - ls_file_##name)}; \
  }

LS_FILE(page_css, LS_PAGE_CSS)
LS_FILE(page_js, LS_PAGE_JS)
#ifdef LS_PLOTLY
LS_FILE(plotly, LS_PLOTLY)
#endif

namespace ls::experiments {

std::string_view page_css() {
  return file_page_css();
}

std::string_view page_js() {
  return file_page_js();
}

std::string_view plotly_js() {
#ifdef LS_PLOTLY
  return file_plotly();
#else
  return "";
#endif
}

}  // namespace ls::experiments
