# What all code of this project is compiled and linked with.

include(CheckCXXCompilerFlag)
add_library(clusterfusion_flags INTERFACE)

set(host_flags
  -Wall -Wextra
  -ffp-contract=off  # a product and a sum are fused where the source says so, so that the bits do not depend on the compiler
  -fvisibility=hidden)
if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 13)
  list(APPEND host_flags -Wno-restrict)  # false alarms on std::string, gcc bug 105651
endif()
if(CF_SANITIZE)
  list(APPEND host_flags -fsanitize=${CF_SANITIZE} -fno-sanitize-recover=all -fno-omit-frame-pointer)
  target_link_options(clusterfusion_flags INTERFACE -fsanitize=${CF_SANITIZE})
else()
  target_link_options(clusterfusion_flags INTERFACE -Wl,-z,defs)  # the sanitizers' runtime lies in the executable
  if(CF_HARDEN)
    foreach(flag -fstack-protector-strong -fstack-clash-protection -fcf-protection)
      string(MAKE_C_IDENTIFIER "CF_HAVE${flag}" have)
      check_cxx_compiler_flag(${flag} ${have})
      if(${have})
        list(APPEND host_flags ${flag})
      endif()
    endforeach()
    # Level 3 (sizes known at run time) came with gcc 12; older compilers would warn. -O0 cannot fortify.
    set(fortify 3)
    if(CMAKE_CXX_COMPILER_ID STREQUAL "GNU" AND CMAKE_CXX_COMPILER_VERSION VERSION_LESS 12)
      set(fortify 2)
    endif()
    list(APPEND host_flags "$<$<NOT:$<CONFIG:Debug>>:-U_FORTIFY_SOURCE>" "$<$<NOT:$<CONFIG:Debug>>:-D_FORTIFY_SOURCE=${fortify}>")
  endif()
endif()
target_link_options(clusterfusion_flags INTERFACE -Wl,-z,relro,-z,now,-z,noexecstack)
target_compile_options(clusterfusion_flags INTERFACE
  "$<$<COMPILE_LANGUAGE:C,CXX>:${host_flags};-Wpedantic>"
  "$<$<COMPILE_LANGUAGE:CXX>:-fvisibility-inlines-hidden>")
target_compile_definitions(clusterfusion_flags INTERFACE "$<$<CONFIG:Debug>:_GLIBCXX_ASSERTIONS>")

if(CF_HAVE_CUDA)
  # -Wpedantic would complain about the line markers that nvcc writes.
  foreach(flag IN LISTS host_flags)
    target_compile_options(clusterfusion_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Xcompiler=${flag}>")
  endforeach()
  target_compile_options(clusterfusion_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-std=c++20;--threads=0>")
  target_compile_definitions(clusterfusion_flags INTERFACE CF_CUDA_CTAS_OF_SM=${CF_CUDA_CTAS_OF_SM}
                             "$<$<BOOL:${CF_CUDA_DELAYS}>:CF_CUDA_DELAYS>" "$<$<BOOL:${CF_CUDA_TRACE}>:CF_CUDA_TRACE>")
  if(CF_CUDA_STRICT)
    target_compile_options(clusterfusion_flags INTERFACE "$<$<COMPILE_LANGUAGE:CUDA>:-Xptxas=--warn-on-spills,--warning-as-error>")
  endif()
endif()
