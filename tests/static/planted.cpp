// Faults for the tools of tests/static.sh to find: a tool that misses them has not looked. Never linked into anything.
#include <cstdio>
#include <cstdlib>

void planted_out_of_bounds();
void planted_double_free(void* memory);
int planted_open_file(const char* path);

void planted_out_of_bounds() {
  int values[4] = {};
  values[4] = 1;  // cppcheck: arrayIndexOutOfBounds
}

void planted_double_free(void* memory) {
  std::free(memory);
  std::free(memory);  // gcc: double-free
}

int planted_open_file(const char* path) {
  FILE* file = std::fopen(path, "r");
  if (!file) return 0;
  return std::fgetc(file);  // gcc: file-leak
}
