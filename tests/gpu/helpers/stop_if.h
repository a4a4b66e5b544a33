/* For programs without a test framework: a call that fails ends them, with its sentence. */
#pragma once

#include <stdio.h>
#include <stdlib.h>

#include "clusterfusion.h"

static void stop_if(int failed, const char* what) {
  char text[512] = "";
  if (!failed) return;
  cf_last_error(text, sizeof text, NULL);
  fprintf(stderr, "%s failed: %s\n", what, text);
  exit(1);
}
#define CF(call) stop_if((call) != CF_OK, #call)
