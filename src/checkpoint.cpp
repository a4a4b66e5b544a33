#include "checkpoint.h"

#include <dirent.h>
#include <sys/stat.h>

#include <algorithm>
#include <map>
#include <set>

#include "config_json.h"
#include "error.h"
#include "family.h"
#include "json.h"
#include "model_config.h"
#include "safetensors.h"
#include "weights.h"

namespace cf {

namespace {

constexpr const char* kSingleFile = "model.safetensors";
constexpr const char* kIndexFile = "model.safetensors.index.json";
constexpr uint64_t kMaxIndexBytes = kMaxHeaderBytes;
constexpr size_t kMaxShardNameBytes = 255;

struct StoredTensor {
  SafetensorsEntry entry;
  const File* file;
  bool used = false;
};
using StoredTensors = std::map<std::string, StoredTensor>;  // by name

bool exists(const std::string& path) {  // a dangling link does, so that opening it says what is wrong
  struct stat status;
  return lstat(path.c_str(), &status) == 0;
}

// PyTorch's own format, which is a program rather than data.
std::string find_bin_file(const std::string& directory) {
  std::string found;
  DIR* listing = opendir(directory.c_str());
  if (!listing) return found;
  try {
    while (const dirent* entry = readdir(listing)) {
      std::string name = entry->d_name;
      if (name.ends_with(".bin") && (found.empty() || name < found)) found = std::move(name);
    }
  } catch (...) {
    closedir(listing);
    throw;
  }
  closedir(listing);
  return found;
}

[[noreturn]] void fail_without_weights(const std::string& directory) {
  const std::string bin = find_bin_file(directory);
  if (bin.empty()) fail(CF_ERROR_IO, directory, " holds no weights: neither ", kSingleFile, " nor ", kIndexFile);
  fail(CF_ERROR_UNSUPPORTED, directory, " holds its weights as ", quote(bin), ", which is not read; convert it to safetensors with transformers: ",
       "AutoModelForCausalLM.from_pretrained(directory).save_pretrained(new_directory, safe_serialization=True)");
}

const File& open_file(Checkpoint& checkpoint, const std::string& path) {
  checkpoint.files.push_back(std::make_unique<File>(path));
  return *checkpoint.files.back();
}

void add_tensors(const File& file, StoredTensors& stored) {
  for (SafetensorsEntry& entry : read_safetensors(file)) {
    std::string name = entry.name;
    auto [at, added] = stored.try_emplace(std::move(name), StoredTensor{std::move(entry), &file});
    if (!added) fail(CF_ERROR_INVALID_FILE, "tensor ", quote(at->first), " is in two shards, ", at->second.file->path(), " and ", file.path());
  }
}

bool is_plain_file_name(const std::string& name) {
  return !name.empty() && name != "." && name != ".." && name.size() <= kMaxShardNameBytes &&
         name.find_first_of(std::string_view("/\\\0", 3)) == std::string::npos;
}

// weight_map of the index: the shard of each tensor.
std::map<std::string, std::string> read_index(const std::string& path) {
  const Json json = parse_json(read_text(path, kMaxIndexBytes), path);
  const Json* weight_map = json.find("weight_map");
  if (!weight_map) fail(CF_ERROR_INVALID_FILE, path, ": weight_map is missing");
  if (!weight_map->object()) fail(CF_ERROR_INVALID_FILE, path, ": weight_map is ", weight_map->kind(), ", expected an object");
  std::map<std::string, std::string> shard_of;
  for (const auto& [tensor, shard] : *weight_map->object()) {
    if (!shard.string())
      fail(CF_ERROR_INVALID_FILE, path, ": weight_map gives ", shard.kind(), " for tensor ", quote(tensor), ", expected a file name");
    if (!is_plain_file_name(*shard.string()))
      fail(CF_ERROR_INVALID_FILE, path, ": the shard ", quote(*shard.string()), " of tensor ", quote(tensor), " is not a plain file name");
    shard_of.emplace(tensor, *shard.string());
  }
  if (shard_of.empty()) fail(CF_ERROR_INVALID_FILE, path, ": weight_map is empty");
  return shard_of;
}

StoredTensors open_shards(const std::string& directory, const std::string& index_path, Checkpoint& checkpoint) {
  const auto shard_of = read_index(index_path);
  std::set<std::string> shards;
  for (const auto& [tensor, shard] : shard_of) shards.insert(shard);
  StoredTensors stored;
  for (const std::string& shard : shards) {
    const std::string path = text(directory, "/", shard);
    if (!exists(path)) fail(CF_ERROR_IO, index_path, ": the shard ", quote(shard), " is missing");
    add_tensors(open_file(checkpoint, path), stored);
  }
  for (const auto& [tensor, shard] : shard_of) {
    auto at = stored.find(tensor);
    const std::string path = text(directory, "/", shard);
    if (at == stored.end()) fail(CF_ERROR_INVALID_FILE, path, ": tensor ", quote(tensor), " is missing, though ", kIndexFile, " lists it there");
    if (at->second.file->path() != path)
      fail(CF_ERROR_INVALID_FILE, index_path, ": lists tensor ", quote(tensor), " in ", quote(shard), ", but it is in ", at->second.file->path());
  }
  for (const auto& [name, tensor] : stored)
    if (!shard_of.count(name)) fail(CF_ERROR_INVALID_FILE, tensor.file->path(), ": tensor ", quote(name), " is not listed in ", kIndexFile);
  return stored;
}

// path: of the file that says which tensors there are.
StoredTensors open_weights(const std::string& directory, Checkpoint& checkpoint, std::string& path) {
  path = text(directory, "/", kSingleFile);
  if (exists(path)) {  // transformers, too, prefers it to an index
    StoredTensors stored;
    add_tensors(open_file(checkpoint, path), stored);
    return stored;
  }
  path = text(directory, "/", kIndexFile);
  if (exists(path)) return open_shards(directory, path, checkpoint);
  fail_without_weights(directory);
}

// The tensor of a role, checked against the shape that the configuration asks for.
Tensor make_tensor(cf_tensor_role role, const Placement& place, StoredTensor& stored) {
  const Shape& shape = place.shape;
  const SafetensorsEntry& e = stored.entry;
  const std::string where = text(stored.file->path(), ": tensor ", quote(e.name));
  constexpr cf_dtype kDtypes[] = {CF_DTYPE_F32, CF_DTYPE_F16, CF_DTYPE_BF16};
  auto dtype = std::find_if(std::begin(kDtypes), std::end(kDtypes), [&](cf_dtype d) { return std::string_view(dtype_name(d)) == e.dtype; });
  if (dtype == std::end(kDtypes)) fail(CF_ERROR_INVALID_FILE, where, " has dtype ", e.dtype, ", expected F16, BF16 or F32");
  std::vector<uint64_t> expected = {uint64_t(shape.rows)};
  if (is_matrix(place.slot)) expected.push_back(uint64_t(shape.cols));
  if (e.shape != expected) fail(CF_ERROR_INVALID_FILE, where, " has shape ", list_text(e.shape), ", expected ", list_text(expected));
  stored.used = true;

  Tensor tensor{};
  tensor.role = role;
  tensor.dtype = *dtype;
  tensor.rows = shape.rows;
  tensor.cols = shape.cols;
  tensor.name = e.name;
  tensor.stride_bytes = uint64_t(shape.cols) * dtype_bytes(*dtype);
  tensor.file = stored.file;
  tensor.offset_bytes = e.begin;
  return tensor;
}

// Takes the tensors that the configuration asks for, by the names that the family gives them.
std::vector<Tensor> take_tensors(const std::string& path, const cf_model_config& config, std::span<const TensorName> names, const std::string& prefix,
                                 StoredTensors& stored) {
  std::vector<Tensor> taken;
  for (size_t i = 0; i < names.size(); i++) {
    const cf_tensor_role role = names[i].role;
    const Placement place = placement(config, role);
    if (place.shape.rows == 0) continue;
    const bool alternative_follows = i + 1 < names.size() && names[i + 1].role == role;
    const bool have = !taken.empty() && taken.back().role == role;
    auto at = stored.find(prefix + names[i].name);
    if (at == stored.end()) {
      if (have || alternative_follows) continue;
      std::string wanted = quote(prefix + names[i].name);
      if (i > 0 && names[i - 1].role == role) wanted = text(quote(prefix + names[i - 1].name), " or ", wanted);
      fail(CF_ERROR_INVALID_FILE, path, ": tensor ", wanted, " is missing");
    }
    if (have) fail(CF_ERROR_INVALID_FILE, path, ": tensors '", taken.back().name, "' and ", quote(at->first), " are the same one of the model twice");
    taken.push_back(make_tensor(role, place, at->second));
  }
  return taken;
}

// A model with tied embeddings may still come with a head. A copy is skipped; one that differs means something else to old and
// new versions of transformers, so it is refused.
void check_tied_head(const Family& family, const Tensor& embedding, const StoredTensors& stored) {
  for (const TensorName& name : family.global_tensors) {
    const auto at = name.role == CF_ROLE_HEAD ? stored.find(name.name) : stored.end();
    if (at == stored.end()) continue;
    const auto& [entry, file, used] = at->second;
    const uint64_t bytes = entry.end - entry.begin;
    constexpr uint64_t kPieceBytes = 1 << 20;
    std::vector<char> head(kPieceBytes), same(kPieceBytes);
    bool equal = std::string_view(dtype_name(embedding.dtype)) == entry.dtype &&
                 entry.shape == std::vector<uint64_t>{uint64_t(embedding.rows), uint64_t(embedding.cols)};
    for (uint64_t done = 0; equal && done < bytes; done += kPieceBytes) {
      const uint64_t piece = std::min(kPieceBytes, bytes - done);
      file->read(entry.begin + done, head.data(), piece);
      embedding.file->read(embedding.offset_bytes + done, same.data(), piece);
      equal = std::equal(head.begin(), head.begin() + int64_t(piece), same.begin());
    }
    if (!equal)
      fail(CF_ERROR_UNSUPPORTED, file->path(), ": tensor ", quote(entry.name),
           " differs from the embedding although config.json says tie_word_embeddings; set it to false, or remove the tensor");
  }
}

}  // namespace

Checkpoint open_checkpoint(const std::string& directory) {
  Checkpoint checkpoint;
  checkpoint.config = read_config(directory);
  const cf_model_config& config = checkpoint.config;
  const Family& family = family_of(config);
  std::string path;
  StoredTensors stored = open_weights(directory, checkpoint, path);
  for (int32_t layer = 0; layer < config.n_layers; layer++)
    checkpoint.layers.push_back(take_tensors(path, config, family.layer_tensors, text(family.layer_prefix, layer, "."), stored));
  checkpoint.globals = take_tensors(path, config, family.global_tensors, "", stored);
  try {  // what remains: matrices that share a slot but not a dtype
    for (const auto& layer : checkpoint.layers) check_layer_tensors(config, layer, CF_ERROR_INVALID_FILE);
    check_global_tensors(config, checkpoint.globals, CF_ERROR_INVALID_FILE);
  } catch (Error& error) {
    fail(error.status, path, ": ", error.message);
  }
  if (config.tied_embeddings) {
    const auto is_embedding = [](const Tensor& t) { return t.role == CF_ROLE_EMBEDDING; };
    check_tied_head(family, *std::find_if(checkpoint.globals.begin(), checkpoint.globals.end(), is_embedding), stored);
  }
  for (const auto& [name, tensor] : stored)
    if (!tensor.used) checkpoint.unused.push_back(printable(name));
  for (const auto& file : checkpoint.files) file->check_size();
  return checkpoint;
}

}  // namespace cf
