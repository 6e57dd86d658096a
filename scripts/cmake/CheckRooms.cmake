# Every include names a room that the including room may see, directly or through others; unit tests
# see what the room that they test may see; an op includes no other op, only what ops share. The build
# enforces the first by its views; this also finds what no source compiles, and circles.
#   cmake -DROOT=... "-DROOMS=core/base;core/tensor=core/base;..." -P CheckRooms.cmake
cmake_policy(SET CMP0057 NEW)
set(faults "")

# Direct dependencies as given; the rooms stand in their order, so what is named was declared before.
set(names "")
foreach(entry IN LISTS ROOMS)
  string(REGEX MATCH "^([^=]+)=(.*)$" entry "${entry}")
  set(room ${CMAKE_MATCH_1})
  string(REPLACE "," ";" direct "${CMAKE_MATCH_2}")
  set(sees ${room})
  foreach(other IN LISTS direct)
    if(NOT other IN_LIST names)
      list(APPEND faults "room ${room} depends on ${other}, which is not declared before it")
    endif()
    list(APPEND sees ${other} ${sees_${other}})
  endforeach()
  list(REMOVE_DUPLICATES sees)
  set(sees_${room} ${sees})
  list(APPEND names ${room})
endforeach()

# The innermost room that a path lies in, or nothing.
function(room_of path result)
  set(best "")
  foreach(room IN LISTS names)
    string(LENGTH "${room}" n)
    string(LENGTH "${best}" m)
    string(FIND "${path}" "${room}/" at)
    if(at EQUAL 0 AND n GREATER m)
      set(best ${room})
    endif()
  endforeach()
  set(${result} "${best}" PARENT_SCOPE)
endfunction()

file(GLOB_RECURSE files RELATIVE ${ROOT} ${ROOT}/core/*.h ${ROOT}/core/*.cpp ${ROOT}/core/*.cu
     ${ROOT}/core/*.cuh ${ROOT}/autograd/*.h ${ROOT}/autograd/*.cpp ${ROOT}/layers/*.h
     ${ROOT}/layers/*.cpp ${ROOT}/optim/*.h ${ROOT}/optim/*.cpp ${ROOT}/data/*.h ${ROOT}/data/*.cpp
     ${ROOT}/parallel/*.h ${ROOT}/parallel/*.cpp ${ROOT}/experiments/*.h ${ROOT}/experiments/*.cpp
     ${ROOT}/tests/unit/*.h ${ROOT}/tests/unit/*.cpp)
list(LENGTH files count)
foreach(file IN LISTS files)
  string(REGEX REPLACE "^tests/unit/" "" place "${file}")
  room_of("${place}" room)
  if(room STREQUAL "")
    list(APPEND faults "${file}: lies in no room")
    continue()
  endif()
  string(REGEX MATCH "^core/ops/[^/]+" op "${file}")
  file(STRINGS ${ROOT}/${file} lines REGEX "^ *# *include *\"")
  foreach(line IN LISTS lines)
    string(REGEX REPLACE "^[^\"]*\"([^\"]*)\".*" "\\1" header "${line}")
    room_of("${header}" other)
    if(other STREQUAL "")
      continue() # a test's own header, or one that the build writes
    endif()
    if(NOT other IN_LIST sees_${room})
      list(APPEND faults "${file}: includes ${header}, but ${room} may not see ${other}")
    endif()
    string(REGEX MATCH "^core/ops/[^/]+" other_op "${header}")
    if(op AND other_op AND NOT other_op STREQUAL op AND NOT other_op STREQUAL "core/ops/common")
      list(APPEND faults "${file}: includes ${header} of another op, what ops share lies in core/ops/common")
    endif()
  endforeach()
endforeach()

if(count EQUAL 0)
  message(FATAL_ERROR "no sources under ${ROOT}")
endif()
if(faults)
  list(JOIN faults "\n  " text)
  message(FATAL_ERROR "the order of the rooms is broken:\n  ${text}")
endif()
message(STATUS "${count} files keep the order of the rooms")
