// Compiled as the library is, for hardened.sh to look at: what its flags make of buffers whose sizes are known at run time only.
#include <cstdlib>
#include <cstring>

extern "C" {
void cf_probe_stack(const char* text, void (*use)(char*));
char* cf_probe_heap(const char* bytes, size_t size, size_t n);

void cf_probe_stack(const char* text, void (*use)(char*)) {
  char copy[16];
  std::strcpy(copy, text);
  use(copy);
}

char* cf_probe_heap(const char* bytes, size_t size, size_t n) {
  char* copy = static_cast<char*>(std::malloc(size));
  if (copy) std::memcpy(copy, bytes, n);
  return copy;
}
}
