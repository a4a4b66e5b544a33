// What host and device agree on: the arguments of every kernel and the sizes that both compute with. The host fills these
// structs and checks what goes into them, the kernels trust them. All addresses are device memory. Letters for shapes are those of clusterfusion.h.
#pragma once

#include <cstddef>
#include <cstdint>

#include "clusterfusion.h"

namespace cf::gpu {

constexpr int kWarpLanes = 32;
constexpr int kChunkElements = 8;  // 16-bit weights, keys or values in one 16-byte load

// Builds for tests: the registers of an SM are shared by so many CTAs, so that a launch may have more CTAs than the device has SMs; threads
// are delayed before and after meetings (delay.cuh).
#ifndef CF_CUDA_CTAS_OF_SM
#define CF_CUDA_CTAS_OF_SM 1
#endif
constexpr int kCtasOfSm = CF_CUDA_CTAS_OF_SM;
#ifdef CF_CUDA_DELAYS
constexpr bool kDelays = true;
#else
constexpr bool kDelays = false;
#endif

// Bytes of shared memory that a CTA may have at 8.6, 8.9 and 12.x, the least of all targets (CUDA programming guide, compute capabilities). What fits
// beside the fixed parts depends on the model, and the host refuses those that do not.
constexpr int kLeastSharedBytes = 99 << 10;

#ifdef __CUDACC__
#define CF_BOTH __host__ __device__  // callable from host and device
#else
#define CF_BOTH
#endif

// The packed layout of every matrix of 16-bit weights. Rows in strips of 16, a strip in tiles of 16 columns, a tile in four 8x8
// matrices of 128 contiguous bytes: (rows 0-7, columns 0-7), (rows 8-15, columns 0-7), (rows 0-7, columns 8-15), (rows 8-15, columns
// 8-15). Rows and columns are padded with zeros to whole tiles. A strip, or a run of its tiles, is one linear bulk copy; a tile is
// one ldmatrix.x4 of 512 contiguous bytes, without bank conflicts; and 8 strips in shared memory at any one distance are two wgmma
// operands of 64 rows (the upper and the lower halves of the strips) in the layout without swizzle, so prefill reads the same copy.
constexpr int kTileRows = 16;
constexpr int kTileElements = 256;
constexpr int kTileBytes = 512;
CF_BOTH constexpr int64_t tiles_of(int64_t elements) { return (elements + kTileRows - 1) / kTileRows; }
CF_BOTH constexpr int64_t packed_offset(int64_t row, int64_t col, int64_t tiles) {  // in elements
  return (row / 16 * tiles + col / 16) * kTileElements + (col >> 3 & 1) * 128 + (row & 15) * 8 + (col & 7);
}
struct Matrix {
  const void* data;  // aligned to 128 bytes
  int32_t tiles;     // of a strip
  cf_dtype dtype;    // F16 or BF16
};

// NULL: the model has no such vector.
struct LayerWeights {
  Matrix qkv, o, up, down;
  const float *attention_norm_weight, *attention_norm_bias, *mlp_norm_weight, *mlp_norm_bias;  // [H]
  const float *qkv_bias, *o_bias, *up_bias, *down_bias;
};

// A norm's vectors as decode.cuh reads them: for each word of the residual stream (three rows, see below) three weights, three biases, padding.
constexpr int kWordsPerStrip = 6;  // of 16 rows: three to a word, one in the last
CF_BOTH constexpr int64_t words_of(int64_t rows) { return tiles_of(rows) * kWordsPerStrip; }
CF_BOTH constexpr int64_t norm_bytes(int64_t hidden) { return words_of(hidden) * 32; }
CF_BOTH constexpr int64_t norm_offset(int64_t row, bool bias) {  // in floats
  return (row / kTileRows * kWordsPerStrip + row % kTileRows / 3) * 8 + (bias ? 3 : 0) + row % kTileRows % 3;
}

// Rows on their way into a model: dense rows of `source_dtype` become rows first_row ... of `destination` in `dtype`. kPacked: of a
// matrix of `tiles` tiles a strip, whose padding was cleared; kNormWeight, kNormBias: of one column, places of norm_offset.
enum class Placing : int32_t { kDense, kPacked, kNormWeight, kNormBias };
struct ConvertParams {
  const void* source;
  void* destination;
  int64_t rows, cols, first_row, tiles;
  Placing placing;
  cf_dtype source_dtype, dtype;  // F32, F16 or BF16
  uint32_t* overflowed;          // set to 1 if a finite value became infinite; never cleared
};
constexpr int kConvertThreads = 256;

// ---- Taps: rows of activations where a launch has left them, from or to dense rows in fp32 ----

enum class TapForm : int32_t {
  kWords,            // of the residual stream, as decode.cuh exchanges it
  kActivationWords,  // of activations there: two numbers of `dtype`, to be added
  kBlocks,           // of the residual stream in prefill (prefill_contract.h)
  kPanels,           // of activations there, in `dtype`
};
struct TapParams {
  TapForm form;
  cf_dtype dtype;
  void* rows;
  int32_t columns, first_row, n_rows;
  int32_t groups;  // of panels
  float* data;     // [n_rows, columns]
  int32_t writes;  // 1: from data
};
constexpr int kTapThreads = 256;

// ---- Decoding: steps of a model in one persistent launch (decode.cuh) ----

// The warps of a CTA, by their work: products, then activations and attention; then one thread that streams weights, and in the last
// warp one that loads keys and values.
constexpr int kProductWarps = 8, kAttentionWarps = 4;
constexpr int kProducts = kProductWarps * kWarpLanes, kAttentionThreads = kAttentionWarps * kWarpLanes;  // threads
constexpr int kDecodeThreads = kProducts + kAttentionThreads + 2 * kWarpLanes;
constexpr int kRingChunkBytes = 16384;  // of a bulk copy at most: smaller ones keep the producing thread from keeping up
constexpr int kChunkTiles = kRingChunkBytes / kTileBytes;
constexpr int kPassTiles = kProductWarps * kChunkTiles / 2;  // a sum may be interrupted after so many (decode_product.cuh)
constexpr int kMaxRing = 14;
// 16 KB chunks in flight while streaming, and while a CTA waits for others: fewer leave the memory idle, more delay the words that CTAs exchange.
constexpr int kWindow = 3, kTrickle = 2;
// A product warp that is done with chunk c waits for chunk c + 4 next (decode_product.cuh). The parity of its slot's lap, by which it does,
// tells only two laps apart, so the chunk that had the slot before must have come. In a ring of 4 + kWindow or more it has, since c was asked
// for only when all up to c - kWindow had come.
constexpr int kLongRing = kProductWarps / 2 + kWindow;
constexpr int kKvBuffers = 2;      // parts of attention on their way or in use
constexpr int kItems = 4;          // that are known ahead
constexpr int kMaxStepRows = 8;    // rows that a launch takes through the model together
constexpr int kMaxHidden = 16384;  // hidden_size: shared memory has room for what its shares leave

constexpr int kLaneWords = kWarpLanes / kWordsPerStrip * kWordsPerStrip;  // words of whole strips that a warp takes at a time, one a lane
constexpr int kFetchWords = kProductWarps * kLaneWords;                   // from one of a lane's words to its next
constexpr int kGo = 8;                                                    // words of a lane at once
constexpr int kGoes = (kMaxHidden / kTileRows * kWordsPerStrip + kGo * kFetchWords - 1) / (kGo * kFetchWords);
constexpr int kNormShares = kProductWarps * kGoes;  // parts of a row of the residual stream that are summed by themselves
// The share in which a word of a row of the residual stream is summed: a warp's, and again for what lies behind kGo words of every lane.
CF_BOTH constexpr int share_of_word(int64_t word) {
  return static_cast<int>(word / kLaneWords % kProductWarps + word / (kGo * kFetchWords) * kProductWarps);
}
// Cached positions that a partial result of attention covers, and how many results are added up together: so many that a CTA with kLeastSharedBytes
// has room for them.
CF_BOTH constexpr int part_tokens(int64_t head_dim) { return head_dim < 128 ? 64 : 32; }
CF_BOTH constexpr int parts_at_once(int64_t head_dim) { return head_dim <= 128 ? 16 : 8; }
constexpr int kRunTokens = 16;  // positions that surely lie one after the other: the smallest page
constexpr int kMaxDownSlices = 4;
constexpr int kMaxDecodeLayers = 128;
constexpr int kMaxLocalParts = 2;      // parts of a sequence that the positions of one launch may lie in
constexpr int kPageTableShared = 512;  // page numbers kept in shared memory

// Bytes from the start of a layer's weights; kNoVector: the model has none. Norms as norm_offset says.
constexpr uint32_t kNoVector = 0xffffffffu;
struct LayerOffsets {
  uint32_t qkv, o, up, down, attention_norm, mlp_norm, qkv_bias, o_bias, up_bias, down_bias;
};

// Words that CTAs exchange: two of each, for even and odd layers, in each one after the other those of each row of the launch. Every word
// carries the epoch it belongs to (words.cuh); zero before the first launch.
struct DecodeWords {
  uint4* hidden;      // [H] the residual stream before a layer
  uint4* middle;      // [H] after attention, for a sequential residual
  uint4* qkv;         // [(A + 2 G) D] with biases, before RoPE
  uint4* activation;  // [I] activations
  uint4* down;        // [down_slices, H] for a parallel residual
  uint4* heads;       // [A D] attention output: activations
  uint4* partials;    // one of [rows, A, max_parts, partial_words]
  uint4* votes;       // [CTAs, rows], even and odd steps: best logit, its token, whether all were finite
  uint4* rounds;      // [CTAs, kRoundWords], in turn: what CTAs tell each other while a token is drawn; [2 kRoundWords], in turn: sums; listed tokens
};
constexpr int kBuckets = 64;           // of a search among the logits' bits: 6 bits a round
constexpr int kRoundWords = kBuckets;  // of a CTA in a round: three numbers for each
CF_BOTH constexpr int64_t words_of_rounds(int64_t ctas) { return 2 * (ctas + 2) * kRoundWords + kProducts; }

constexpr int kStepsOfLaunch = 32;  // at most, so that the positions of a launch lie in kMaxLocalParts parts

// What launches that share words keep between them.
struct DecodeState {
  uint32_t epoch;     // of the last words
  uint32_t failed;    // 1: a wait ran out of time; for good
  uint32_t listed;    // tokens of a draw on their way to all CTAs; 0 between draws
  uint32_t finished;  // CTAs of a block call; 0 between launches
  struct {
    int32_t token, finite;  // the likeliest; 1: all logits were finite
  } rows[kMaxStepRows];     // of the last launch of rows that the host gave
};

// cf_sampler_options. Arrays of the vocabulary stand behind the sequence: floats to be added, then bits of tokens (vocabulary_bits)
// that are allowed, that stop, that the sequence has had.
struct DecodeSampler {
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k;
  int32_t biased, masked, stops;  // 1: that array counts
  uint64_t seed;
};

// A sequence as the device knows it between launches. The host writes it while none of them is on its way.
struct DecodeSequence {
  int32_t position;  // cached positions
  int32_t token;     // that is to be fed next
  cf_status status;  // anything but CF_OK: launches do nothing
  int32_t stopped;   // 1: so do those of a call that has sampled a stop token
  DecodeSampler sampler;
};
CF_BOTH constexpr int64_t vocabulary_bits(int64_t vocab) { return (vocab + 31) / 32; }  // words

// What the device tells the host, in host memory: after each step the tokens, then `known`; after each launch the rest, `launches` last.
struct SequenceLog {
  int64_t known;    // tokens that may be read: those cached, then the pending one
  int64_t n_steps;  // finished ever
  int32_t position;
  cf_status status;
  uint32_t launches;  // finished ever
  int32_t stopped;
};

// Pages of so many tokens, at most 2^30. Which one a token below 2^31 is in takes a multiplication.
struct PageCut {
  int32_t tokens;
  uint32_t factor, shift;

  CF_BOTH static constexpr PageCut of(int32_t tokens) {
    uint32_t shift = 0;
    while ((int64_t{1} << shift) < tokens) shift++;
    return {tokens, static_cast<uint32_t>((uint64_t{1} << (31 + shift)) / static_cast<uint32_t>(tokens) + 1), shift};
  }
  CF_BOTH constexpr int32_t page_of(int32_t token) const {
    return static_cast<int32_t>(static_cast<uint32_t>(uint64_t{2 * static_cast<uint32_t>(token)} * factor >> 32) >> shift);
  }
};
constexpr int kKvUnitBytes = 16;  // of the strides of keys and values

// A row of a launch: one position of one sequence.
struct DecodeRow {
  char *k, *v;  // keys and values of layer 0
  int64_t page_bytes;
  const int32_t* page_table;                         // NULL: there is one page, 0
  float* logits;                                     // [V] after the step, or NULL
  uint32_t layer_stride, head_stride, token_stride;  // in units of kKvUnitBytes
  PageCut pages;
  int32_t position;
  int32_t token;
  int32_t first;  // row that the sequence's rows begin with; rows of a sequence lie together in order of position
  cf_dtype kv_dtype;
};

// What a launch that is a block call, or some rows of one, reads and writes; see cf_block_options. Arrays begin with the launch's first row.
enum : int32_t { kNoBlock, kWholeBlock, kBlockAttention, kBlockDown };
struct BlockIo {
  int32_t part;  // kNoBlock: the launch is none
  cf_dtype dtype;
  int32_t rows, rows_before;  // of the whole call; of it before this launch
  int32_t capacity;           // positions
  const int32_t* position;    // of the call's first row; NULL: none is needed
  int32_t* advance;           // the same if this launch is to add `rows` to it, else NULL
  cf_status* status;
  const void* hidden;
  void *output, *attention_output, *mlp_activation;  // of the last two kBlockDown reads, the others write; NULL: not wanted
  void *new_k, *new_v;                               // NULL: not wanted
};

// The parts of a layer, in launches that take only some of them.
enum : uint32_t {
  kTakesQkv = 1,
  kTakesUp = 2,
  kTakesAttention = 4,
  kTakesDown = 8,
  kTakesO = 16,
  kTakesHead = 32,
  kTakesCombine = 64,
  kTakesAll = 127
};

struct DecodeParams {
#ifdef CF_CUDA_TRACE
  uint64_t* trace;  // [kTraceCtas, kTraceLayers, kJobKinds, kTraceEvents], ns of the wall clock; NULL: none is wanted
#endif
  int32_t hidden_size, n_heads, n_kv_heads, rotary_dim, intermediate_size, vocab_size, n_layers;
  cf_norm norm;
  cf_activation activation;
  int32_t parallel_residual;
  int32_t down_slices;  // parts of intermediate_size, each summed by itself; follows from the shape alone; 1 for a sequential residual
  int32_t qkv_ctas;     // parallel residual: CTAs that take Q K V while the others take MLP-up
  float norm_eps;
  const float* inv_freq;         // [rotary_dim / 2]
  cf_dtype weight_dtype;         // of all matrices
  const char* const* addresses;  // of each layer's weights, then of the embedding and the head, packed [V, H], and of the final norm
  LayerOffsets offsets;
  int32_t share_counts[kNormShares];  // numbers of a row of the residual stream in each share that is summed by itself
  DecodeWords words;
  DecodeState* state;  // of the words

  // What of a step this launch takes: all of it, or a layer, or a phase. Between two launches of one step nothing changes but words.
  int32_t first_layer, end_layer;  // n_layers stands for the head
  uint32_t takes;                  // kTakes...
  int32_t begins, casts, ends;     // 1: it has the embedding; its CTAs vote on the token; votes are counted, and the step ends
  int32_t voters;                  // CTAs whose votes are counted

  int32_t n_rows;
  int32_t n_steps;  // at most kStepsOfLaunch; 1 for several rows and for part of a step
  // Steps of a sequence that the device goes on with by itself; then n_rows is 1, and position and token of the row are not used. NULL:
  // rows as the host gives them.
  DecodeSequence* sequence;
  SequenceLog* log;
  int32_t* log_tokens;     // [capacity + 1]
  float* adjusted_logits;  // [V]
  int32_t token;           // to be fed first, instead of the sequence's; -1: none
  int32_t end_position;    // positions that there are pages for
  int32_t new_call;        // 1: a stop token of an earlier call does not count

  int32_t max_parts;              // that `words.partials` has room for
  int32_t ring, window, trickle;  // chunks: in the ring, in flight while streaming, in flight while meeting
  int32_t activation_bytes;       // a multiple of 128
  int32_t pass_tiles;             // of 16 activations without a norm that there is room for: a multiple of kPassTiles, or all
  int32_t scratch_bytes;          // of attention; a multiple of 128
  int32_t kv_buffers;             // 1 or 2
  int32_t cluster_size;           // divides the CTAs
  int32_t near_parts;             // of a key head that a CTA has room for, from its cluster; 0: none come that way
  uint64_t wait_limit_ns;
  BlockIo block;  // its layer is layer 0 of one
  DecodeRow rows[kMaxStepRows];
};

CF_BOTH constexpr int partial_words(int head_dim) { return 1 + head_dim / kTileRows * kWordsPerStrip; }  // {maximum, denominator, -}, then values

// The best token so far; finite: whether all logits were.
struct Candidate {
  float value;
  int32_t token;  // -1: none
  int32_t finite;

  CF_BOTH static constexpr Candidate none() { return {0.0f, -1, 1}; }
  // The higher logit, the lower token among equals.
  CF_BOTH constexpr void take(float v, int32_t t, int32_t f) {
    if (t >= 0 && (token < 0 || v > value || (v == value && t < token))) value = v, token = t;
    finite &= f;
  }
};

// A matrix of a layer, or the head: how it is cut into units of work (decode_job.cuh).
struct JobShape {
  uint32_t offset, bias, other_bias;  // other: of the second half of gate and up, or a second one to be added
  int32_t tiles, strips, slices, strips_of_unit, first_cta, ctas;
};
enum JobKind : int { kJobQkv, kJobUp, kJobAttention, kJobDown, kJobO, kJobHead, kJobKinds };

// What a build with CF_CUDA_TRACE tells of a job of a CTA, or of the last part of attention that it took (trace.cuh).
enum TraceEvent : int {
  kTraceBegin,       // who multiplies turns to it; attention: the part is known
  kTraceAsked,       // what will be added to its sums is there
  kTraceWords,       // so are the words that the first warp waits for
  kTraceReady,       // all activations are; attention: queries, keys and values are
  kTraceMultiplied,  // the first warp is done; attention: the owner waits for other parts
  kTraceSummed,      // all warps are
  kTraceEnd,         // its words are on their way
  kTraceStream,      // its first chunk is asked for
  kTraceStreamed,    // and its last
  kTraceEvents
};
constexpr int kTraceCtas = 256, kTraceLayers = kMaxDecodeLayers;
constexpr int64_t kTraceBytes = int64_t{8} * kTraceCtas * kTraceLayers * kJobKinds * kTraceEvents;

// How a product thread finishes the sum of a row: what is added to it, or to those of gate and up, and where its strip's words go.
struct Finish {
  float2 addends;
  uint4* words;
};
// A product thread's own: none sees another's before all have met.
union ThreadSlot {
  Finish finish;
  Candidate best;  // in the head
};

// A part that a CTA attends to.
struct PartItem {
  int32_t step, layer, row, kv_head, part, owned;  // owned 0: `row` is the first of the sequence; step -1: there is none any more
  int32_t to;                                      // owned 0: the CTA of the cluster that gets the result; -1: it becomes words
  int32_t near;                                    // owned 1: the parts that come from the cluster, the first ones
  int32_t head;                                    // the first of those attended to: of a group, or of an owner
};

// How the parts of a layer are shared (decode_attention.cuh). The first clusters may own a head more than the others.
struct PartPlan {
  int32_t near[kMaxStepRows];    // complete parts of a key head that its owner's cluster attends to
  int32_t far, far_of_first;     // the other complete ones, of all heads; how many of them the first clusters attend to
  int32_t clusters, first_ctas;  // CTAs of the first clusters
  int32_t owner_heads, owners;   // heads of an owner: one, or a group; owners of a row
};

// Units first .. end - 1 of a job are this CTA's.
struct Run {
  uint16_t first, end;
};

// Dynamic shared memory of decode.cuh: this, `ring` chunks, the activations, attention's scratch, its keys and values, parts from the cluster.
struct DecodeShared {
  DecodeParams params;  // a copy: functions that are not inlined would read the kernel's own through memory
  uint64_t full[kMaxRing], empty[kMaxRing];
  volatile int32_t laps[kMaxRing];  // of the ring, in which what is in a slot, or on its way there, was asked for
  uint64_t kv_full[kKvBuffers], near_full;
  PartItem items[kItems], current, last;  // last: of those that were computed
  PartPlan plan;
  int32_t same_query;                // 1: `current` has that of `last`
  uint32_t near_taken;               // how often parts came from the cluster, ever
  volatile int32_t announced, done;  // items, ever: known; computed
  DecodeSequence sequence;
  const char *layers[kMaxDecodeLayers], *embedding, *head, *final_norm;
  JobShape jobs[kJobKinds];
  Run runs[(kMaxDecodeLayers + 1) * kJobKinds];                            // of each job of each layer, and of the head
  float sums[kProductWarps][kProducts];                                    // parts of the sum of each product thread's row
  float2 stats[kMaxStepRows][kNormShares];                                 // mean and sum of squares around it of a share of a row
  float counts[kNormShares], inverse_counts[kNormShares], inverse_hidden;  // numbers in such a share; of hidden_size
  int32_t page_table[kPageTableShared];
  int32_t table_at[kMaxStepRows];  // where a sequence's begins, by its first row; -1: read it from memory
  int32_t parts[kMaxStepRows];     // complete before the launch, by the first row of the sequence
  float max[2][kAttentionWarps], denominator[2][kAttentionWarps];
  ThreadSlot of_thread[kProducts];
  int32_t token[kMaxStepRows];
  int32_t finite[kMaxStepRows];            // 1: all logits were
  int32_t step, epoch, go;                 // step: of this launch
  int32_t progressed;                      // 1: the last step succeeded
  int32_t steps_asked;                     // more than n_steps where there is no room for all
  cf_status status;                        // of the sequence
  float most[kMaxStepRows];                // the best logit
  int32_t recent[kStepsOfLaunch + 1];      // tokens that the sequence was fed in this launch
  uint32_t least;                          // key of the least likely token that may be drawn
  int32_t last_tie;                        // the last token of this CTA with that key that may
  uint64_t mass;                           // of a search: of the tokens beyond its key so far
  double enough;                           // of a search: what is
  int32_t left;                            // tokens that would be listed
  int32_t found;                           // 1: there is a limit
  int32_t draws;                           // 1: the token is not simply the likeliest
  int32_t down_begin[kMaxDownSlices + 1];  // tiles before each slice of MLP-down
  int32_t has_head;                        // 1: logits are wanted
  int32_t group, complete;                 // heads of a key head; complete parts of attention, over all sequences and key heads
  uint16_t turned[kMaxDecodeLayers];       // this cluster among all in a layer's attention
  volatile int32_t most_in_flight;         // chunks: the window or, while this CTA is in a meeting, the trickle
  volatile int32_t passed;                 // epoch of the last layer whose products before attention this CTA has begun
  volatile int32_t failed;
};

constexpr int kDecodeSharedBytes = static_cast<int>((sizeof(DecodeShared) + 127) / 128 * 128);
// Bytes of `rows` rows of activations: 4 bytes each, in two halves.
CF_BOTH constexpr int64_t activation_bytes(int64_t elements, int rows) { return 4 * elements * rows; }
// A part's keys and values in shared memory.
CF_BOTH constexpr int64_t kv_buffer_bytes(int64_t head_dim) { return 2 * part_tokens(head_dim) * 2 * head_dim; }
// Attention's scratch: the queries of a group, values of the warps (two of them), local parts of the group, parts of others, sines and cosines.
CF_BOTH constexpr int64_t scratch_floats(int64_t group, int64_t head_dim, int64_t rotary_dim, int rows) {
  return group * head_dim + 2 * kAttentionWarps * head_dim + group * kMaxLocalParts * (head_dim + 4) + parts_at_once(head_dim) * (head_dim + 4) +
         rotary_dim * rows;
}

// A partial result in shared memory: maximum, denominator, padding, values.
CF_BOTH constexpr int64_t near_part_bytes(int64_t group, int64_t head_dim) { return group * (head_dim + 4) * static_cast<int64_t>(sizeof(float)); }

// The kernels, for launching: convert.cu.
const void* convert_kernel();
const void* tap_kernel();
// decode_*.cu, each for one head_dim: for launches of up to `rows` rows.
const void* decode_kernel_32(int rows);
const void* decode_kernel_64(int rows);
const void* decode_kernel_80(int rows);
const void* decode_kernel_96(int rows);
const void* decode_kernel_128(int rows);
const void* decode_kernel_256(int rows);

}  // namespace cf::gpu
