// Moves rows of tensors into a model's memory on the device, converted. Several threads read, each into one of its two lanes while what is in
// the other is on its way: one path for files, host memory and device memory of any alignment.
#pragma once

#include <atomic>
#include <exception>
#include <memory>
#include <mutex>
#include <vector>

#include "cuda/cuda_call.h"
#include "kernels/contract.h"
#include "memory.h"
#include "tensor.h"
#include "thread_pool.h"
#include "weights.h"

namespace cf {

// Where weights pass through on their way to the device.
struct LoadPath {
  Context& context;
  int ordinal;
  cudaStream_t own_stream;
};

// Rows of a tensor that become rows run.destination ... of a slot; tiles: of a strip of a packed matrix.
struct WeightMove {
  const Tensor& tensor;
  RowRun run;
  std::byte* slot;
  gpu::Placing placing;
  int64_t tiles;
  cf_dtype dtype;
};

class WeightLoader {
 public:
  // Throws CF_ERROR_OUT_OF_MEMORY. The device is current, here and in move().
  WeightLoader(const LoadPath& path, const cf_model_config& config);
  ~WeightLoader();
  WeightLoader(const WeightLoader&) = delete;
  static uint64_t staging_bytes(const cf_model_config& config);  // of host and device memory together

  // After what is on own_stream; nothing is on its way any more on return, also by an exception. True: a finite value became infinite.
  bool move(const std::vector<WeightMove>& moves);

 private:
  struct Lane {
    std::byte *host, *device;
    cudaStream_t stream = nullptr;
  };
  struct Piece {
    const Tensor* tensor;
    int64_t first, rows;
    gpu::ConvertParams convert;  // but for `source`
  };

  uint32_t* overflowed() const;
  void check(cudaError_t error, const char* doing) const { check_cuda(&path_.context, error, doing); }
  void cut(const WeightMove& move);
  void work(Lane* lanes);
  void stage(const Piece& piece, const Lane& lane) const;
  void destroy_streams();

  const LoadPath path_;
  Buffer host_, device_;
  bool pinned_;
  std::vector<Lane> lanes_;
  std::unique_ptr<ThreadPool> threads_;
  std::vector<Piece> pieces_;
  std::atomic<size_t> next_{0};  // of pieces_
  std::atomic<bool> failed_{false};
  std::mutex mutex_;
  std::exception_ptr error_;  // the first
};

}  // namespace cf
