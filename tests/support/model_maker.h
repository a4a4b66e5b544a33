/* Tiny models made in memory, through cf_model_create and the loading calls. What goes wrong here ends the test program. */
#ifndef MODEL_MAKER_H
#define MODEL_MAKER_H

#include "checkpoint_writer.h"

#ifdef __cplusplus
extern "C" {
#endif

/* The description that the model's config.json would give. */
cf_model_config describe_model(const struct tiny_model* model);

enum { GLOBALS = -1, MAX_DESCRIPTORS = 20 };
/* Descriptors of the tensors of a layer, or of GLOBALS, whose bytes stay in `list`. Returns how many. */
size_t describe_tensors(const struct tiny_model* model, const struct tensor_list* list, int layer, cf_tensor* descriptors);

/* options NULL: the defaults. */
cf_model* make_model_of(cf_context* context, const struct tiny_model* model, const struct tensor_list* list, const cf_model_options* options);
cf_model* make_model(cf_context* context, const struct tiny_model* model);

/* Tokens that depend on the seed only. */
void fill_tokens(int32_t* tokens, size_t n, int vocab_size, uint64_t seed);

#ifdef __cplusplus
}
#endif

#endif
