# Writes the build's own facts into a header, at every build, touching it only when they change.
# Root may build a checkout of somebody else, which git would not read unasked, and leaves no files of
# its own in it.
set(git git --no-optional-locks -c safe.directory=* -C ${SOURCE_DIR})
execute_process(COMMAND ${git} rev-parse --short=12 HEAD OUTPUT_VARIABLE commit
                OUTPUT_STRIP_TRAILING_WHITESPACE ERROR_QUIET RESULT_VARIABLE status)
if(NOT status EQUAL 0)
  set(commit "unknown")
else()
  execute_process(COMMAND ${git} status --porcelain --untracked-files=no
                  OUTPUT_VARIABLE changed ERROR_QUIET)
  if(changed)
    string(APPEND commit ", modified")
  endif()
endif()
set(text "#pragma once
#define LS_BUILD_VERSION \"${VERSION}\"
#define LS_BUILD_COMMIT \"${commit}\"
#define LS_BUILD_COMPILER \"${COMPILER}\"
#define LS_BUILD_FLAGS \"${FLAGS}\"
#define LS_BUILD_YAML \"${YAML_VERSION}\"
")
function(write_changed path content)
  set(old "")
  if(EXISTS ${path})
    file(READ ${path} old)
  endif()
  if(NOT EXISTS ${path} OR NOT old STREQUAL content)
    file(WRITE ${path} "${content}")
  endif()
endfunction()
write_changed(${OUTPUT} "${text}")

# What a modified checkout differs by from its commit, as a string literal, line by line. New files
# that git was not told of are not in it.
set(difference "")
if(changed)
  execute_process(COMMAND ${git} diff HEAD --no-color --no-ext-diff OUTPUT_VARIABLE difference ERROR_QUIET)
  string(LENGTH "${difference}" length)
  if(length GREATER 1048576)
    set(difference "the difference has ${length} bytes and was not kept\n")
  endif()
  string(REPLACE "\\" "\\\\" difference "${difference}")
  string(REPLACE "\"" "\\\"" difference "${difference}")
  string(REPLACE "?" "\\?" difference "${difference}")
  string(REPLACE "\r" "\\r" difference "${difference}")
  string(REPLACE "\n" "\\n\"\n\"" difference "${difference}")
endif()
get_filename_component(folder ${OUTPUT} DIRECTORY)
write_changed(${folder}/longscan_build_difference.inc "\"${difference}\"\n")
