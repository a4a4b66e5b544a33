// What the opaque handles of clusterfusion.h point to. Children hold their parents.
#pragma once

#include <memory>

#include "clusterfusion.h"
#include "context.h"
#include "kv_pool.h"
#include "model.h"
#include "session.h"

struct cf_context {
  std::shared_ptr<cf::Context> impl;
};
struct cf_model {
  std::shared_ptr<cf::Model> impl;
};
struct cf_kv_pool {
  std::shared_ptr<cf::KvPool> impl;
  std::shared_ptr<cf::Model> model;
};
struct cf_session {
  std::shared_ptr<cf::Session> impl;
};
struct cf_graph {
  std::shared_ptr<cf::Session> session;
  std::unique_ptr<cf::Graph> impl;
};
