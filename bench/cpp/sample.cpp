// Runs a whole sampling loop on an fxcache package, with the cache's state kept here, and prints a
// checksum, which tests/package/test_package.py compares with that of the same loop in Python.
//
//   sample PACKAGE STEPS BATCH TOKENS WIDTH [SETTING | PLAN.json ...]
//
// With a setting in the notation, or with plans where it was exported with one, the package follows these
// instead of its own.
//
// The package is one exported from a model of the inputs (hidden_states [batch, tokens, width],
// timestep [batch]) that predicts a velocity shaped like hidden_states.
#include <ATen/ATen.h>
#include <torch/csrc/inductor/aoti_package/model_package_loader.h>

#include "knobs.hpp"
#include "plan.hpp"
#include "state.hpp"

#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

int main(int argc, char** argv) {
  if (argc < 6) {
    std::fprintf(stderr, "usage: sample PACKAGE STEPS BATCH TOKENS WIDTH [SETTING | PLAN.json ...]\n");
    return 2;
  }
  const int steps = std::atoi(argv[2]);
  const int64_t batch = std::atol(argv[3]), tokens = std::atol(argv[4]), width = std::atol(argv[5]);
  c10::InferenceMode inference;
  torch::inductor::AOTIModelPackageLoader package(argv[1]);

  auto latents = at::linspace(-1.0, 1.0, batch * tokens * width).reshape({batch, tokens, width});
  auto timestep = at::full({batch}, 1.0);
  std::vector<at::Tensor> memory;
  for (const auto& line : state::split(package.get_metadata().at("fxcache_state"), '\n')) {
    memory.push_back(state::fresh(line, {latents, timestep}));
    if (argc > 6 && line.rfind("plan_", 0) == 0) plan::use(memory.back(), {argv + 6, argv + argc});
    if (argc > 6 && line.rfind("knobs_", 0) == 0) knobs::configure(memory.back(), argv[6]);
  }

  for (int i = 0; i < steps; ++i) {
    timestep = at::full({batch}, 1.0 - static_cast<double>(i) / steps);
    std::vector<at::Tensor> inputs = {latents, timestep};
    inputs.insert(inputs.end(), memory.begin(), memory.end());
    latents = latents - package.run(inputs)[0] / steps;
  }
  // The clock is the first state tensor; column 3 of its first row counts the hits.
  std::printf("%.6f %d\n", latents.to(at::kDouble).abs().sum().item<double>(),
              static_cast<int>(memory[0][0][3].item<double>()));
}
