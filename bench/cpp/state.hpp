// The cache's state, as a package's metadata describes it: made here, kept by the caller, written in place.
#pragma once

#include <ATen/ATen.h>

#include <sstream>
#include <stdexcept>
#include <string>
#include <vector>

namespace state {

inline std::vector<std::string> split(const std::string& text, char at) {
  std::vector<std::string> parts;
  std::stringstream stream(text);
  for (std::string part; std::getline(stream, part, at);) parts.push_back(part);
  return parts;
}

inline at::ScalarType dtype_of(const std::string& name) {
  if (name == "float64") return at::kDouble;
  if (name == "float32") return at::kFloat;
  if (name == "bfloat16") return at::kBFloat16;
  if (name == "float16") return at::kHalf;
  if (name == "int64") return at::kLong;
  throw std::runtime_error("dtype " + name);
}

// One line of the package's metadata: name dtype sizes values; see fxcache.package.aoti.native_state.
inline at::Tensor fresh(const std::string& line, const std::vector<at::Tensor>& inputs) {
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

}  // namespace state
