# What `cmake --install` puts where. Two components, a Debian package each: Runtime is what programs run with, Development what they are
# built with; Runtime alone is enough to run them.

include(CMakePackageConfigHelpers)
set(runtime_package libclusterfusion${cf_ABI_VERSION})  # several ABIs may be installed beside each other
set(development_package libclusterfusion-dev)
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/clusterfusion)
set(doc_dir ${CMAKE_INSTALL_DATAROOTDIR}/doc)

# ---- The library, and how others find it

# From lib/pkgconfig up to the prefix, however deep libdir is, so that an installed tree may be moved.
file(RELATIVE_PATH prefix_from_pkgconfig /prefix/${CMAKE_INSTALL_LIBDIR}/pkgconfig /prefix)
string(REGEX REPLACE "/$" "" prefix_from_pkgconfig "${prefix_from_pkgconfig}")
configure_file(cmake/clusterfusion.pc.in clusterfusion.pc @ONLY)
write_basic_package_version_file(clusterfusionConfigVersion.cmake COMPATIBILITY SameMajorVersion)

install(TARGETS clusterfusion EXPORT clusterfusionTargets
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT Runtime NAMELINK_COMPONENT Development)
install(FILES include/clusterfusion.h DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT Development)
install(EXPORT clusterfusionTargets NAMESPACE clusterfusion:: FILE clusterfusionConfig.cmake DESTINATION ${package_dir} COMPONENT Development)
install(FILES ${PROJECT_BINARY_DIR}/clusterfusionConfigVersion.cmake DESTINATION ${package_dir} COMPONENT Development)
install(FILES ${PROJECT_BINARY_DIR}/clusterfusion.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig COMPONENT Development)

file(GLOB examples CONFIGURE_DEPENDS examples/*.c examples/*.cpp examples/*.h)
install(FILES ${examples} DESTINATION ${doc_dir}/${development_package}/examples COMPONENT Development)

# ---- Licences

# Takes along the licence text of what is compiled in, the first of ARGN that there is, unless CF_LICENCE_OF_<NAME> says where it is; sets
# text_<NAME> to where it is then, for third_party.txt.in.
function(cf_install_licence name component)
  string(TOUPPER CF_LICENCE_OF_${name} variable)
  set(${variable} "" CACHE FILEPATH "Licence text of ${component}, installed with the library; empty: looked for")
  mark_as_advanced(${variable})
  set(text "was not found when this was built; it comes with ${component}")
  foreach(file IN LISTS ${variable} ARGN)
    if(EXISTS ${file})
      install(FILES ${file} DESTINATION ${doc_dir}/${runtime_package}/licences RENAME ${name}.txt COMPONENT Runtime)
      set(text "share/doc/${runtime_package}/licences/${name}.txt")
      break()
    endif()
  endforeach()
  if(text MATCHES "not found")
    message(STATUS "No licence text of ${component}: set ${variable} before giving packages to others")
  endif()
  set(text_${name} ${text} PARENT_SCOPE)
endfunction()

cf_install_licence(json "JSON for Modern C++" ${CF_JSON_INCLUDE_DIR}/../LICENSE.MIT ${CF_JSON_INCLUDE_DIR}/../share/doc/nlohmann-json3-dev/copyright)
cf_install_licence(highway "Highway" ${CF_HIGHWAY_INCLUDE_DIR}/LICENSE ${CF_HIGHWAY_INCLUDE_DIR}/../share/doc/libhwy-dev/copyright)
set(notice_of_cuda)
if(CF_HAVE_CUDA)
  get_filename_component(toolkit ${CMAKE_CUDA_COMPILER}/../.. ABSOLUTE)
  file(GLOB of_wheels ${toolkit}/../../nvidia_cuda_runtime-*.dist-info/licenses/License.txt ${toolkit}/../../nvidia_cuda_runtime-*.dist-info/License.txt)
  cf_install_licence(cuda "the CUDA Toolkit" ${toolkit}/EULA.txt ${toolkit}/LICENSE ${of_wheels})
  file(READ cmake/third_party_cuda.txt.in notice_of_cuda)
  string(CONFIGURE "${notice_of_cuda}" notice_of_cuda @ONLY)
endif()
configure_file(cmake/third_party.txt.in copyright @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/copyright LICENSE DESTINATION ${doc_dir}/${runtime_package} COMPONENT Runtime)
install(FILES ${PROJECT_BINARY_DIR}/copyright DESTINATION ${doc_dir}/${development_package} COMPONENT Development)
