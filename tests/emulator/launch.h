// A launch, as the emulated runtime hands it to the emulator.
#pragma once

#include <cstdint>
#include <vector>

namespace emulator {

struct LaunchOf {
  const void* kernel;
  unsigned grid_x, grid_y;
  int threads, cluster_size;
  bool together;
  std::vector<char> argument;  // up to 4096 bytes; kernels have one
};

void run(const LaunchOf& launch);  // returns when done

}  // namespace emulator
