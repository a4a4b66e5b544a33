// A C++ program outside the tree: compiled against an installed library by tests/abi/consumer.sh.
#include <clusterfusion.h>

#include <cstdio>
#include <memory>
#include <string>

struct Destroy {
  void operator()(cf_context* context) const { cf_context_destroy(context); }
};

int main() {
  if (cf_abi_version() != CF_ABI_VERSION) return 1;
  cf_context* raw = nullptr;
  if (cf_context_create(nullptr, &raw) != CF_OK) return 2;
  std::unique_ptr<cf_context, Destroy> context(raw);
  cf_model* model = nullptr;
  if (cf_model_load(context.get(), "/nonexistent", nullptr, &model) != CF_ERROR_IO || model) return 3;
  char sentence[512];
  if (cf_context_last_error(context.get(), sentence, sizeof sentence, nullptr) != CF_OK) return 4;
  if (std::string(sentence).find("/nonexistent") == std::string::npos) return 5;
  std::printf("clusterfusion %s\n", cf_version_string());
}
