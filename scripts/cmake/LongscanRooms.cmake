# A room is an OBJECT library with an include view of its own: a directory in the build tree that
# holds one link to the room. Including a header of a room that is not named does not compile.
add_library(ls_flags INTERFACE)
target_compile_options(ls_flags INTERFACE -Wall -Wextra -Wno-missing-field-initializers
                                          -Wno-stringop-overflow -fno-math-errno
                                          -fno-trapping-math -ffp-contract=fast)
if(LONGSCAN_NATIVE)
  target_compile_options(ls_flags INTERFACE -march=native)
endif()
if(LONGSCAN_WERROR)
  target_compile_options(ls_flags INTERFACE -Werror)
endif()
if(LONGSCAN_SANITIZE)
  target_compile_options(ls_flags INTERFACE -fsanitize=address,undefined -fno-sanitize-recover=all
                                            -fno-omit-frame-pointer -g -O1)
  target_link_options(ls_flags INTERFACE -fsanitize=address,undefined)
  target_compile_definitions(ls_flags INTERFACE LS_SANITIZE)
endif()
target_link_libraries(ls_flags INTERFACE Threads::Threads OpenMP::OpenMP_CXX fmt::fmt)

set(LS_ROOMS "" CACHE INTERNAL "")

# Sources are found by pattern so that a new op, mixer, task or strategy needs no edit here.
function(ls_room name)
  cmake_parse_arguments(ARG "" "" "DEPENDS;EXCLUDE" ${ARGN})
  file(GLOB_RECURSE sources CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/${name}/*.cpp)
  foreach(file IN LISTS ARG_EXCLUDE)
    list(REMOVE_ITEM sources ${CMAKE_SOURCE_DIR}/${name}/${file})
  endforeach()
  set(view ${CMAKE_BINARY_DIR}/view/${name})
  file(MAKE_DIRECTORY ${view})
  file(CREATE_LINK ${CMAKE_SOURCE_DIR}/${name} ${view}/${name} SYMBOLIC)
  add_library(${name}_view INTERFACE)
  target_include_directories(${name}_view INTERFACE ${view})
  target_link_libraries(${name}_view INTERFACE ls_flags)
  foreach(dep IN LISTS ARG_DEPENDS)
    target_link_libraries(${name}_view INTERFACE ${dep}_view)
  endforeach()
  if(NOT sources)
    return()
  endif()
  add_library(${name} OBJECT ${sources})
  target_link_libraries(${name} PUBLIC ${name}_view)
  set(LS_ROOMS ${LS_ROOMS} ${name} CACHE INTERNAL "")
endfunction()

# Objects of every room are named directly: through an archive self-registration would vanish.
function(ls_executable name)
  add_executable(${name} ${ARGN})
  target_link_libraries(${name} PRIVATE ${LS_ROOMS} experiments_view ls_yaml ls_hdf5
                                        nlohmann_json::nlohmann_json CLI11::CLI11)
  if(LONGSCAN_HAVE_ONEDNN)
    target_link_libraries(${name} PRIVATE ls_onednn)
  endif()
  if(LONGSCAN_HAVE_MPI)
    target_link_libraries(${name} PRIVATE MPI::MPI_CXX)
  endif()
endfunction()
