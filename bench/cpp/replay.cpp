// Runs a sampling loop on an fxcache package of any inputs, which come as a file of tensors.
//
//   replay PACKAGE INPUTS STEPS SAMPLE TIME
//
// INPUTS: what torch.save wrote of the list of a call's tensors, in the order of the package's fxcache.json.
// SAMPLE and TIME: which of them (its "roles") are the sample, from which the first output is taken a step at
// a time, and the time, which falls from 1. Prints a checksum of the sample, and how many steps were cached.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>
#include <torch/serialize.h>

#include "state.hpp"

#include <cstdio>
#include <cstdlib>
#include <fstream>
#include <iterator>
#include <vector>

int main(int argc, char** argv) {
  if (argc != 6) {
    std::fprintf(stderr, "usage: replay PACKAGE INPUTS STEPS SAMPLE TIME\n");
    return 2;
  }
  std::ifstream file(argv[2], std::ios::binary);
  const std::vector<char> bytes((std::istreambuf_iterator<char>(file)), std::istreambuf_iterator<char>());
  std::vector<at::Tensor> inputs;
  const auto loaded = torch::pickle_load(bytes);
  for (const auto& value : loaded.toListRef()) inputs.push_back(value.toTensor().contiguous());
  const int steps = std::atoi(argv[3]);
  at::Tensor& sample = inputs.at(std::atoi(argv[4]));
  at::Tensor& time = inputs.at(std::atoi(argv[5]));

  c10::InferenceMode inference;
  torch::inductor::AOTIModelPackageLoader package(argv[1]);
  std::vector<at::Tensor> memory;
  for (const auto& line : state::split(package.get_metadata().at("fxcache_state"), '\n')) {
    memory.push_back(state::fresh(line, inputs));
  }
  for (int i = 0; i < steps; ++i) {
    time = at::full_like(time, 1.0 - static_cast<double>(i) / steps);
    std::vector<at::Tensor> given = inputs;
    given.insert(given.end(), memory.begin(), memory.end());
    sample = sample - package.run(given)[0] / steps;
  }
  // The clock is the first state tensor; column 3 of its first row counts the hits.
  std::printf("%.6f %d\n", sample.to(at::kDouble).abs().sum().item<double>(),
              static_cast<int>(memory[0][0][3].item<double>()));
}
