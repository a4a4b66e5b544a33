// raii DIR PROMPT COUNT - forks of one prompt, each sampled with its own seed to the end of the line, in C++ with raii.h. For models whose
// tokens are bytes, such as demo_model. The first answer is greedy. Nothing is destroyed by hand, also not where a call fails.
#include "raii.h"

#include <cstdio>
#include <cstdlib>
#include <vector>

namespace {

namespace cf = clusterfusion;
constexpr int64_t kLineTokens = 64;

// What the session holds from `position` on, to the end of the line.
std::string line_from(const cf::Session& session, int64_t position) {
  std::vector<int32_t> tokens(kLineTokens);
  size_t n = 0;
  cf::check(cf_session_tokens(session.get(), position, tokens.data(), tokens.size(), &n));
  std::string line;
  for (size_t i = 0; i < n && tokens[i] != '\n'; i++) line += static_cast<char>(tokens[i]);
  return line;
}

void answer(const char* directory, const std::string& prompt, int count) {
  const auto context = cf::make<cf::Context>(cf_context_create, nullptr);
  const auto model = cf::make<cf::Model>(cf_model_load, context.get(), directory, nullptr);
  auto config = cf::defaults(cf_model_config_init);
  cf::check(cf_model_get_config(model.get(), &config));
  if (config.vocab_size != 256) throw std::runtime_error("this model's tokens are not bytes");

  auto options = cf::defaults(cf_session_options_init);
  options.capacity_tokens = static_cast<int64_t>(prompt.size()) + kLineTokens;
  options.reserve = 0;  // the forks share a pool, and with it the prompt's pages
  auto pool_options = cf::defaults(cf_kv_pool_options_init);
  pool_options.capacity_tokens = options.capacity_tokens * (count + 1);
  const auto pool = cf::make<cf::KvPool>(cf_kv_pool_create, model.get(), &pool_options);
  options.pool = pool.get();
  const auto parent = cf::make<cf::Session>(cf_session_create, model.get(), &options);
  const std::vector<int32_t> tokens(prompt.begin(), prompt.end());
  cf::check(cf_prefill(parent.get(), tokens.data(), tokens.size(), nullptr));
  cf::check(cf_session_wait(parent.get(), nullptr));

  for (int i = 0; i < count; i++) {
    const auto position = static_cast<int64_t>(prompt.size()) - 1;  // its last token is fed again, and sampled after by the fork
    const auto fork = cf::make<cf::Session>(cf_session_fork, parent.get(), position, &options);
    auto sampler = cf::defaults(cf_sampler_options_init);
    sampler.temperature = i ? 1.0F : 0.0F;
    sampler.seed = static_cast<uint64_t>(i);
    sampler.stop_tokens = config.eos_tokens;
    sampler.n_stop_tokens = static_cast<size_t>(config.n_eos_tokens);
    cf::check(cf_session_set_sampler(fork.get(), &sampler));
    cf::check(cf_decode_steps(fork.get(), kLineTokens, nullptr));
    cf::check(cf_session_wait(fork.get(), nullptr));
    std::printf("%s%s\n", prompt.c_str(), line_from(fork, position + 1).c_str());
  }
}

}  // namespace

int main(int argc, char** argv) {
  const int count = argc == 4 ? std::atoi(argv[3]) : 0;
  if (count < 1 || count > 1000 || !*argv[2]) {
    std::fprintf(stderr, "usage: raii DIR PROMPT COUNT\n");
    return 2;
  }
  try {
    answer(argv[1], argv[2], count);
  } catch (const std::exception& error) {  // a clusterfusion::Error has a status, too
    std::fprintf(stderr, "raii: %s\n", error.what());
    return 1;
  }
}
