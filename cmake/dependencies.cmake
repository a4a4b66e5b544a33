# Headers that the library is compiled with; nothing of them is linked or needed at run time.

find_package(Threads REQUIRED)

find_path(CF_HIGHWAY_INCLUDE_DIR hwy/highway.h DOC "Where hwy/highway.h (Highway 1.0 or newer) is")
find_path(CF_JSON_INCLUDE_DIR nlohmann/json.hpp DOC "Where nlohmann/json.hpp (JSON for Modern C++ 3.11) is")

foreach(dependency "CF_HIGHWAY_INCLUDE_DIR|hwy/highway.h|libhwy-dev" "CF_JSON_INCLUDE_DIR|nlohmann/json.hpp|nlohmann-json3-dev")
  string(REPLACE "|" ";" dependency "${dependency}")
  list(GET dependency 0 variable)
  if(NOT ${variable})
    list(GET dependency 1 header)
    list(GET dependency 2 package)
    message(FATAL_ERROR "${header} was not found. On Debian and Ubuntu: apt-get install ${package}. Elsewhere: -D${variable}=DIRECTORY.")
  endif()
endforeach()

set(CF_DEPENDENCY_INCLUDE_DIRS ${CF_HIGHWAY_INCLUDE_DIR} ${CF_JSON_INCLUDE_DIR})
