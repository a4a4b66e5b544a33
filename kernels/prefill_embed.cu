// The rows that a piece starts with: embeddings in fp32, and the angles that positions turn queries and keys by.
#include "prefill_rows.cuh"
#include "rope.cuh"

namespace cf::gpu {
namespace {

// A row of the embedding lies in 16-byte words, one for 8 columns.
__device__ void embed_row(const EmbedParams& p, int row) {
  const bool wanted = row >= p.first_row && row < p.n_rows;  // the others are zeros: products work on whole groups of rows
  const int token = wanted ? p.tokens[row - p.first_row] : 0;
  const bool known = wanted && token >= 0 && token < p.vocab_size;  // the host looked; no access is out of bounds in any case
  const int64_t tiles = tiles_of(p.hidden_size);
  const int octets = p.hidden_size / 8;
  for (int octet = threadIdx.x; octet < octets; octet += kEmbedThreads) {
    float v[8] = {};
    if (known) {
      const char* const from = p.embedding + 2 * packed_offset(token, octet * 8, tiles);
#pragma unroll
      for (int e = 0; e < 8; e++) v[e] = load_element(from, p.dtype, e);
    }
    float* const to = p.hidden + block_offset(row / kGroupRows, octet, octets) + row % kGroupRows;
#pragma unroll
    for (int e = 0; e < 8; e++) to[e * kGroupRows] = v[e];
  }
}

__global__ void __launch_bounds__(kEmbedThreads) embed(const __grid_constant__ EmbedParams p) {
  const int row = static_cast<int>(blockIdx.x);
  embed_row(p, row);
  for (int i = threadIdx.x; i < p.half; i += kEmbedThreads) {
    float2 angle;
    sine_and_cosine(p.inv_freq[i] * static_cast<float>(p.base_position + row), &angle.y, &angle.x);
    p.angles[static_cast<int64_t>(row) * p.half + i] = angle;
  }
}

}  // namespace

const void* prefill_embed_kernel() { return reinterpret_cast<const void*>(embed); }

}  // namespace cf::gpu
