// The wall between the C ABI and the inside: nothing that is thrown gets past guarded().
#pragma once

#include <exception>
#include <new>
#include <string>
#include <string_view>

#include "clusterfusion.h"
#include "context.h"
#include "error.h"

namespace cf {

constexpr size_t kSentenceBytes = 1024;  // the most that a sentence has, as the header says; a path in it may be longer

// The calling thread's last error. Fixed storage: recording one must not fail.
struct LastError {
  char text[kSentenceBytes];
  size_t length;
};
LastError& last_error();
void record_last_error(std::string_view message);

// Copies text to a caller's buffer as cf_last_error documents.
void copy_text(std::string_view message, char* buffer, size_t capacity, size_t* length);

// Runs body; what it throws becomes a status, and its sentence the thread's (and the context's, if any) last error.
template <class Body>
cf_status guarded(Context* context, Body body) noexcept {
  auto record = [context](std::string_view message) {
    message = message.substr(0, kSentenceBytes);
    record_last_error(message);
    if (!context) return;
    try {
      context->record_error(std::string(message));
    } catch (...) {  // no memory for the copy: the thread has it
    }
  };
  try {
    if (context) context->check_device();
    body();
    return CF_OK;
  } catch (const Error& error) {
    record(error.message);
    return error.status;
  } catch (const std::bad_alloc&) {
    record("out of host memory");
    return CF_ERROR_OUT_OF_MEMORY;
  } catch (const std::exception& exception) {
    record(exception.what());
    return CF_ERROR_INTERNAL;
  } catch (...) {
    record("an unknown exception");
    return CF_ERROR_INTERNAL;
  }
}

inline void check_pointer(const void* pointer, const char* name) {
  if (!pointer) fail(CF_ERROR_INVALID_ARGUMENT, name, " is NULL");
}

}  // namespace cf
