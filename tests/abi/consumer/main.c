/* A C program outside the tree: compiled against an installed library by tests/abi/consumer.sh. */
#include <clusterfusion.h>
#include <stdio.h>
#include <string.h>

int main(void) {
  cf_context* context = NULL;
  cf_context_info info;
  if (cf_abi_version() != CF_ABI_VERSION) return 1;
  if (cf_context_create(NULL, &context) != CF_OK) return 2;
  if (cf_context_info_init(&info, sizeof info) != CF_OK || cf_context_query(context, &info) != CF_OK) return 3;
  if (info.device_kind != CF_DEVICE_CPU || info.cpu_threads < 1) return 4;
  if (cf_context_destroy(context) != CF_OK) return 5;
  if (strcmp(cf_status_name(CF_ERROR_IO), "CF_ERROR_IO") != 0) return 6;
  printf("clusterfusion %s\n", cf_version_string());
  return 0;
}
