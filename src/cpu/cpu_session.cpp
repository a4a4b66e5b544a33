#include "cpu/cpu_session.h"

#include <algorithm>
#include <utility>

namespace cf {

CpuSession::CpuSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const Kernels& kernels, ThreadPool& threads)
    : HostSession(std::move(model), options, from),
      kernels_(kernels),
      threads_(threads),
      workspace_(model_->context()->host_memory(), model_->config(), true) {}

bool CpuSession::run_piece(Row* rows, int64_t n_rows, const Step& step) {
  const cf_model_config& config = model_->config();
  const Forward forward(config, static_cast<const CpuWeights&>(model_->weights()), kernels_, threads_);
  int32_t tokens[kPieceRows] = {};
  int64_t positions[kPieceRows], indices[kPieceRows];
  RowPlace places[kPieceRows];
  for (int64_t r = 0; r < n_rows; r++) tokens[r] = rows[r].token, positions[r] = rows[r].position, indices[r] = rows[r].index;
  const Taps taps{step.taps.empty() ? nullptr : &step.taps, indices};
  forward.embed(tokens, n_rows, workspace_);
  forward.rotate_angles(positions, n_rows, workspace_);
  for (int32_t layer = 0; layer < config.n_layers; layer++) {
    if (is_cancelled(step.progress.cancellation)) return false;
    for (int64_t r = 0; r < n_rows; r++) places[r] = {positions[r], kv_of(rows[r], layer)};
    forward.block(layer, places, n_rows, workspace_, taps);
  }
  int64_t first = n_rows;  // rows that need logits are the last ones
  while (first > 0 && needs_logits(rows[first - 1])) first--;
  for (int64_t base = first; base < n_rows; base += kHeadRows) {
    const int64_t n = std::min(kHeadRows, n_rows - base);
    forward.head(base, n, workspace_);
    for (int64_t i = 0; i < n; i++) finish_row(rows[base + i], workspace_.logits + i * config.vocab_size, step);
  }
  return !is_cancelled(step.progress.cancellation);
}

}  // namespace cf
