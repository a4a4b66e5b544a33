// A Hugging Face checkpoint directory, opened and checked: its configuration and, by role and layer, its tensors.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "clusterfusion.h"
#include "file.h"
#include "tensor.h"

namespace cf {

struct Checkpoint {
  cf_model_config config;
  std::vector<std::unique_ptr<File>> files;  // that the tensors point into
  std::vector<std::vector<Tensor>> layers;   // every role that the configuration asks for, once
  std::vector<Tensor> globals;
  std::vector<std::string> unused;  // names of tensors in the files that the model does not use
};

// Checks all files and tensors against format and configuration before any weight is read. Throws CF_ERROR_IO, _INVALID_FILE or _UNSUPPORTED.
Checkpoint open_checkpoint(const std::string& directory);

}  // namespace cf
