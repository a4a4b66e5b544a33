/* score DIR FILE - how likely a model finds a text: the log-probability of every token, and the perplexity of all. The text is read in
 * overlapping windows, so that most tokens are predicted from at least WINDOW - STRIDE tokens before them. */
#include <clusterfusion.h>
#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { BYTE_VOCABULARY = 256 };

static const char usage[] =
    "usage: score DIR FILE [--ids] [--window N] [--stride N] [--each]\n"
    "  FILE     text, for a model whose tokens are bytes; with --ids, token ids with spaces, commas or newlines between them\n"
    "  --window tokens read at once, at most the model's context (default: that); --stride tokens from one to the next (half of it)\n"
    "  --each   a line for every token: its place, its id, its log-probability\n";

static void die(const char* what, const char* name) {
  fprintf(stderr, "score: %s%s\n%s", what, name, usage);
  exit(2);
}

/* Every call of the library goes through here. */
static void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1024];
  cf_last_error(sentence, sizeof sentence, NULL);
  fprintf(stderr, "score: %s: %s\n", cf_status_name(status), sentence);
  exit(1);
}

/* The file's tokens, to be freed. */
static int32_t* read_tokens(const char* path, int as_ids, size_t* n) {
  FILE* file = strcmp(path, "-") ? fopen(path, "rb") : stdin;
  if (!file) die("cannot open ", path);
  size_t room = 0;
  int32_t* tokens = NULL;
  for (*n = 0;; (*n)++) {
    if (*n == room) tokens = realloc(tokens, (room = room * 2 + 4096) * sizeof *tokens);
    if (!tokens) die("out of memory for ", path);
    int c = getc(file);
    if (!as_ids && c != EOF) tokens[*n] = c;
    while (as_ids && (c == ' ' || c == ',' || c == '\n' || c == '\r' || c == '\t')) c = getc(file);
    if (c == EOF) break;
    if (as_ids) {
      ungetc(c, file);
      int64_t id;
      if (fscanf(file, "%18" SCNd64, &id) != 1 || id < 0 || id > INT32_MAX) die("not a list of token ids: ", path);
      tokens[*n] = (int32_t)id;
    }
  }
  if (ferror(file)) die("cannot read ", path);
  if (file != stdin) fclose(file);
  return tokens;
}

static long number(const char* text, const char* name) {
  char* end;
  const long value = text ? strtol(text, &end, 10) : 0;
  if (!text || end == text || *end || value < 1 || value > INT32_MAX) die("expected a positive number after ", name);
  return value;
}

int main(int argc, char** argv) {
  const char *directory = NULL, *path = NULL;
  long window = 0, stride = 0;
  int as_ids = 0, each = 0;
  for (int i = 1; i < argc; i++) {
    if (!strcmp(argv[i], "--ids")) as_ids = 1;
    else if (!strcmp(argv[i], "--each")) each = 1;
    else if (!strcmp(argv[i], "--window")) window = number(argv[i + 1], "--window"), i++;
    else if (!strcmp(argv[i], "--stride")) stride = number(argv[i + 1], "--stride"), i++;
    else if (!strncmp(argv[i], "--", 2)) die("there is no option ", argv[i]);
    else if (!directory) directory = argv[i];
    else if (!path) path = argv[i];
    else die("one argument too many: ", argv[i]);
  }
  if (!path) die("which directory, and which file?", "");

  cf_context* context;
  cf_model* model;
  cf_model_config config;
  check(cf_context_create(NULL, &context));
  check(cf_model_load(context, directory, NULL, &model));
  check(cf_model_config_init(&config, sizeof config));
  check(cf_model_get_config(model, &config));
  if (!as_ids && config.vocab_size != BYTE_VOCABULARY)
    die("this model's tokens are not bytes: pass --ids and the ids that its tokenizer makes of ", path);
  if (!window) window = config.max_position_embeddings;
  if (window > config.max_position_embeddings) die("--window is longer than the model's context", "");
  if (!stride) stride = window > 1 ? window / 2 : 1;
  if (window < 2 || stride >= window) die("--stride must be shorter than --window: the first token of a window is not predicted in it", "");
  size_t n;
  int32_t* tokens = read_tokens(path, as_ids, &n);
  if (n < 2) die("nothing to score: fewer than two tokens in ", path);

  cf_session* session;
  cf_session_options session_options;
  check(cf_session_options_init(&session_options, sizeof session_options));
  session_options.capacity_tokens = window;
  check(cf_session_create(model, &session_options, &session));
  int32_t* targets = calloc((size_t)window, sizeof *targets);
  float* logprobs = calloc((size_t)window, sizeof *logprobs);
  if (!targets || !logprobs) die("out of memory for the window", "");
  cf_outputs outputs;
  cf_step_options options;
  check(cf_outputs_init(&outputs, sizeof outputs));
  outputs.rows = CF_ROWS_ALL;
  outputs.targets = targets;
  outputs.target_logprobs = logprobs;
  check(cf_step_options_init(&options, sizeof options));
  options.sample = 0;
  options.outputs = &outputs;

  double total = 0;
  size_t n_scored = 0;
  size_t first = 1; /* not scored yet; nothing predicts token 0 */
  for (size_t begin = 0; first < n; begin += (size_t)stride) {
    const size_t end = begin + (size_t)window < n ? begin + (size_t)window : n;
    /* Row r has read token begin + r and predicts the next one; -1: scored by the window before, or not there. */
    for (size_t r = 0; r < end - begin; r++) targets[r] = begin + r + 1 < first || begin + r + 1 >= end ? -1 : tokens[begin + r + 1];
    check(cf_session_truncate(session, 0));
    check(cf_prefill(session, tokens + begin, end - begin, &options));
    check(cf_session_wait(session, NULL));
    for (size_t r = 0; r < end - begin; r++) {
      if (targets[r] < 0) continue;
      total += logprobs[r];
      n_scored++;
      if (each) printf("%zu %" PRId32 " %.6f\n", begin + r + 1, targets[r], logprobs[r]);
    }
    first = end;
  }
  const double mean = total / (double)n_scored;
  printf("%zu tokens, log-likelihood %.4f, %.4f bits a token, perplexity %.4f\n", n_scored, total, -mean / log(2.0), exp(-mean));

  free(targets);
  free(logprobs);
  free(tokens);
  check(cf_session_destroy(session));
  check(cf_model_destroy(model));
  check(cf_context_destroy(context));
  return 0;
}
