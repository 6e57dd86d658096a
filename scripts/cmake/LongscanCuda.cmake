# CUDA: nvcc and the toolkit, for which GPUs code is made, and how *.cu of the rooms are compiled.
set(LONGSCAN_CUDA_ARCHITECTURES "80;90a-real" CACHE STRING
    "GPUs that code is made for, as CMAKE_CUDA_ARCHITECTURES; what is not -real is for later ones too")
set(LONGSCAN_HAVE_CUDA OFF)
set(LONGSCAN_HAVE_CUDNN OFF)
set(LONGSCAN_HAVE_NCCL OFF)
# What looks at the processor's code alone needs no kernels.
if(NOT LONGSCAN_CUDA OR LONGSCAN_SANITIZE OR LONGSCAN_TSAN OR LONGSCAN_COVERAGE)
  return()
endif()
include(CheckLanguage)
check_language(CUDA)
if(CMAKE_CUDA_COMPILER)
  find_package(CUDAToolkit QUIET)
endif()
if(CMAKE_CUDA_COMPILER AND CUDAToolkit_FOUND AND TARGET CUDA::cublasLt)
  set(LONGSCAN_HAVE_CUDA ON)
elseif(NOT LONGSCAN_CUDA STREQUAL AUTO)
  message(FATAL_ERROR "LONGSCAN_CUDA is ${LONGSCAN_CUDA}, but nvcc or the CUDA toolkit with "
                      "cuBLASLt was not found: install them, name them by CMAKE_CUDA_COMPILER and "
                      "CUDAToolkit_ROOT, or give LONGSCAN_CUDA=OFF")
else()
  return()
endif()
find_path(CUDNN_INCLUDE_DIR cudnn.h)
find_library(CUDNN_LIBRARY cudnn)
if(CUDNN_INCLUDE_DIR AND CUDNN_LIBRARY)
  set(LONGSCAN_HAVE_CUDNN ON)
endif()
find_path(NCCL_INCLUDE_DIR nccl.h)
find_library(NCCL_LIBRARY nccl)
if(NCCL_INCLUDE_DIR AND NCCL_LIBRARY)
  set(LONGSCAN_HAVE_NCCL ON)
endif()

set(CMAKE_CUDA_ARCHITECTURES ${LONGSCAN_CUDA_ARCHITECTURES})
if(LONGSCAN_CCACHE)
  set(CMAKE_CUDA_COMPILER_LAUNCHER ${CMAKE_CXX_COMPILER_LAUNCHER})
endif()
enable_language(CUDA)
add_library(ls_cuda INTERFACE)
target_link_libraries(ls_cuda INTERFACE CUDA::toolkit)
# CMake 3.25 does not know how to ask nvcc 13 for C++20.
set(CMAKE_CUDA20_STANDARD_COMPILE_OPTION -std=c++20)
set(CMAKE_CUDA20_EXTENSION_COMPILE_OPTION -std=c++20)
# fmt 9 forgets that nvcc knows constexpr functions; the host's compiler does not know "unroll".
target_compile_options(ls_cuda INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-lineinfo;\
--expt-relaxed-constexpr;--extended-lambda;-DFMT_USE_CONSTEXPR=1;\
-Xcompiler=-Wall;-Xcompiler=-Wno-unknown-pragmas>")
if(LONGSCAN_WERROR)
  target_compile_options(ls_cuda INTERFACE
                         "$<$<COMPILE_LANGUAGE:CUDA>:-Werror=all-warnings;-Xcompiler=-Werror>")
endif()
