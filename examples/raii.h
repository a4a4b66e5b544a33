// raii.h - handles that C++ owns, and errors as exceptions, in 60 lines of C++17. Copy it; calls of clusterfusion.h are made as they are.
#pragma once

#include <clusterfusion.h>

#include <memory>
#include <stdexcept>
#include <string>

namespace clusterfusion {

// What check() throws: "CF_ERROR_IO: cannot open ...".
struct Error : std::runtime_error {
  Error(cf_status failed, const std::string& sentence) : std::runtime_error(cf_status_name(failed) + (": " + sentence)), status(failed) {}
  cf_status status;
};

// Around every call, on the thread that makes it: the sentence is that thread's.
inline void check(cf_status status) {
  if (status == CF_OK) return;
  char sentence[1025] = "";  // the longest there is, and its NUL
  cf_last_error(sentence, sizeof sentence, nullptr);
  throw Error(status, sentence);
}

template <auto destroy>
struct Destroy {
  template <class Handle>
  void operator()(Handle* handle) const noexcept {
    destroy(handle);
  }
};

// Destroyed in any order: the library keeps a parent until its last child has gone. Exceptions to this are in the header: a
// cancellation outlives the calls that hold it, a caller's stream the sessions on it.
using Context = std::unique_ptr<cf_context, Destroy<cf_context_destroy>>;
using Model = std::unique_ptr<cf_model, Destroy<cf_model_destroy>>;
using KvPool = std::unique_ptr<cf_kv_pool, Destroy<cf_kv_pool_destroy>>;
using Session = std::unique_ptr<cf_session, Destroy<cf_session_destroy>>;
using Graph = std::unique_ptr<cf_graph, Destroy<cf_graph_destroy>>;
using Cancellation = std::unique_ptr<cf_cancellation, Destroy<cf_cancellation_destroy>>;

// A handle from any call that makes one: those have the new handle's place last. make<Session>(cf_session_create, model.get(), nullptr)
template <class Owner, class Create, class... Arguments>
Owner make(Create create, Arguments... arguments) {
  typename Owner::pointer handle = nullptr;
  check(create(arguments..., &handle));
  return Owner(handle);
}

// A struct that its _init has filled: auto options = defaults(cf_session_options_init);
template <class Struct>
Struct defaults(cf_status (*init)(Struct*, size_t)) {
  Struct filled;
  check(init(&filled, sizeof filled));
  return filled;
}

}  // namespace clusterfusion
