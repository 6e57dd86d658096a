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
set(old "")
if(EXISTS ${OUTPUT})
  file(READ ${OUTPUT} old)
endif()
if(NOT old STREQUAL text)
  file(WRITE ${OUTPUT} "${text}")
endif()
