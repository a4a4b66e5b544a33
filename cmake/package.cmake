# Packages through CPack: `cpack -G TGZ` makes one tree that may be unpacked anywhere, `cpack -G DEB` a package for each component of
# install.cmake. Where libraries go follows the configuration: CMAKE_INSTALL_PREFIX=/usr gives Debian's lib/ARCH.

set(CPACK_GENERATOR TGZ)
set(CPACK_PACKAGE_NAME clusterfusion)
set(CPACK_PACKAGE_VENDOR ClusterFusion)
set(CPACK_PACKAGE_CONTACT "ClusterFusion maintainers" CACHE STRING "Maintainer named in packages: NAME <ADDRESS>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "")  # the first line of each component's description
set(CPACK_RESOURCE_FILE_LICENSE ${PROJECT_SOURCE_DIR}/LICENSE)
string(TOLOWER ${CMAKE_SYSTEM_NAME} system)
set(CPACK_PACKAGE_FILE_NAME clusterfusion-${PROJECT_VERSION}-${system}-${CMAKE_SYSTEM_PROCESSOR})
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL Runtime Development)
set(CPACK_VERBATIM_VARIABLES ON)

set(backends "for the CPU")
if(CF_HAVE_CUDA)
  set(backends "for the CPU and for NVIDIA GPUs (needs a driver only where a GPU is used)")
endif()
set(about "ClusterFusion runs language models inside a program, one stream of tokens
at the lowest latency the hardware allows, behind a C ABI. Built ${backends}.")

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS ON)  # programs linked to it get their dependency from dpkg-shlibdeps
set(CPACK_DEBIAN_PACKAGE_GENERATE_SHLIBS_POLICY ">=")
set(CPACK_DEBIAN_RUNTIME_PACKAGE_NAME ${runtime_package})
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SECTION libs)
set(CPACK_DEBIAN_RUNTIME_PACKAGE_SHLIBDEPS ON)
set(CPACK_COMPONENT_RUNTIME_DESCRIPTION "low-latency decoding of GPT-NeoX and Llama models, shared library
${about}
This package holds what programs that use it need to run.")
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_NAME ${development_package})
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_SECTION libdevel)
set(CPACK_DEBIAN_DEVELOPMENT_PACKAGE_DEPENDS "${runtime_package} (= ${PROJECT_VERSION})")
set(CPACK_COMPONENT_DEVELOPMENT_DESCRIPTION "low-latency decoding of GPT-NeoX and Llama models, development files
${about}
This package holds the header, what pkg-config and CMake need, and examples.")

include(CPack)
