/* How fast this machine's cores, together, read memory: the ceiling of decoding on the CPU.
 * usage: read_bandwidth THREADS [GIBIBYTES]   prints GB/s, the median of nine passes */
#define _GNU_SOURCE
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { PASSES = 9, MAX_THREADS = 1024, STREAMS = 8 };
typedef uint64_t vector __attribute__((vector_size(64)));

struct slice {
  const vector* data;
  size_t n;
  uint64_t sum;
};

static pthread_barrier_t barrier;

/* Eight streams at once, as a matrix-vector product reads eight rows: more than one stream occupies the prefetchers. */
static uint64_t read_all(const vector* data, size_t n) {
  vector sum[STREAMS] = {{0}};
  const size_t each = n / STREAMS;
  for (size_t i = 0; i < each; i++)
    for (int s = 0; s < STREAMS; s++) sum[s] ^= data[(size_t)s * each + i];
  uint64_t total = 0;
  for (int s = 0; s < STREAMS; s++)
    for (int lane = 0; lane < 8; lane++) total ^= sum[s][lane];
  return total;
}

static void* run(void* argument) {
  struct slice* slice = argument;
  for (int pass = 0; pass < PASSES; pass++) {
    pthread_barrier_wait(&barrier);
    slice->sum ^= read_all(slice->data, slice->n);
    pthread_barrier_wait(&barrier);
  }
  return NULL;
}

static double now(void) {
  struct timespec t;
  clock_gettime(CLOCK_MONOTONIC, &t);
  return (double)t.tv_sec + 1e-9 * (double)t.tv_nsec;
}

static int ascending(const void* a, const void* b) {
  const double x = *(const double*)a, y = *(const double*)b;
  return (x > y) - (x < y);
}

int main(int argc, char** argv) {
  const int threads = argc > 1 ? atoi(argv[1]) : 1;
  const size_t bytes = (size_t)((argc > 2 ? atof(argv[2]) : 1.0) * (1 << 30)) / (64 * STREAMS * MAX_THREADS) * (64 * STREAMS * MAX_THREADS);
  if (threads < 1 || threads > MAX_THREADS || bytes == 0) {
    fprintf(stderr, "usage: %s THREADS [GIBIBYTES]\n", argv[0]);
    return 2;
  }
  vector* data = aligned_alloc(64, bytes);
  if (!data) return 1;
  memset(data, 0x5a, bytes);

  static struct slice slices[MAX_THREADS];
  static pthread_t ids[MAX_THREADS];
  const size_t each = bytes / sizeof(vector) / (size_t)threads;
  pthread_barrier_init(&barrier, NULL, (unsigned)threads + 1);
  for (int t = 0; t < threads; t++) {
    slices[t] = (struct slice){data + (size_t)t * each, each, 0};
    if (pthread_create(&ids[t], NULL, run, &slices[t])) return 1;
  }
  double rates[PASSES];
  for (int pass = 0; pass < PASSES; pass++) {
    pthread_barrier_wait(&barrier);
    const double start = now();
    pthread_barrier_wait(&barrier);
    rates[pass] = (double)(each * sizeof(vector) * (size_t)threads) / (now() - start) * 1e-9;
  }
  uint64_t sum = 0;
  for (int t = 0; t < threads; t++) pthread_join(ids[t], NULL), sum ^= slices[t].sum;
  qsort(rates, PASSES, sizeof *rates, ascending);
  printf("%.3f\n", rates[PASSES / 2] + (double)(sum & 1) * 0.0); /* sum: so that the reads happen */
  free(data);
  return 0;
}
