/* Block calls of several rows, on caches of any layout, in graphs: the bits of calls of one row on a contiguous cache, and of sessions.
 *   block_rows          on a GPU
 *   block_rows cpu      what applies, on the CPU backend */
#define _GNU_SOURCE /* memmem */
#include "helpers/block_models.h"

enum { kRows = 33, kOutputs = 5, kPages = kCapacity + 5 };

static int n_failed, n_checks;
static cudaStream_t stream;
static char name[200]; /* of the case */

static void check(int ok, const char* what) {
  n_checks++;
  if (ok) return;
  n_failed++;
  printf("FAILED: %s: %s\n", name, what);
}

static void put(void* to, const void* from, size_t bytes) {
  if (on_cpu) memcpy(to, from, bytes);
  else CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyHostToDevice, stream));
  if (!on_cpu) CUDA(cudaStreamSynchronize(stream));
}
static void get(void* to, const void* from, size_t bytes) {
  if (on_cpu) memcpy(to, from, bytes);
  else CUDA(cudaMemcpyAsync(to, from, bytes, cudaMemcpyDeviceToHost, stream));
  if (!on_cpu) CUDA(cudaStreamSynchronize(stream));
}
/* Of what the library has written. */
static void expect_same_bytes(const void* a, const void* b, size_t bytes, const char* what) {
  char *mine = malloc(bytes), *other = malloc(bytes);
  get(mine, a, bytes);
  get(other, b, bytes);
  check(memcmp(mine, other, bytes) == 0, what);
  free(mine);
  free(other);
}
static size_t size_of(cf_dtype dtype) { return dtype == CF_DTYPE_F32 ? 4 : 2; }

/* ---- Keys and values */

struct cache {
  int64_t token_stride, head_stride, page_stride, n; /* n: elements of k, and of v */
  int32_t page_tokens, table[kPages];
  void *k, *v, *device_table;
};

enum layout { kTokens, kHeads, kGaps, kPages16, kPages3, kPages1, kLayouts };
static const char* const layout_names[kLayouts] = {"[token][head]", "[head][token]", "gaps", "pages of 16", "pages of 3", "pages of 1"};

static struct cache make_cache(const cf_model_config* c, enum layout layout) {
  const int64_t g = c->n_kv_heads, d = c->head_dim;
  struct cache cache = {g * d, d, 0, 0, 0, {0}, NULL, NULL, NULL};
  int64_t pages = 1, tokens = kCapacity;
  if (layout == kHeads) cache.token_stride = d, cache.head_stride = kCapacity * d;
  if (layout == kGaps) cache.head_stride = d + 8, cache.token_stride = g * (d + 8) + 24;
  if (layout >= kPages16) {
    tokens = cache.page_tokens = layout == kPages16 ? 16 : layout == kPages3 ? 3 : 1;
    pages = kCapacity / tokens + 5;
    if (layout == kPages16) cache.token_stride = d, cache.head_stride = tokens * d;
    cache.page_stride = tokens * g * d + (layout == kPages3 ? 8 : 0);
    for (int32_t i = 0; i < kCapacity / tokens; i++) cache.table[i] = (int32_t)((i * 7 + 3) % pages); /* 7 divides no number of pages here */
    cache.device_table = device_bytes(sizeof cache.table);
    put(cache.device_table, cache.table, sizeof cache.table);
  }
  cache.n = (pages - 1) * cache.page_stride + (tokens - 1) * cache.token_stride + (g - 1) * cache.head_stride + d;
  cache.k = device_bytes((size_t)cache.n * 2);
  cache.v = device_bytes((size_t)cache.n * 2);
  return cache;
}
static void free_cache(struct cache* cache) {
  free_bytes(cache->k);
  free_bytes(cache->v);
  if (cache->device_table) free_bytes(cache->device_table);
}
static int64_t place(const struct cache* c, int64_t position, int64_t head) {
  const int64_t page = c->page_tokens ? c->table[position / c->page_tokens] : 0, in_page = c->page_tokens ? position % c->page_tokens : position;
  return page * c->page_stride + in_page * c->token_stride + head * c->head_stride;
}

/* What a cache holds, [2][kCapacity][G][D], and NaN where it holds nothing. */
static uint16_t* dense_of(const cf_model_config* c, const struct cache* cache, int64_t* n_written) {
  const size_t kv = (size_t)(c->n_kv_heads * c->head_dim);
  uint16_t *dense = malloc(2 * kCapacity * kv * 2), *raw = malloc((size_t)cache->n * 2);
  *n_written = 0;
  for (int kind = 0; kind < 2; kind++) {
    get(raw, kind ? cache->v : cache->k, (size_t)cache->n * 2);
    for (int64_t i = 0; i < cache->n; i++) *n_written += raw[i] != 0xffff;
    for (int64_t p = 0; p < kCapacity; p++)
      for (int64_t g = 0; g < c->n_kv_heads; g++)
        memcpy(dense + ((size_t)kind * kCapacity + (size_t)p) * kv + (size_t)(g * c->head_dim), raw + place(cache, p, g), (size_t)c->head_dim * 2);
  }
  free(raw);
  return dense;
}
/* Gives a cache its first positions: the same numbers, whatever the layout. */
static void fill_cache(const cf_model_config* c, const struct cache* cache, int64_t positions, cf_dtype dtype) {
  uint16_t* raw = malloc((size_t)cache->n * 2);
  random_state = 77;
  for (int kind = 0; kind < 2; kind++) {
    memset(raw, 0xff, (size_t)cache->n * 2);
    for (int64_t p = 0; p < positions; p++)
      for (int64_t g = 0; g < c->n_kv_heads; g++)
        for (int64_t d = 0; d < c->head_dim; d++) { /* 0.5 to 1 or 2, of either sign */
          random_value(1.0f);
          const uint32_t bits = random_state >> 8;
          raw[place(cache, p, g) + d] = (uint16_t)(dtype == CF_DTYPE_F16 ? (bits & 0x83ff) | 0x3800 : (bits & 0x807f) | 0x3f00);
        }
    put(kind ? cache->v : cache->k, raw, (size_t)cache->n * 2);
  }
  free(raw);
}

/* ---- Calls */

struct arrays {
  void *hidden, *out[kOutputs];     /* output, attention_output, mlp_activation, new_k, new_v: kRows rows */
  size_t hidden_row, row[kOutputs]; /* bytes */
  int32_t* state;                   /* position, status */
};

static struct arrays make_arrays(const cf_model_config* c, cf_dtype dtype) {
  const size_t kv = (size_t)(c->n_kv_heads * c->head_dim), h = (size_t)c->hidden_size, sizes[kOutputs] = {h, h, (size_t)c->intermediate_size, kv, kv};
  struct arrays a;
  a.hidden_row = h * size_of(dtype);
  a.hidden = device_bytes(kRows * a.hidden_row);
  for (int i = 0; i < kOutputs; i++) {
    a.row[i] = sizes[i] * size_of(dtype);
    a.out[i] = device_bytes(kRows * a.row[i]);
  }
  a.state = device_bytes(2 * sizeof(int32_t));
  return a;
}
static void free_arrays(struct arrays* a) {
  free_bytes(a->hidden);
  for (int i = 0; i < kOutputs; i++) free_bytes(a->out[i]);
  free_bytes(a->state);
}
/* Random activations; the same for the same seed. */
static void fill_hidden(const cf_model_config* c, const struct arrays* a, cf_dtype dtype, uint32_t seed) {
  const size_t n = (size_t)(kRows * c->hidden_size);
  char* values = malloc(n * 4);
  random_state = seed;
  for (size_t i = 0; i < n; i++) {
    const float value = random_value(i % 53 ? 2.0f : 16.0f);
    uint32_t bits;
    memcpy(&bits, &value, 4);
    const uint16_t half = (uint16_t)(dtype == CF_DTYPE_BF16 ? bits >> 16 : ((bits >> 8) & 0x87ff) | 0x3800);
    if (dtype == CF_DTYPE_F32) memcpy(values + 4 * i, &value, 4);
    else memcpy(values + 2 * i, &half, 2);
  }
  put(a->hidden, values, n * size_of(dtype));
  free(values);
}

static cf_block_options options_of(const struct arrays* a, const struct cache* cache, cf_dtype dtype, cf_dtype kv_dtype, int32_t row, int32_t rows) {
  cf_block_options o;
  CF(cf_block_options_init(&o, sizeof o));
  o.n_rows = rows;
  o.activation_dtype = dtype, o.kv_dtype = kv_dtype;
  o.hidden = (char*)a->hidden + (size_t)row * a->hidden_row;
  void** const out[kOutputs] = {&o.output, &o.attention_output, &o.mlp_activation, &o.new_k, &o.new_v};
  for (int i = 0; i < kOutputs; i++) *out[i] = (char*)a->out[i] + (size_t)row * a->row[i];
  o.k_cache = cache->k, o.v_cache = cache->v;
  o.token_stride = cache->token_stride, o.head_stride = cache->head_stride, o.page_stride = cache->page_stride;
  o.page_tokens = cache->page_tokens, o.page_table = cache->device_table;
  o.kv_capacity_tokens = kCapacity;
  o.position = a->state, o.step_status = a->state + 1;
  o.stream = on_cpu ? NULL : stream;
  return o;
}

static void set_state(const struct arrays* a, int32_t position) {
  const int32_t state[2] = {position, CF_OK};
  put(a->state, state, sizeof state);
}
static void expect_state(const struct arrays* a, int32_t position, cf_status status, const char* what) {
  int32_t state[2];
  get(state, a->state, sizeof state);
  check(state[0] == position && state[1] == status, what);
}
static void expect_same_rows(const struct arrays* a, const struct arrays* b, int32_t rows, const char* what) {
  static const char* const names[kOutputs] = {"output", "attention_output", "mlp_activation", "new_k", "new_v"};
  for (int i = 0; i < kOutputs; i++) {
    const size_t bytes = (size_t)rows * a->row[i];
    char *x = malloc(bytes), *y = malloc(bytes), text[100];
    get(x, a->out[i], bytes);
    get(y, b->out[i], bytes);
    snprintf(text, sizeof text, "%s: %s", what, names[i]);
    check(memcmp(x, y, bytes) == 0, text);
    free(x);
    free(y);
  }
}
static void poison(const struct arrays* a) {
  for (int i = 0; i < kOutputs; i++) {
    if (on_cpu) memset(a->out[i], 0xff, kRows * a->row[i]);
    else CUDA(cudaMemsetAsync(a->out[i], 0xff, kRows * a->row[i], stream));
  }
}

/* ---- Cases */

struct tested {
  cf_model* model;
  cf_model_config config;
  cf_dtype kv_dtype;
};

/* cf_block_forward of `rows` rows from `first` on, and its parts, on a cache of that layout, against what rows one by one gave. */
static void expect_rows(const struct tested* t, cf_dtype dtype, int32_t first, int32_t rows, enum layout layout, const struct arrays* apart) {
  const cf_model_config* c = &t->config;
  struct cache together = make_cache(c, layout), alone = make_cache(c, kTokens), parts = make_cache(c, layout);
  struct arrays a = make_arrays(c, dtype), b = make_arrays(c, dtype);
  int64_t n, n_alone;
  snprintf(name, sizeof name, "head_dim %d, %d rows from %d, dtype %d, %s", c->head_dim, rows, first, dtype, layout_names[layout]);
  fill_hidden(c, &a, dtype, 5);
  fill_hidden(c, &b, dtype, 5);
  fill_cache(c, &together, first, t->kv_dtype);
  fill_cache(c, &parts, first, t->kv_dtype);
  fill_cache(c, &alone, first, t->kv_dtype);
  set_state(&a, first);
  cf_block_options o = options_of(&a, &together, dtype, t->kv_dtype, 0, rows);
  o.advance = 1;
  CF(cf_block_forward(t->model, 0, &o));
  expect_state(&a, first + rows, CF_OK, "position and status");
  expect_same_rows(&a, apart, rows, "rows together and one by one");

  set_state(&b, first);
  o = options_of(&b, &alone, dtype, t->kv_dtype, 0, 1);
  o.attention_output = o.mlp_activation = NULL;
  o.advance = 1;
  for (int32_t row = 0; row < rows; row++) { /* in place */
    o.hidden = o.output = (char*)b.hidden + (size_t)row * b.hidden_row;
    o.new_k = o.new_v = NULL;
    CF(cf_block_forward(t->model, 0, &o));
  }
  uint16_t *x = dense_of(c, &together, &n), *y = dense_of(c, &alone, &n_alone);
  check(memcmp(x, y, 4 * kCapacity * (size_t)(c->n_kv_heads * c->head_dim)) == 0, "keys and values");
  check(n == n_alone && n == 2 * (int64_t)(first + rows) * c->n_kv_heads * c->head_dim, "nothing else in the cache is written");
  free(y);
  expect_same_bytes(b.hidden, a.out[0], (size_t)rows * b.hidden_row, "output in the place of hidden");

  if (dtype == CF_DTYPE_F32) {
    fill_hidden(c, &b, dtype, 5);
    set_state(&b, first);
    o = options_of(&b, &parts, dtype, t->kv_dtype, 0, rows);
    CF(cf_block_attention(t->model, 0, &o));
    o.advance = 1;
    o.k_cache = o.v_cache = NULL;
    CF(cf_block_mlp_down(t->model, 0, &o));
    expect_state(&b, first + rows, CF_OK, "position and status after the parts");
    expect_same_rows(&b, apart, rows, "parts");
    y = dense_of(c, &parts, &n_alone);
    check(memcmp(x, y, 4 * kCapacity * (size_t)(c->n_kv_heads * c->head_dim)) == 0, "keys and values of the parts");
    free(y);
    /* MLP-down in place */
    o.output = (void*)o.hidden;
    o.advance = 0;
    CF(cf_block_mlp_down(t->model, 0, &o));
    expect_same_bytes(b.hidden, b.out[0], (size_t)rows * b.hidden_row, "MLP-down in the place of hidden");
  }
  free(x);
  free_cache(&together);
  free_cache(&alone);
  free_cache(&parts);
  free_arrays(&a);
  free_arrays(&b);
}

static void test_rows(const struct tested* t) {
  static const int32_t firsts[] = {0, 40, 63}, counts[] = {2, 3, 8, 9, 33};
  for (int i = 0; i < 3; i++) {
    const cf_dtype dtype = CF_DTYPE_F32 + i;
    const int32_t first = firsts[i];
    struct cache cache = make_cache(&t->config, kTokens);
    struct arrays apart = make_arrays(&t->config, dtype);
    fill_hidden(&t->config, &apart, dtype, 5);
    fill_cache(&t->config, &cache, first, t->kv_dtype);
    for (int32_t row = 0; row < kRows; row++) {
      set_state(&apart, first + row);
      const cf_block_options o = options_of(&apart, &cache, dtype, t->kv_dtype, row, 1);
      CF(cf_block_forward(t->model, 0, &o));
    }
    expect_state(&apart, first + kRows - 1, CF_OK, "rows one by one");
    for (int k = 0; k < 5; k++)
      for (int layout = 0; layout < kLayouts; layout++)
        if ((layout + k + i) % 2 == 0 || counts[k] == 9) expect_rows(t, dtype, first, counts[k], (enum layout)layout, &apart);
    free_cache(&cache);
    free_arrays(&apart);
  }
}

/* Rows that do not fit, a negative position, a status that is there already: nothing is written, in none of the launches. */
static void test_statuses(const struct tested* t) {
  static const int32_t cases[][4] = {{1, kCapacity, CF_OK, CF_ERROR_CACHE_FULL},       {8, kCapacity - 7, CF_OK, CF_ERROR_CACHE_FULL},
                                     {33, kCapacity - 32, CF_OK, CF_ERROR_CACHE_FULL}, {9, -1, CF_OK, CF_ERROR_INVALID_ARGUMENT},
                                     {9, 0, CF_ERROR_CANCELLED, CF_ERROR_CANCELLED},   {33, kCapacity - 33, CF_OK, CF_OK}};
  for (size_t i = 0; i < sizeof cases / sizeof *cases; i++) {
    const int32_t rows = cases[i][0], position = cases[i][1], before = cases[i][2], expected = cases[i][3];
    struct cache cache = make_cache(&t->config, kHeads);
    struct arrays a = make_arrays(&t->config, CF_DTYPE_F32);
    const int32_t state[2] = {position, before};
    int64_t n_before, n_after;
    snprintf(name, sizeof name, "head_dim %d, %d rows at %d, status %d before", t->config.head_dim, rows, position, before);
    fill_hidden(&t->config, &a, CF_DTYPE_F32, 5);
    fill_cache(&t->config, &cache, kCapacity - 33, t->kv_dtype);
    free(dense_of(&t->config, &cache, &n_before));
    put(a.state, state, sizeof state);
    cf_block_options o = options_of(&a, &cache, CF_DTYPE_F32, t->kv_dtype, 0, rows);
    o.advance = 1;
    CF(cf_block_forward(t->model, 0, &o));
    expect_state(&a, expected == CF_OK ? position + rows : position, expected, "position and status");
    free(dense_of(&t->config, &cache, &n_after));
    uint32_t first_output;
    get(&first_output, a.out[0], sizeof first_output);
    check((n_after != n_before) == (expected == CF_OK) && (first_output != 0xffffffffu) == (expected == CF_OK), "what is written");
    free_cache(&cache);
    free_arrays(&a);
  }
}

/* A captured step of T rows, replayed over moving positions, gives the bits of direct calls; it is a kernel for every eight rows. */
static void test_replay(const struct tested* t, int32_t rows) {
  const cf_model_config* c = &t->config;
  struct cache cache = make_cache(c, kPages16), direct_cache = make_cache(c, kPages3);
  struct arrays a = make_arrays(c, CF_DTYPE_F32), direct = make_arrays(c, CF_DTYPE_F32);
  int32_t first = 20;
  cudaGraph_t graph;
  cudaGraphExec_t executable;
  size_t n_nodes = 0;
  snprintf(name, sizeof name, "head_dim %d, a captured step of %d rows", c->head_dim, rows);
  fill_cache(c, &cache, first, t->kv_dtype);
  fill_cache(c, &direct_cache, first, t->kv_dtype);
  set_state(&a, first);
  cf_block_options o = options_of(&a, &cache, CF_DTYPE_F32, t->kv_dtype, 0, rows);
  CF(cf_block_workspace(t->model, rows, kCapacity, &o.workspace_bytes));
  o.workspace = device_bytes(o.workspace_bytes);
  CUDA(cudaMemsetAsync(o.workspace, 0, o.workspace_bytes, stream));
  CUDA(cudaStreamSynchronize(stream));
  o.advance = 1;
  CUDA(cudaStreamBeginCapture(stream, cudaStreamCaptureModeGlobal));
  CF(cf_block_forward(t->model, 0, &o));
  CUDA(cudaStreamEndCapture(stream, &graph));
  CUDA(cudaGraphGetNodes(graph, NULL, &n_nodes));
  check(n_nodes == (size_t)(rows + 7) / 8, "kernels of the graph");
  CUDA(cudaGraphInstantiate(&executable, graph, 0));
  for (uint32_t step = 0; step < 5; step++, first += rows) {
    fill_hidden(c, &a, CF_DTYPE_F32, step + 1);
    fill_hidden(c, &direct, CF_DTYPE_F32, step + 1);
    poison(&a);
    CUDA(cudaGraphLaunch(executable, stream));
    set_state(&direct, first);
    const cf_block_options d = options_of(&direct, &direct_cache, CF_DTYPE_F32, t->kv_dtype, 0, rows);
    CF(cf_block_forward(t->model, 0, &d));
    expect_same_rows(&a, &direct, rows, "replays and direct calls");
    expect_state(&a, first + rows, CF_OK, "position and status");
  }
  /* A workspace serves calls of fewer rows and other parts in turn. */
  o.n_rows = 1;
  fill_hidden(c, &direct, CF_DTYPE_F32, 9);
  fill_hidden(c, &a, CF_DTYPE_F32, 9);
  set_state(&direct, first);
  const cf_block_options d = options_of(&direct, &direct_cache, CF_DTYPE_F32, t->kv_dtype, 0, 1);
  CF(cf_block_forward(t->model, 0, &d));
  o.advance = 0;
  CF(cf_block_attention(t->model, 0, &o));
  CF(cf_block_mlp_down(t->model, 0, &o));
  expect_same_rows(&a, &direct, 1, "other calls on the same workspace");
  o.n_rows = rows;
  o.workspace_bytes--;
  check(cf_block_forward(t->model, 0, &o) == CF_ERROR_INVALID_ARGUMENT, "a workspace that is too small is refused");
  CUDA(cudaGraphExecDestroy(executable));
  CUDA(cudaGraphDestroy(graph));
  free_bytes(o.workspace);
  free_cache(&cache);
  free_cache(&direct_cache);
  free_arrays(&a);
  free_arrays(&direct);
}

/* The model's own workspace: for caches of up to 32768 positions, with fewer rows in a launch than for small ones. */
static void test_own_workspace(const struct tested* t) {
  const cf_model_config* c = &t->config;
  struct cache cache = make_cache(c, kTokens);
  struct arrays a = make_arrays(c, CF_DTYPE_F32), b = make_arrays(c, CF_DTYPE_F32);
  snprintf(name, sizeof name, "head_dim %d, the model's own workspace", c->head_dim);
  for (int i = 0; i < 2; i++) {
    const struct arrays* of = i ? &b : &a;
    fill_hidden(c, of, CF_DTYPE_F32, 5);
    fill_cache(c, &cache, 60, t->kv_dtype);
    set_state(of, 60);
    cf_block_options o = options_of(of, &cache, CF_DTYPE_F32, t->kv_dtype, 0, 8);
    if (i) o.kv_capacity_tokens = 32768; /* nobody comes that far */
    CF(cf_block_forward(t->model, 0, &o));
    expect_state(of, 60, CF_OK, "position and status");
    o.kv_capacity_tokens = 1 << 30;
    if (!on_cpu) check(cf_block_forward(t->model, 0, &o) == CF_ERROR_INVALID_ARGUMENT, "a larger cache needs a workspace of the caller's");
  }
  expect_same_rows(&a, &b, 8, "a larger capacity");
  free_cache(&cache);
  free_arrays(&a);
  free_arrays(&b);
}

/* Rows go through all layers by block calls; what they leave as keys and values of every layer is in the session that was fed the same
 * tokens, bit for bit. */
static void test_against_session(const struct tested* t) {
  enum { kTokenCount = 70 };
  const cf_model_config* c = &t->config;
  const size_t h = (size_t)c->hidden_size, d = (size_t)c->head_dim, kv = (size_t)c->n_kv_heads * d;
  float *embedding = malloc(kVocab * h * sizeof *embedding), *ones = malloc(h * sizeof *ones), *hidden = malloc(kRows * h * sizeof *hidden);
  int32_t tokens[kTokenCount];
  cf_tensor globals[4];
  size_t n_globals = 3, saved_bytes = 0;
  snprintf(name, sizeof name, "head_dim %d, blocks and a session", c->head_dim);
  random_state = 3;
  for (size_t i = 0; i < kVocab * h; i++) embedding[i] = floorf(random_value(128.0f)) / 64.0f; /* the same in 16 bits */
  for (size_t i = 0; i < h; i++) ones[i] = 1.0f;
  for (int i = 0; i < kTokenCount; i++) tokens[i] = (int32_t)((random_value(1.0f) + 1.0f) * 0.49f * kVocab);
  for (int i = 0; i < 4; i++) {
    static const cf_tensor_role roles[] = {CF_ROLE_EMBEDDING, CF_ROLE_HEAD, CF_ROLE_FINAL_NORM_WEIGHT, CF_ROLE_FINAL_NORM_BIAS};
    CF(cf_tensor_init(&globals[i], sizeof globals[i]));
    globals[i].role = roles[i], globals[i].dtype = CF_DTYPE_F32, globals[i].rank = i < 2 ? 2 : 1;
    globals[i].shape[0] = i < 2 ? kVocab : (int64_t)h, globals[i].shape[1] = i < 2 ? (int64_t)h : 0, globals[i].data = i < 2 ? embedding : ones;
  }
  if (c->norm == CF_NORM_LAYER) n_globals = 4;
  CF(cf_load_globals(t->model, globals, n_globals, NULL));

  cf_session_options options;
  cf_session* session;
  CF(cf_session_options_init(&options, sizeof options));
  options.capacity_tokens = kCapacity, options.kv_dtype = t->kv_dtype;
  CF(cf_session_create(t->model, &options, &session));
  CF(cf_decode_positions(session, tokens, 64, NULL));
  CF(cf_session_wait(session, NULL));
  CF(cf_decode_positions(session, tokens + 64, kTokenCount - 64, NULL));
  CF(cf_session_wait(session, NULL));
  CF(cf_session_save(session, NULL, 0, &saved_bytes));
  char* saved = malloc(saved_bytes);
  CF(cf_session_save(session, saved, saved_bytes, &saved_bytes));
  CF(cf_session_destroy(session));

  struct arrays a = make_arrays(c, CF_DTYPE_F32);
  struct cache caches[4];
  for (int32_t layer = 0; layer < c->n_layers; layer++) caches[layer] = make_cache(c, (enum layout)layer);
  for (int32_t first = 0, rows; first < kTokenCount; first += rows) {
    rows = kTokenCount - first < kRows ? kTokenCount - first : kRows;
    for (int32_t row = 0; row < rows; row++) memcpy(hidden + (size_t)row * h, embedding + (size_t)tokens[first + row] * h, h * sizeof *hidden);
    put(a.hidden, hidden, (size_t)rows * h * sizeof *hidden);
    set_state(&a, first);
    for (int32_t layer = 0; layer < c->n_layers; layer++) {
      cf_block_options o = options_of(&a, &caches[layer], CF_DTYPE_F32, t->kv_dtype, 0, rows);
      o.output = a.hidden;
      CF(cf_block_forward(t->model, layer, &o));
    }
    expect_state(&a, first, CF_OK, "position and status");
  }
  for (int32_t layer = 0; layer < c->n_layers; layer++) {
    int64_t n, missing = 0;
    uint16_t* dense = dense_of(c, &caches[layer], &n);
    for (size_t i = 0; i < 2 * kCapacity * kv; i += d)
      if (i % (kCapacity * kv) < kTokenCount * kv) missing += memmem(saved, saved_bytes, dense + i, d * 2) == NULL;
    char text[100];
    snprintf(text, sizeof text, "keys and values of layer %d: %d are not the session's", layer, (int)missing);
    check(missing == 0, text);
    free(dense);
    free_cache(&caches[layer]);
  }
  free_arrays(&a);
  free(saved);
  free(hidden);
  free(embedding);
  free(ones);
}

/* A neighbour wipes out what CTAs tell each other: they wait for what nobody will say any more, and not for ever. */
static void test_wait_limit(void) {
  cf_context_options options;
  cf_context* context;
  cf_model* model;
  cudaStream_t neighbour;
  cf_model_config c = make_config(CF_FAMILY_LLAMA, 6, 2, 128, 384, 1104, 1);
  snprintf(name, sizeof name, "a wait that never ends");
  CF(cf_context_options_init(&options, sizeof options));
  options.device_kind = CF_DEVICE_CUDA, options.device_wait_limit_ms = 20;
  CF(cf_context_create(&options, &context));
  CF(cf_model_create(context, &c, NULL, &model));
  load(model, &c, 0, 1, stream);
  CUDA(cudaStreamCreateWithFlags(&neighbour, cudaStreamNonBlocking));
  struct cache cache = make_cache(&c, kTokens);
  struct arrays a = make_arrays(&c, CF_DTYPE_F32), b = make_arrays(&c, CF_DTYPE_F32);
  int32_t state[2] = {0, CF_OK};
  fill_hidden(&c, &a, CF_DTYPE_F32, 5);
  fill_hidden(&c, &b, CF_DTYPE_F32, 5);
  set_state(&b, 0);
  cf_block_options o = options_of(&b, &cache, CF_DTYPE_F32, CF_DTYPE_F16, 0, 8);
  CF(cf_block_forward(model, 0, &o));
  o = options_of(&a, &cache, CF_DTYPE_F32, CF_DTYPE_F16, 0, 8);
  CF(cf_block_workspace(model, 8, kCapacity, &o.workspace_bytes));
  o.workspace = device_bytes(o.workspace_bytes);
  CUDA(cudaMemset(o.workspace, 0, o.workspace_bytes));
  set_state(&a, 0);
  o.advance = 1;
  for (int i = 0; i < 1000 && state[1] == CF_OK; i++) {
    const int32_t start[2] = {0, CF_OK};
    CUDA(cudaMemcpyAsync(a.state, start, sizeof start, cudaMemcpyHostToDevice, stream));
    for (int k = 0; k < 8; k++) CF(cf_block_forward(model, 0, &o));
    for (int k = 0; k < 40; k++) /* words lie last; before them is what a launch begins with */
      CUDA(cudaMemsetAsync((char*)o.workspace + o.workspace_bytes / 2, 0, o.workspace_bytes / 2, neighbour));
    get(state, a.state, sizeof state);
    CUDA(cudaStreamSynchronize(neighbour));
  }
  check(state[1] == CF_ERROR_DEVICE_LOST, "ends in CF_ERROR_DEVICE_LOST");
  check(state[0] % 8 == 0 && state[0] < 64, "the call that failed does not advance");
  set_state(&a, 0);
  CF(cf_block_forward(model, 0, &o));
  expect_state(&a, 0, CF_ERROR_DEVICE_LOST, "nor does any later one");
  CUDA(cudaMemsetAsync(o.workspace, 0, o.workspace_bytes, stream));
  set_state(&a, 0);
  CF(cf_block_forward(model, 0, &o));
  expect_state(&a, 8, CF_OK, "with a workspace zeroed again calls succeed");
  expect_same_rows(&a, &b, 8, "and give the same bits");
  free_bytes(o.workspace);
  free_cache(&cache);
  free_arrays(&a);
  free_arrays(&b);
  CUDA(cudaStreamDestroy(neighbour));
  CF(cf_model_destroy(model));
  CF(cf_context_destroy(context));
}

/* A layer with matrices of both 16-bit formats. */
static void test_mixed_layer(cf_context* context) {
  cf_model_config c = make_config(CF_FAMILY_LLAMA, 2, 1, 64, 128, 64, 1);
  cf_model* model;
  CF(cf_model_create(context, &c, NULL, &model));
  mixed_dtypes = 1;
  load(model, &c, 0, 1, stream);
  mixed_dtypes = 0;
  struct cache cache = make_cache(&c, kTokens);
  struct arrays a = make_arrays(&c, CF_DTYPE_F32);
  const cf_block_options o = options_of(&a, &cache, CF_DTYPE_F32, CF_DTYPE_F16, 0, 1);
  snprintf(name, sizeof name, "a layer with F16 and BF16 matrices");
  check(cf_block_forward(model, 0, &o) == CF_ERROR_UNSUPPORTED, "is refused");
  free_cache(&cache);
  free_arrays(&a);
  CF(cf_model_destroy(model));
}

static void test_model(cf_context* context, cf_model_config c, cf_dtype weight_dtype, cf_dtype kv_dtype) {
  struct tested t = {NULL, c, kv_dtype};
  cf_model_options options;
  CF(cf_model_options_init(&options, sizeof options));
  options.weight_dtype = weight_dtype;
  CF(cf_model_create(context, &c, &options, &t.model));
  for (int32_t layer = 0; layer < c.n_layers; layer++) load(t.model, &c, layer, (uint32_t)layer + 1, stream);
  const int before = n_failed;
  test_rows(&t);
  test_statuses(&t);
  test_own_workspace(&t);
  test_against_session(&t);
  if (!on_cpu) test_replay(&t, 1);
  if (!on_cpu) test_replay(&t, 9);
  CF(cf_model_destroy(t.model));
  printf("head_dim %d, hidden_size %d, %d:%d heads, weights %d, KV %d: %s\n", c.head_dim, c.hidden_size, c.n_heads, c.n_kv_heads, weight_dtype,
         kv_dtype, n_failed == before ? "ok" : "FAILED");
}

int main(int argc, char** argv) {
  cf_context_options options;
  cf_context* context;
  on_cpu = argc > 1 && strcmp(argv[1], "cpu") == 0;
  CF(cf_context_options_init(&options, sizeof options));
  options.device_kind = on_cpu ? CF_DEVICE_CPU : CF_DEVICE_CUDA;
  CF(cf_context_create(&options, &context));
  if (!on_cpu) CUDA(cudaStreamCreateWithFlags(&stream, cudaStreamNonBlocking));
  cf_model_config sequential = make_config(CF_FAMILY_GPT_NEOX, 4, 4, 64, 256, 528, 3);
  sequential.parallel_residual = 0, sequential.activation = CF_ACTIVATION_GELU_TANH;
  cf_model_config without_biases = make_config(CF_FAMILY_GPT_NEOX, 4, 4, 80, 320, 1280, 3);
  without_biases.attention_bias = without_biases.mlp_bias = 0;
  test_model(context, make_config(CF_FAMILY_GPT_NEOX, 3, 3, 32, 96, 208, 3), CF_DTYPE_F16, CF_DTYPE_F16);
  test_model(context, sequential, CF_DTYPE_BF16, CF_DTYPE_BF16);
  test_model(context, without_biases, CF_DTYPE_F16, CF_DTYPE_BF16);
  test_model(context, make_config(CF_FAMILY_GPT_NEOX, 3, 3, 80, 240, 976, 3), CF_DTYPE_BF16, CF_DTYPE_F16);
  test_model(context, make_config(CF_FAMILY_LLAMA, 4, 2, 96, 112, 304, 3), CF_DTYPE_F16, CF_DTYPE_F16);
  test_model(context, make_config(CF_FAMILY_LLAMA, 6, 2, 128, 384, 1104, 3), CF_DTYPE_BF16, CF_DTYPE_F16);
  test_model(context, make_config(CF_FAMILY_LLAMA, 2, 1, 256, 512, 272, 3), CF_DTYPE_F16, CF_DTYPE_F16);
  if (!on_cpu) test_mixed_layer(context);
  if (!on_cpu) test_wait_limit();
  if (!on_cpu) CUDA(cudaStreamDestroy(stream));
  CF(cf_context_destroy(context));
  printf("%d of %d checks failed\n", n_failed, n_checks);
  return n_failed != 0;
}
