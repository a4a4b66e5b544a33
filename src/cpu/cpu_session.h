// Sessions of the CPU backend.
#pragma once

#include "cpu/forward.h"
#include "host_session.h"

namespace cf {

class CpuSession : public HostSession {
 public:
  CpuSession(std::shared_ptr<Model> model, const cf_session_options& options, ForkPoint from, const Kernels& kernels, ThreadPool& threads);

 protected:
  bool run_piece(Row* rows, int64_t n_rows, const Step& step) override;
  uint64_t workspace_bytes() const override { return Workspace::bytes(model_->config(), true); }

 private:
  const Kernels& kernels_;
  ThreadPool& threads_;
  Workspace workspace_;
};

}  // namespace cf
