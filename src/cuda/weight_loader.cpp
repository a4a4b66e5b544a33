#include "cuda/weight_loader.h"

#include <algorithm>

#include "checked.h"
#include "error.h"
#include "model_config.h"

namespace cf {

namespace {

constexpr uint64_t kLaneBytes = 4 << 20;  // the longest possible row, 2^20 floats, fits
constexpr uint64_t kReaders = 8;          // a thread copies 5 to 9 GB/s out of the page cache, and the bus takes 50

// Two a reader, and no more than a layer or the globals, in 2 bytes an element, can fill.
uint64_t lanes_for(const cf_model_config& config) {
  const auto stored = [&](Slot first, Slot last) {
    uint64_t bytes = 0;
    for (int slot = int(first); slot < int(last); slot++) {
      const Shape shape = slot_shape(config, Slot(slot));
      bytes = add(bytes, mul(uint64_t(shape.rows), uint64_t(shape.cols), sizeof(uint16_t)));
    }
    return bytes;
  };
  const uint64_t most = std::max(stored(Slot{0}, Slot::kLayerSlots), stored(Slot::kEmbedding, Slot::kEnd));
  return 2 * std::clamp<uint64_t>(most / (2 * kLaneBytes), 1, kReaders);
}

// A machine that has no room for more threads loads with the caller's alone.
std::unique_ptr<ThreadPool> readers(size_t n, const Log& log) {
  try {
    return std::make_unique<ThreadPool>(int32_t(n));
  } catch (const Error& e) {
    log.write(CF_LOG_WARNING, "weights are read by one thread: ", e.message);
    return std::make_unique<ThreadPool>(1);
  }
}

}  // namespace

uint64_t WeightLoader::staging_bytes(const cf_model_config& config) { return add(mul(2 * kLaneBytes, lanes_for(config)), kAlignment); }

WeightLoader::WeightLoader(const LoadPath& path, const cf_model_config& config)
    : path_(path),
      host_(path.context.host_memory(), kLaneBytes * lanes_for(config)),
      device_(path.context.device_memory(), kLaneBytes * lanes_for(config) + kAlignment),
      pinned_(cudaHostRegister(host_.data(), host_.size_bytes(), cudaHostRegisterDefault) == cudaSuccess) {
  if (!pinned_) {
    cudaGetLastError();
    path_.context.log().write(CF_LOG_INFO, "the memory that weights pass through could not be pinned; loading takes longer");
  }
  try {
    for (uint64_t i = 0; i < lanes_for(config); i++) {
      lanes_.push_back({host_.as<std::byte>() + i * kLaneBytes, device_.as<std::byte>() + i * kLaneBytes});
      check(cudaStreamCreateWithFlags(&lanes_.back().stream, cudaStreamNonBlocking), "create a stream");
    }
    threads_ = readers(lanes_.size() / 2, path_.context.log());
  } catch (...) {
    destroy_streams();
    throw;
  }
}

WeightLoader::~WeightLoader() {
  try {
    const DeviceScope scope(&path_.context, path_.ordinal);
    destroy_streams();
  } catch (const Error&) {  // a lost device has no streams left
  }
}

void WeightLoader::destroy_streams() {
  for (const Lane& lane : lanes_)
    if (lane.stream) cudaStreamDestroy(lane.stream);
  if (pinned_) cudaHostUnregister(host_.data());
}

// Behind the lanes' memory.
uint32_t* WeightLoader::overflowed() const { return reinterpret_cast<uint32_t*>(device_.as<std::byte>() + device_.size_bytes() - kAlignment); }

// Into pieces that fill a lane.
void WeightLoader::cut(const WeightMove& m) {
  const Tensor& t = m.tensor;
  const uint64_t row_bytes = mul(uint64_t(t.cols), dtype_bytes(t.dtype));
  const int64_t most = int64_t(std::max<uint64_t>(1, kLaneBytes / row_bytes));
  for (int64_t row = 0; row < m.run.count; row += most) {
    const int64_t rows = std::min(most, m.run.count - row);
    pieces_.push_back(
        {&t, m.run.source + row, rows, {nullptr, m.slot, rows, t.cols, m.run.destination + row, m.tiles, m.placing, t.dtype, m.dtype, overflowed()}});
  }
}

bool WeightLoader::move(const std::vector<WeightMove>& moves) {
  check(cudaMemsetAsync(overflowed(), 0, sizeof(uint32_t), path_.own_stream), "clear a flag");
  check(cudaStreamSynchronize(path_.own_stream), "clear a flag");
  pieces_.clear();
  for (const WeightMove& m : moves) cut(m);
  next_ = 0, failed_ = false, error_ = nullptr;
  threads_->run(int64_t(lanes_.size() / 2), [this](int64_t reader) {
    try {
      work(&lanes_[size_t(2 * reader)]);
    } catch (...) {
      const std::lock_guard lock(mutex_);
      if (!failed_.exchange(true)) error_ = std::current_exception();
    }
  });
  cudaError_t ended = cudaSuccess;
  for (const Lane& lane : lanes_) {
    const cudaError_t error = cudaStreamSynchronize(lane.stream);
    if (ended == cudaSuccess) ended = error;
  }
  if (error_) std::rethrow_exception(error_);
  check(ended, "load weights");
  uint32_t result = 0;
  check(cudaMemcpyAsync(&result, overflowed(), sizeof result, cudaMemcpyDeviceToHost, path_.own_stream), "copy a flag");
  check(cudaStreamSynchronize(path_.own_stream), "copy a flag");
  return result;
}

// Pieces, as long as there are any, through a reader's two lanes in turn.
void WeightLoader::work(Lane* lanes) {
  const DeviceScope scope(&path_.context, path_.ordinal);
  for (int turn = 0; !failed_; turn ^= 1) {
    const size_t i = next_.fetch_add(1);
    if (i >= pieces_.size()) return;
    const Lane& lane = lanes[turn];
    check(cudaStreamSynchronize(lane.stream), "load weights");  // before the lane is filled again
    stage(pieces_[i], lane);
    gpu::ConvertParams params = pieces_[i].convert;
    params.source = lane.device;
    const uint64_t ctas = ceil_div(uint64_t(params.rows * params.cols), gpu::kConvertThreads);
    void* arguments[] = {&params};
    check(cudaLaunchKernel(gpu::convert_kernel(), dim3(unsigned(std::min<uint64_t>(ctas, 4096))), dim3(gpu::kConvertThreads), arguments, 0,
                           lane.stream),
          "convert weights");
  }
}

void WeightLoader::stage(const Piece& piece, const Lane& lane) const {
  const Tensor& t = *piece.tensor;
  const uint64_t row_bytes = mul(uint64_t(t.cols), dtype_bytes(t.dtype)), bytes = mul(uint64_t(piece.rows), row_bytes);
  if (t.memory == CF_MEMORY_DEVICE) {
    const void* const source = static_cast<const std::byte*>(t.address) + mul(uint64_t(piece.first), t.stride_bytes);
    const size_t rows = size_t(t.stride_bytes == row_bytes ? 1 : piece.rows), width = size_t(bytes / rows);
    check(cudaMemcpy2DAsync(lane.device, width, source, rows == 1 ? width : t.stride_bytes, width, rows, cudaMemcpyDeviceToDevice, lane.stream),
          "copy weights");
    return;
  }
  read_rows(t, piece.first, piece.rows, lane.host);
  check(cudaMemcpyAsync(lane.device, lane.host, bytes, cudaMemcpyHostToDevice, lane.stream), "copy weights");
}

}  // namespace cf
