#include "cuda/taps.h"

#include <algorithm>

#include "checked.h"
#include "error.h"

namespace cf {

void CudaTaps::act(int32_t layer, cf_tap_point point, const gpu::TapParams& rows, const std::vector<int64_t>& index) const {
  const int64_t columns = rows.columns, most = staging_floats_ / columns;
  const auto copy = [&](void* to, const void* from) {
    check_cuda(&context_, cudaMemcpyAsync(to, from, size_t(columns) * sizeof(float), cudaMemcpyDefault, stream_), "copy a tap's rows");
  };
  for (const cf_tap& tap : taps_) {
    if (tap.layer != layer || tap.point != point) continue;
    for (int64_t first = 0, n; first < rows.n_rows; first += n) {
      n = std::min(most, rows.n_rows - first);
      gpu::TapParams p = rows;
      p.first_row += int32_t(first), p.n_rows = int32_t(n), p.data = staging_, p.writes = tap.action == CF_TAP_WRITE;
      const auto callers = [&](int64_t row) { return tap.data + index[size_t(first + row)] * columns; };
      if (p.writes)
        for (int64_t row = 0; row < n; row++) copy(staging_ + row * columns, callers(row));
      const uint64_t ctas = std::min<uint64_t>(ceil_div(uint64_t(n * columns), gpu::kTapThreads), 4096);
      launch_kernel(context_, gpu::tap_kernel(), int(ctas), gpu::kTapThreads, 0, false, stream_, &p, "take a tap's rows");
      if (!p.writes)
        for (int64_t row = 0; row < n; row++) copy(callers(row), staging_ + row * columns);
    }
  }
}

DeviceOutputs::DeviceOutputs(Context& context, const Step& step, int64_t n_rows) : context_(context), to_(step.outputs), step_(step) {
  cf_outputs& out = step_.outputs;
  const auto stage = [&](auto*& array, auto& staged, int64_t columns, const char* what) {
    if (!array) return;
    device_of_address(&context, array, what);
    staged.resize(size_t(n_rows) * size_t(columns));
    array = staged.data();
  };
  stage(out.top_tokens, top_tokens_, out.top_n, "outputs.top_tokens");
  stage(out.top_logprobs, top_logprobs_, out.top_n, "outputs.top_logprobs");
  stage(out.target_logprobs, target_logprobs_, 1, "outputs.target_logprobs");
  stage(out.row_tokens, row_tokens_, 1, "outputs.row_tokens");
  stage(out.row_status, row_status_, 1, "outputs.row_status");
  if (out.logits) device_of_address(&context, out.logits, "outputs.logits");
  step_.device_logits = out.logits;
  out.logits = nullptr, out.memory = CF_MEMORY_HOST;
}

void DeviceOutputs::copy(cudaStream_t stream) const {
  const auto copy = [&](auto* to, const auto& staged) {
    if (to && !staged.empty())
      check_cuda(&context_, cudaMemcpyAsync(to, staged.data(), staged.size() * sizeof staged[0], cudaMemcpyHostToDevice, stream), "copy outputs");
  };
  copy(to_.top_tokens, top_tokens_);
  copy(to_.top_logprobs, top_logprobs_);
  copy(to_.target_logprobs, target_logprobs_);
  copy(to_.row_tokens, row_tokens_);
  copy(to_.row_status, row_status_);
  check_cuda(&context_, cudaStreamSynchronize(stream), "copy outputs");
}

}  // namespace cf
