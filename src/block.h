// The block-level calls: checks that hold for every backend.
#pragma once

#include "backend.h"
#include "clusterfusion.h"

namespace cf {

class Model;

constexpr int32_t kMaxBlockRows = 64;

void check_block_capacity(int64_t kv_capacity_tokens, const char* name);

// Throws what can be known from the arguments, then lets the backend run the block.
void run_block(const Model& model, BlockPart part, int32_t layer, const cf_block_options& options);

}  // namespace cf
