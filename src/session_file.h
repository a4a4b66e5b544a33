// Saved sessions: where they are written to and read from.
#pragma once

#include <cstdint>
#include <memory>
#include <string>

#include "clusterfusion.h"
#include "model.h"
#include "session.h"

namespace cf {

// All of it or nothing: written beside the path under another name, then renamed.
void save_session_file(Session& session, const std::string& path);
// *needed gets the bytes needed, whatever happens then; buffer NULL: only asks. Throws CF_ERROR_BUFFER_TOO_SMALL.
void save_session(Session& session, void* buffer, uint64_t capacity, size_t* needed);
std::unique_ptr<Session> restore_session_file(const std::shared_ptr<Model>& model, const cf_session_options& options, const std::string& path);
std::unique_ptr<Session> restore_session(const std::shared_ptr<Model>& model, const cf_session_options& options, const void* buffer, uint64_t bytes);

}  // namespace cf
