# Packages, with the names that Debian 12 and Ubuntu 24.04 give their targets.
find_package(Threads REQUIRED)
find_package(fmt REQUIRED)
find_package(nlohmann_json REQUIRED)
find_package(CLI11 REQUIRED)
find_package(Eigen3 REQUIRED NO_MODULE)

find_package(yaml-cpp REQUIRED)
add_library(ls_yaml INTERFACE)
if(TARGET yaml-cpp::yaml-cpp)
  target_link_libraries(ls_yaml INTERFACE yaml-cpp::yaml-cpp)
else()
  target_link_libraries(ls_yaml INTERFACE yaml-cpp)
endif()

set(HDF5_PREFER_PARALLEL OFF)
find_package(HDF5 REQUIRED COMPONENTS C)
add_library(ls_hdf5 INTERFACE)
target_include_directories(ls_hdf5 SYSTEM INTERFACE ${HDF5_C_INCLUDE_DIRS})
target_link_libraries(ls_hdf5 INTERFACE ${HDF5_C_LIBRARIES})
target_compile_definitions(ls_hdf5 INTERFACE ${HDF5_C_DEFINITIONS})

set(LONGSCAN_HAVE_MPI OFF)
if(LONGSCAN_MPI)
  find_package(MPI COMPONENTS CXX QUIET)
  if(MPI_CXX_FOUND)
    set(LONGSCAN_HAVE_MPI ON)
  endif()
endif()

include(LongscanCuda)

message(STATUS "longscan: MPI ${LONGSCAN_HAVE_MPI}, "
               "CUDA ${LONGSCAN_HAVE_CUDA}, cuDNN ${LONGSCAN_HAVE_CUDNN}, NCCL ${LONGSCAN_HAVE_NCCL}")
