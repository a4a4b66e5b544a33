// Attention of the rows of a piece over all positions up to their own, as the cache holds them. A CTA takes one head and 64 positions that
// begin at a multiple of 64, a warp 16 of them, and goes over keys and values 64 at a time from the first: every row of a tile ends in the
// same block, so that what a row becomes depends on its position alone. Keys that nobody appended are zeros; those behind a row weigh 0.
#include "prefill_rows.cuh"

namespace cf::gpu {
namespace {

constexpr int kKeyTiles = kPrefillBlock / 8, kKeySteps = kPrefillBlock / 16;

template <int D>
struct Block {
  static constexpr int kRowBytes = attend_row_bytes(D), kBytes = kPrefillBlock * kRowBytes;
  char* keys;
  char* values;
  __device__ Block(char* memory, int stage) : keys(memory + stage * 2 * kBytes), values(keys + kBytes) {}
};

// Asks for a block of keys and values: 8 threads copy 128 bytes of a row at a time.
template <int D>
__device__ void load_block(const AttendParams& p, int kv_head, int number, Block<D> to) {
  const int lane = static_cast<int>(threadIdx.x) % 8, end = p.base_position + p.n_rows;
  const int64_t to_values = (static_cast<int64_t>(p.n_kv_heads) << p.kv.page_shift) * (2 * D);
#pragma unroll
  for (int row = 0; row < kPrefillBlock; row += kAttendThreads / 8) {
    const int token = row + static_cast<int>(threadIdx.x) / 8, position = number * kPrefillBlock + token;
    const bool wanted = position < end;
    const char* const key = vector_address(p.kv, p.layer, 0, kv_head, p.n_kv_heads, D, min(position, end - 1));
#pragma unroll
    for (int chunk = lane; chunk < (D / 8 + 7) / 8 * 8; chunk += 8) {
      if (D / 8 % 8 != 0 && chunk >= D / 8) break;
      ptx::copy_16(to.keys + token * to.kRowBytes + chunk * 16, key + chunk * 16, wanted);
      ptx::copy_16(to.values + token * to.kRowBytes + chunk * 16, key + to_values + chunk * 16, wanted);
    }
  }
  ptx::commit_copies();
}

// Queries of a warp's 16 rows, as operands: columns 16 step ... of the head.
template <int D>
struct Queries {
  const uint32_t* first;  // this lane's word of the upper 8 rows

  __device__ Queries(const AttendParams& p, int head, int group)
      : first(reinterpret_cast<const uint32_t*>(p.queries + (static_cast<int64_t>(head) * p.groups + group) * (D / 8) * kMatrixBytes) +
              threadIdx.x % kWarpLanes) {}
  __device__ uint4 step(int i) const {
    constexpr int kWords = kMatrixBytes / 4, kLower = D / 8 * kWords;
    const uint32_t* const at = first + 2 * i * kWords;
    return {at[0], at[kLower], at[kWords], at[kLower + kWords]};
  }
};

template <int D, class Kv>
struct Attend {
  static constexpr int kSteps = D / 16, kOutputs = D / 8;
  static constexpr bool kHold = D <= 128;  // queries in registers
  float sums[kOutputs][4] = {};
  float max[2] = {-INFINITY, -INFINITY}, denominator[2] = {0, 0};  // of rows lane / 4 and 8 more; denominators of this lane's keys

  static __device__ int lane() { return static_cast<int>(threadIdx.x) % kWarpLanes; }

  static __device__ void score(const Block<D>& block, const uint4 (&held)[kHold ? kSteps : 1], const Queries<D>& queries,
                               float (&scores)[kKeyTiles][4]) {
    const char* const row = block.keys + (lane() / 16 * 8 + lane() % 8) * block.kRowBytes + lane() / 8 % 2 * 16;
#pragma unroll
    for (int step = 0; step < kSteps; step++) {
      uint4 query;
      if constexpr (kHold) query = held[step];
      else query = queries.step(step);
#pragma unroll
      for (int pair = 0; pair < kKeyTiles / 2; pair++) {
        const uint4 key = ptx::load_tile(row + pair * 16 * block.kRowBytes + step * 32);
        multiply<Kv>(scores[2 * pair], query, {key.x, key.y});
        multiply<Kv>(scores[2 * pair + 1], query, {key.z, key.w});
      }
    }
  }

  // Keys behind a row of this tile, in its last block.
  static __device__ void mask(float (&scores)[kKeyTiles][4]) {
    const int row = static_cast<int>(threadIdx.x) / kWarpLanes * 16 + lane() / 4;
#pragma unroll
    for (int tile = 0; tile < kKeyTiles; tile++)
#pragma unroll
      for (int e = 0; e < 4; e++)
        if (tile * 8 + lane() % 4 * 2 + e % 2 > row + e / 2 * 8) scores[tile][e] = -INFINITY;
  }

  // Scores become weights relative to the highest score so far.
  __device__ void weigh(float (&scores)[kKeyTiles][4]) {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float highest = max[half];
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; tile++) highest = fmaxf(highest, fmaxf(scores[tile][2 * half], scores[tile][2 * half + 1]));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 1));
      highest = fmaxf(highest, __shfl_xor_sync(0xffffffffu, highest, 2));
      const float keep = ptx::exp2_fast(max[half] - highest);
      max[half] = highest;
      float sum = 0;
#pragma unroll
      for (int tile = 0; tile < kKeyTiles; tile++)
#pragma unroll
        for (int e = 2 * half; e < 2 * half + 2; e++) scores[tile][e] = ptx::exp2_fast(scores[tile][e] - highest), sum += scores[tile][e];
      denominator[half] = denominator[half] * keep + sum;
#pragma unroll
      for (int output = 0; output < kOutputs; output++) sums[output][2 * half] *= keep, sums[output][2 * half + 1] *= keep;
    }
  }

  __device__ void add_values(const Block<D>& block, const float (&weights)[kKeyTiles][4]) {
    const char* const row = block.values + lane() % 16 * block.kRowBytes + lane() / 16 * 16;
#pragma unroll
    for (int step = 0; step < kKeySteps; step++) {
      const float(&low)[4] = weights[2 * step], (&high)[4] = weights[2 * step + 1];
      const uint4 weight = {pack<Kv>(low[0], low[1]), pack<Kv>(low[2], low[3]), pack<Kv>(high[0], high[1]), pack<Kv>(high[2], high[3])};
#pragma unroll
      for (int pair = 0; pair < kOutputs / 2; pair++) {
        const uint4 value = ptx::load_tile_transposed(row + step * 16 * block.kRowBytes + pair * 32);
        multiply<Kv>(sums[2 * pair], weight, {value.x, value.y});
        multiply<Kv>(sums[2 * pair + 1], weight, {value.z, value.w});
      }
    }
  }

  __device__ void write(const AttendParams& p, int head, int group) const {
#pragma unroll
    for (int half = 0; half < 2; half++) {
      float all = denominator[half];
      all += __shfl_xor_sync(0xffffffffu, all, 1);
      all += __shfl_xor_sync(0xffffffffu, all, 2);
      const float inverse = 1.0f / all;
#pragma unroll
      for (int output = 0; output < kOutputs; output++) {
        char* const to = p.panels + panel_offset(group + half, head * kOutputs + output, p.groups);
        reinterpret_cast<uint32_t*>(to)[lane()] = pack(p.dtype, sums[output][2 * half] * inverse, sums[output][2 * half + 1] * inverse);
      }
    }
  }
};

// As many as registers allow without spilling any.
constexpr int ctas_of_sm(int head_dim) { return head_dim == 96 ? 3 : 1; }

template <int D, class Kv>
__global__ void __launch_bounds__(kAttendThreads, ctas_of_sm(D)) attend(const __grid_constant__ AttendParams p) {
  static_assert(attend_shared_bytes(D) <= kLeastSharedBytes);
  extern __shared__ __align__(128) char memory[];
  constexpr int kStages = attend_stages(D);
  const int tile = static_cast<int>(gridDim.y - 1 - blockIdx.y), head = static_cast<int>(blockIdx.x);  // those with most to do first
  const int kv_head = head / (p.n_heads / p.n_kv_heads), n_blocks = p.base_position / kPrefillBlock + tile + 1;
  const int group = tile * (kPrefillBlock / kGroupRows) + static_cast<int>(threadIdx.x) / kWarpLanes * 2;
  using Work = Attend<D, Kv>;
  Work work;
  load_block<D>(p, kv_head, 0, Block<D>(memory, 0));
  const Queries<D> queries(p, head, group);
  uint4 held[Work::kHold ? Work::kSteps : 1];
  if constexpr (Work::kHold)
#pragma unroll
    for (int step = 0; step < Work::kSteps; step++) held[step] = queries.step(step);
#pragma unroll 1
  for (int number = 0; number < n_blocks; number++) {
    const Block<D> block(memory, number % kStages);
    const bool more = number + 1 < n_blocks;
    if (kStages > 1 && more) load_block<D>(p, kv_head, number + 1, Block<D>(memory, (number + 1) % kStages)), ptx::wait_copies<1>();
    else ptx::wait_copies<0>();
    __syncthreads();  // everybody's copies are there
    float scores[kKeyTiles][4] = {};
    Work::score(block, held, queries, scores);
    if (!more) Work::mask(scores);
    work.weigh(scores);
    work.add_values(block, scores);
    __syncthreads();  // before the block is overwritten
    if (kStages == 1 && more) load_block<D>(p, kv_head, number + 1, block);
  }
  work.write(p, head, group);
}

template <int D>
const void* kernel_of(cf_dtype kv_dtype) {
  return kv_dtype == CF_DTYPE_F16 ? reinterpret_cast<const void*>(attend<D, F16>) : reinterpret_cast<const void*>(attend<D, Bf16>);
}

}  // namespace

const void* prefill_attend_kernel(int32_t head_dim, cf_dtype kv_dtype) {
  switch (head_dim) {
    case 32: return kernel_of<32>(kv_dtype);
    case 64: return kernel_of<64>(kv_dtype);
    case 80: return kernel_of<80>(kv_dtype);
    case 96: return kernel_of<96>(kv_dtype);
    case 128: return kernel_of<128>(kv_dtype);
    case 256: return kernel_of<256>(kv_dtype);
    default: return nullptr;
  }
}

}  // namespace cf::gpu
