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

#include <cstdio>
#include <cstdlib>
#include <sstream>
#include <string>
#include <vector>

namespace {

std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

at::ScalarType dtype_of(const std::string& name) {
  if (name == "float64") return at::kDouble;
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  if (name == "int64") return at::kLong;
  throw std::runtime_error("dtype " + name);
}

// One line of the package's metadata: name dtype sizes values; see fxcache.package.aoti.native_state.
at::Tensor fresh(const std::string& line, const std::vector<at::Tensor>& inputs) {
  auto field = split(line, ' ');
  std::vector<int64_t> sizes;
  for (auto& size : split(field[2], ',')) {
    if (size[0] != '@') {
      sizes.push_back(std::stoll(size));
      continue;
    }
    auto place = split(size.substr(1), '.');
    sizes.push_back(inputs.at(std::stoul(place[0])).size(std::stol(place[1])));
  }
  auto options = at::TensorOptions().dtype(dtype_of(field[1]));
  if (field[3] == "0") return at::zeros(sizes, options);
  std::vector<double> values;
  for (auto& value : split(field[3], ',')) values.push_back(std::stod(value));
  return at::tensor(values, at::kDouble).to(options.dtype()).reshape(sizes).contiguous();
}

}  // namespace

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
  std::vector<at::Tensor> state;
  for (const auto& line : split(package.get_metadata().at("fxcache_state"), '\n')) {
    state.push_back(fresh(line, {latents, timestep}));
    if (argc > 6 && line.rfind("plan_", 0) == 0) plan::use(state.back(), {argv + 6, argv + argc});
    if (argc > 6 && line.rfind("knobs_", 0) == 0) knobs::configure(state.back(), argv[6]);
  }

  for (int i = 0; i < steps; ++i) {
    timestep = at::full({batch}, 1.0 - static_cast<double>(i) / steps);
    std::vector<at::Tensor> inputs = {latents, timestep};
    inputs.insert(inputs.end(), state.begin(), state.end());
    latents = latents - package.run(inputs)[0] / steps;
  }
  // The clock is the first state tensor; column 3 of its first row counts the hits.
  std::printf("%.6f %d\n", latents.to(at::kDouble).abs().sum().item<double>(),
              static_cast<int>(state[0][0][3].item<double>()));
}
