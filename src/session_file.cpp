// The format of a saved session, all numbers little-endian:
//
//   8 bytes   "CFSESSN\n"
//   u32       format version, kVersion
//   u32       dtype of keys and values, as cf_dtype
//   u64       fingerprint of the model
//   u64       bytes in all, checksum included
//   i64       position
//   u32       1 if a token is pending
//   u32       positions per page, P
//   sampler   f32 temperature, top_p, min_p, repetition_penalty; i32 top_k; u32 0; u64 seed;
//             u64 n, n x i32 biased tokens, n x f32 biases; u64 n, n x i32 stop tokens; u64 n, n x u32 words of the mask
//   tokens    (position + pending) x i32
//   pages     ceil(position / P) pages as kv_pool.h lays them out; positions beyond the last one are zero
//   u64       checksum: Fingerprint over everything before it, in the pieces in which it is listed here
//
// The host is little-endian, as every platform of the library is; values are copied as they are.

#include "session_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <bit>
#include <cerrno>
#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <memory>
#include <system_error>
#include <utility>
#include <vector>

#include "backend.h"
#include "checked.h"
#include "file.h"
#include "fingerprint.h"
#include "half.h"
#include "handles.h"
#include "model_config.h"

namespace cf {

static_assert(std::endian::native == std::endian::little);

namespace {

constexpr char kMagic[8] = {'C', 'F', 'S', 'E', 'S', 'S', 'N', '\n'};
constexpr uint32_t kVersion = 1;

struct Header {
  char magic[8];
  uint32_t version, kv_dtype;
  uint64_t fingerprint, total_bytes;
  int64_t position;
  uint32_t pending, page_tokens;
};
static_assert(sizeof(Header) == 48);

struct SamplerNumbers {
  float temperature, top_p, min_p, repetition_penalty;
  int32_t top_k;
  uint32_t zero;
  uint64_t seed;
};
static_assert(sizeof(SamplerNumbers) == 32);

uint64_t fingerprint_of(const Model& model) {
  cf_model_info info{};
  model.query(info);
  return info.fingerprint;
}

// ---- Writing

class Sink {
 public:
  virtual ~Sink() = default;
  virtual void write(const void* data, uint64_t bytes) = 0;
};

class CountingSink : public Sink {
 public:
  void write(const void*, uint64_t bytes) override { total_ = add(total_, bytes); }
  uint64_t total() const { return total_; }

 private:
  uint64_t total_ = 0;
};

class BufferSink : public Sink {
 public:
  explicit BufferSink(void* buffer) : next_(static_cast<std::byte*>(buffer)) {}
  void write(const void* data, uint64_t bytes) override {
    if (bytes) std::memcpy(next_, data, bytes);  // an empty array has no address
    next_ += bytes;
  }

 private:
  std::byte* next_;
};

std::string reason(int error) { return std::generic_category().message(error); }

// A new file that vanishes unless it is committed.
class FileSink : public Sink {
 public:
  explicit FileSink(const std::string& path) : path_(target_of(path)), temporary_(path_ + ".partial") {
    struct stat before {};
    const bool replaces = stat(path_.c_str(), &before) == 0;
    if (replaces && !S_ISREG(before.st_mode)) fail(CF_ERROR_IO, path, " is there and is not a regular file");
    // A session holds its user's text: as private as the file it replaces, otherwise the owner's alone.
    descriptor_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (descriptor_ < 0) fail(CF_ERROR_IO, "cannot create ", temporary_, ": ", reason(errno));
    if (replaces && fchmod(descriptor_, before.st_mode & 07777) != 0) {
      const int error = errno;
      close(descriptor_);
      unlink(temporary_.c_str());
      fail(CF_ERROR_IO, "cannot give ", temporary_, " the mode of ", path, ": ", reason(error));
    }
  }
  ~FileSink() override {
    if (descriptor_ >= 0) close(descriptor_);
    if (!committed_) unlink(temporary_.c_str());
  }
  void write(const void* data, uint64_t bytes) override {
    auto next = static_cast<const std::byte*>(data);
    while (bytes > 0) {
      const ssize_t n = ::write(descriptor_, next, size_t(std::min<uint64_t>(bytes, 1 << 30)));
      if (n < 0 && errno == EINTR) continue;
      if (n < 0) fail(CF_ERROR_IO, "cannot write ", temporary_, ": ", reason(errno));
      next += n;
      bytes -= uint64_t(n);
    }
  }
  void commit() {
    const bool written = fsync(descriptor_) == 0;
    const bool closed = close(std::exchange(descriptor_, -1)) == 0;
    if (!written || !closed) fail(CF_ERROR_IO, "cannot write ", temporary_, ": ", reason(errno));
    if (std::rename(temporary_.c_str(), path_.c_str())) fail(CF_ERROR_IO, "cannot rename ", temporary_, " to ", path_, ": ", reason(errno));
    committed_ = true;
  }

 private:
  // What a symbolic link leads to, so that the link stays.
  static std::string target_of(const std::string& path) {
    const std::unique_ptr<char, decltype(&std::free)> resolved(realpath(path.c_str(), nullptr), &std::free);
    return resolved ? resolved.get() : path;
  }

  const std::string path_, temporary_;
  int descriptor_;
  bool committed_ = false;
};

// Adds everything that goes to the sink to the checksum.
class Writer {
 public:
  explicit Writer(Sink& sink) : sink_(sink) {}
  void bytes(const void* data, uint64_t n) {
    checksum_.add(data, n);
    sink_.write(data, n);
  }
  template <class T>
  void value(const T& v) {
    bytes(&v, sizeof v);
  }
  template <class T>
  void array(const T* data, uint64_t n) {
    value(n);
    bytes(data, n * sizeof(T));
  }
  void finish() {
    const uint64_t checksum = checksum_.value();
    sink_.write(&checksum, sizeof checksum);
  }

 private:
  Sink& sink_;
  Fingerprint checksum_;
};

// Zeroes the positions `from` ... of a page on the host.
void clear_tail(const cf_model_config& c, cf_dtype dtype, int64_t page_tokens, int64_t from, std::byte* page) {
  const size_t head = size_t(page_tokens * c.head_dim) * dtype_bytes(dtype), kept = size_t(from * c.head_dim) * dtype_bytes(dtype);
  for (int64_t block = 0; block < int64_t(c.n_layers) * 2 * c.n_kv_heads; block++) std::memset(page + size_t(block) * head + kept, 0, head - kept);
}

void write_session(const Session::Saved& s, uint64_t total_bytes, bool with_pages, Writer& out) {
  const KvPool& pool = *s.pool;
  Header header{{}, kVersion, uint32_t(pool.kv_dtype()), s.fingerprint, total_bytes, s.state.position, s.state.pending, uint32_t(pool.page_tokens())};
  std::memcpy(header.magic, kMagic, sizeof kMagic);
  out.value(header);
  const cf_sampler_options o = s.sampler->options();
  out.value(SamplerNumbers{o.temperature, o.top_p, o.min_p, o.repetition_penalty, o.top_k, 0, o.seed});
  out.value(uint64_t(o.n_logit_biases));
  out.bytes(o.logit_bias_tokens, o.n_logit_biases * sizeof(int32_t));
  out.bytes(o.logit_bias_values, o.n_logit_biases * sizeof(float));
  out.array(o.stop_tokens, o.n_stop_tokens);
  out.array(s.sampler->allowed().data(), s.sampler->allowed().size());
  out.bytes(s.state.tokens.data(), s.state.tokens.size() * sizeof(int32_t));
  if (!with_pages) return;
  std::vector<std::byte> page(pool.page_bytes());
  const int64_t pages = pool.pages_for(s.state.position);
  for (int64_t i = 0; i < pages; i++) {
    s.backend->copy_to_host(page.data(), pool.page_address(s.table->pages[size_t(i)]), page.size());
    const int64_t used = std::min<int64_t>(pool.page_tokens(), s.state.position - i * pool.page_tokens());
    clear_tail(pool.config(), pool.kv_dtype(), pool.page_tokens(), used, page.data());
    out.bytes(page.data(), page.size());
  }
}

uint64_t size_of(const Session::Saved& s) {
  CountingSink counter;
  Writer writer(counter);
  write_session(s, 0, false, writer);
  return add(counter.total(), mul(uint64_t(s.pool->pages_for(s.state.position)), s.pool->page_bytes()), sizeof(uint64_t));
}

// ---- Reading

class Source {
 public:
  virtual ~Source() = default;
  virtual uint64_t size_bytes() const = 0;
  virtual void read(uint64_t offset, void* dst, uint64_t bytes) const = 0;  // within size_bytes()
};

class BufferSource : public Source {
 public:
  BufferSource(const void* data, uint64_t bytes) : data_(static_cast<const std::byte*>(data)), bytes_(bytes) {}
  uint64_t size_bytes() const override { return bytes_; }
  void read(uint64_t offset, void* dst, uint64_t bytes) const override {
    if (bytes) std::memcpy(dst, data_ + offset, bytes);
  }

 private:
  const std::byte* data_;
  uint64_t bytes_;
};

class FileSource : public Source {
 public:
  explicit FileSource(const std::string& path) : file_(path) {}
  uint64_t size_bytes() const override { return file_.size_bytes(); }
  void read(uint64_t offset, void* dst, uint64_t bytes) const override { file_.read(offset, dst, bytes); }

 private:
  File file_;
};

class Reader {
 public:
  Reader(const Source& source, std::string name) : source_(source), name_(std::move(name)) {}

  template <class... Parts>
  [[noreturn]] void invalid(const Parts&... parts) const {
    fail(CF_ERROR_INVALID_FILE, name_, ": ", parts...);
  }
  uint64_t left() const { return source_.size_bytes() - at_; }
  void bytes(void* dst, uint64_t n) {
    if (n > left()) invalid("ends too early, at byte ", source_.size_bytes());
    source_.read(at_, dst, n);
    at_ += n;
    checksum_.add(dst, n);
  }
  template <class T>
  T value() {
    T v;
    bytes(&v, sizeof v);
    return v;
  }
  template <class T>
  std::vector<T> values(uint64_t n, uint64_t limit, const char* what) {
    if (n > limit) invalid("has ", n, " ", what, ", more than ", limit);
    std::vector<T> v(n);
    bytes(v.data(), n * sizeof(T));
    return v;
  }
  void check_end() {
    const uint64_t expected = checksum_.value();
    uint64_t stored;
    if (left() != sizeof stored) invalid("has ", left(), " bytes after its last page, expected a checksum of ", sizeof stored);
    source_.read(at_, &stored, sizeof stored);
    if (stored != expected) invalid("is damaged: its checksum does not fit its contents");
  }

 private:
  const Source& source_;
  const std::string name_;
  uint64_t at_ = 0;
  Fingerprint checksum_;
};

Header read_header(Reader& in, uint64_t size_bytes, const Model& model) {
  const Header header = in.value<Header>();
  if (std::memcmp(header.magic, kMagic, sizeof kMagic) != 0) in.invalid("is not a saved session");
  if (header.version != kVersion) in.invalid("has format version ", header.version, ", this library reads ", kVersion);
  if (header.total_bytes != size_bytes) in.invalid("has ", size_bytes, " bytes, but was saved with ", header.total_bytes);
  if (header.fingerprint != fingerprint_of(model))
    fail(CF_ERROR_MISMATCH, "the session was saved from another model, from other weights, or from the same ones kept in another weight_dtype");
  if (header.kv_dtype < CF_DTYPE_F32 || header.kv_dtype > CF_DTYPE_BF16) in.invalid("has the unknown KV dtype ", header.kv_dtype);
  if (header.pending > 1) in.invalid("has ", header.pending, " pending tokens");
  const uint32_t p = header.page_tokens;
  if (p < 16 || p > 256 || (p & (p - 1))) in.invalid("has pages of ", p, " positions");
  return header;
}

Sampler read_sampler(Reader& in, int32_t vocab_size) {
  const uint64_t vocab = uint64_t(vocab_size);
  const SamplerNumbers n = in.value<SamplerNumbers>();
  if (n.zero) in.invalid("has ", n.zero, " in an unused field of its sampler, expected 0");
  cf_sampler_options o{};
  o.struct_size = sizeof o;
  o.temperature = n.temperature, o.top_p = n.top_p, o.min_p = n.min_p, o.repetition_penalty = n.repetition_penalty, o.top_k = n.top_k,
  o.seed = n.seed;
  const uint64_t n_biases = in.value<uint64_t>();
  const auto bias_tokens = in.values<int32_t>(n_biases, vocab, "logit biases");
  const auto bias_values = in.values<float>(n_biases, vocab, "logit biases");
  const auto stops = in.values<int32_t>(in.value<uint64_t>(), vocab, "stop tokens");
  const auto mask = in.values<uint32_t>(in.value<uint64_t>(), (vocab + 31) / 32, "words of the token mask");
  o.n_logit_biases = n_biases, o.logit_bias_tokens = bias_tokens.data(), o.logit_bias_values = bias_values.data();
  o.n_stop_tokens = stops.size(), o.stop_tokens = stops.data();
  try {
    Sampler sampler(o, vocab_size);
    if (!mask.empty()) sampler.set_allowed(mask.data(), mask.size(), vocab_size);
    return sampler;
  } catch (const Error& error) {
    in.invalid("has an impossible sampler: ", error.message);
  }
}

// The header's numbers fit the length: what follows the sampler is exactly the tokens and pages that they speak of. Only then are
// they compared with what the caller asked for, and made room for.
void check_length(const Reader& in, const Header& header, const cf_model_config& config) {
  const uint64_t position = uint64_t(header.position), left = in.left();  // a negative one is too many
  const uint64_t page = KvPool::page_bytes(config, cf_dtype(header.kv_dtype), int32_t(header.page_tokens)),
                 pages = ceil_div(position, header.page_tokens);
  if (position > left / sizeof(int32_t) || pages > left / page)
    in.invalid("holds ", header.position, " positions, too many for its ", left, " remaining bytes");
  const uint64_t needed = add(mul(position + header.pending, sizeof(int32_t)), mul(pages, page), sizeof(uint64_t));
  if (left != needed) in.invalid("has ", left, " bytes after its sampler, expected ", needed, " for ", header.position, " positions");
}

// Pages as they were saved, as pages of the new session's pool: other sizes and dtypes are taken apart and put together.
class PageConverter {
 public:
  PageConverter(Reader& in, const Header& header, const KvPool& pool)
      : in_(in),
        pool_(pool),
        config_(pool.config()),
        saved_dtype_(cf_dtype(header.kv_dtype)),
        saved_tokens_(header.page_tokens),
        saved_(KvPool::page_bytes(config_, saved_dtype_, int32_t(header.page_tokens))),
        page_(pool.page_bytes()) {}

  void copy(int64_t position, const std::vector<int32_t>& pages, Backend& backend) {
    const bool same = saved_dtype_ == pool_.kv_dtype() && saved_tokens_ == pool_.page_tokens();
    const int64_t tokens = pool_.page_tokens(), step = std::max(tokens, saved_tokens_);
    if (same) {
      for (int64_t first = 0; first < position; first += tokens) {
        in_.bytes(page_.data(), page_.size());
        backend.copy_from_host(pool_.page_address(pages[size_t(first / tokens)]), page_.data(), page_.size());
      }
      return;
    }
    // Both sizes are powers of two: the larger one holds a whole number of the smaller.
    for (int64_t base = 0; base < position; base += step) {
      if (saved_tokens_ >= tokens) {
        in_.bytes(saved_.data(), saved_.size());
        for (int64_t first = base; first < std::min(position, base + step); first += tokens) {
          convert(first - base, 0, tokens);
          backend.copy_from_host(pool_.page_address(pages[size_t(first / tokens)]), page_.data(), page_.size());
        }
      } else {
        std::memset(page_.data(), 0, page_.size());
        for (int64_t first = base; first < std::min(position, base + step); first += saved_tokens_) {
          in_.bytes(saved_.data(), saved_.size());
          convert(0, first - base, saved_tokens_);
        }
        backend.copy_from_host(pool_.page_address(pages[size_t(base / tokens)]), page_.data(), page_.size());
      }
    }
  }

 private:
  // `count` positions from `source` of the saved page to `destination` of the new one.
  void convert(int64_t source, int64_t destination, int64_t count) {
    const int64_t d = config_.head_dim, values = count * d;
    floats_.resize(size_t(values));
    for (int64_t block = 0; block < int64_t(config_.n_layers) * 2 * config_.n_kv_heads; block++) {
      const auto from = saved_.data() + size_t((block * saved_tokens_ + source) * d) * dtype_bytes(saved_dtype_);
      const auto to = page_.data() + size_t((block * pool_.page_tokens() + destination) * d) * dtype_bytes(pool_.kv_dtype());
      to_float(from, saved_dtype_, values, floats_.data());
      from_float(floats_.data(), pool_.kv_dtype(), values, to);
    }
  }

  Reader& in_;
  const KvPool& pool_;
  const cf_model_config& config_;
  const cf_dtype saved_dtype_;
  const int64_t saved_tokens_;
  std::vector<std::byte> saved_, page_;
  std::vector<float> floats_;
};

std::unique_ptr<Session> restore(const std::shared_ptr<Model>& model, const cf_session_options& options, const Source& source,
                                 const std::string& name) {
  Reader in(source, name);
  const Header header = read_header(in, source.size_bytes(), *model);
  const Sampler sampler = read_sampler(in, model->config().vocab_size);
  check_length(in, header, model->config());
  Backend& backend = model->context()->backend();
  cf_session_options wanted = options;
  if (!wanted.pool && wanted.kv_dtype == CF_DTYPE_AUTO && backend.has_kv_dtype(cf_dtype(header.kv_dtype)))
    wanted.kv_dtype = cf_dtype(header.kv_dtype);
  const cf_session_options o = resolve_session_options(backend, model->config(), wanted, wanted.pool ? wanted.pool->impl.get() : nullptr);
  if (header.position > o.capacity_tokens)
    fail(CF_ERROR_INVALID_ARGUMENT, "the saved session holds ", header.position, " positions, the capacity is ", o.capacity_tokens);
  SessionState state{header.position, header.pending != 0,
                     in.values<int32_t>(uint64_t(header.position) + header.pending, uint64_t(o.capacity_tokens) + 1, "tokens")};
  for (int32_t token : state.tokens)
    if (token < 0 || token >= model->config().vocab_size)
      in.invalid("holds the token ", token, ", outside the vocabulary of ", model->config().vocab_size);
  std::unique_ptr<Session> session = backend.create_session(model, o, {});
  session->restore(state, sampler, [&](const KvPool& pool, const std::vector<int32_t>& pages) {
    PageConverter(in, header, pool).copy(state.position, pages, backend);
  });
  in.check_end();
  return session;
}

}  // namespace

void save_session_file(Session& session, const std::string& path) {
  session.save([&](const Session::Saved& saved) {
    FileSink sink(path);
    Writer writer(sink);
    write_session(saved, size_of(saved), true, writer);
    writer.finish();
    sink.commit();
  });
}

void save_session(Session& session, void* buffer, uint64_t capacity, size_t* needed) {
  session.save([&](const Session::Saved& saved) {
    const uint64_t bytes = size_of(saved);
    *needed = size_t(bytes);
    if (!buffer) return;
    if (bytes > capacity) fail(CF_ERROR_BUFFER_TOO_SMALL, "the session needs ", bytes, " bytes, the buffer has ", capacity);
    BufferSink sink(buffer);
    Writer writer(sink);
    write_session(saved, bytes, true, writer);
    writer.finish();
  });
}

std::unique_ptr<Session> restore_session_file(const std::shared_ptr<Model>& model, const cf_session_options& options, const std::string& path) {
  return restore(model, options, FileSource(path), path);
}

std::unique_ptr<Session> restore_session(const std::shared_ptr<Model>& model, const cf_session_options& options, const void* buffer, uint64_t bytes) {
  return restore(model, options, BufferSource(buffer, bytes), "the saved session");
}

}  // namespace cf
