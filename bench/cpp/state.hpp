// The cache's state, as a package's metadata describes it: made here, kept by the caller, written in place.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <cctype>
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

// A size: a number, @i.d for size d of input i, or several of these with operations behind them.
inline int64_t size_of(const std::string& text, const std::vector<at::Tensor>& inputs) {
  std::vector<int64_t> stack;
  for (auto& token : split(text, ':')) {
    if (token[0] == '@') {
      auto place = split(token.substr(1), '.');
      stack.push_back(inputs.at(std::stoul(place[0])).size(std::stol(place[1])));
      continue;
    }
    if (std::isdigit(static_cast<unsigned char>(token.back()))) {
      size_t read = 0;
      stack.push_back(std::stoll(token, &read));
      if (read != token.size()) throw std::runtime_error("size " + text);
      continue;
    }
    if (stack.size() < 2) throw std::runtime_error("size " + text);
    const int64_t b = stack.back();
    stack.pop_back();
    int64_t& a = stack.back();
    if (token == "+") a += b;
    else if (token == "*") a *= b;
    else if (token == "/") a /= b;
    else if (token == "%") a %= b;
    else if (token == "max") a = std::max(a, b);
    else if (token == "min") a = std::min(a, b);
    else throw std::runtime_error("size " + text);
  }
  return stack.at(0);
}

// One line of the package's metadata: name dtype sizes values; see fxcache.package.aoti.native_state.
inline at::Tensor fresh(const std::string& line, const std::vector<at::Tensor>& inputs) {
  auto field = split(line, ' ');
  std::vector<int64_t> sizes;
  for (auto& size : split(field[2], ',')) sizes.push_back(size_of(size, inputs));
  auto options = at::TensorOptions().dtype(dtype_of(field[1]));
  if (field[3] == "0") return at::zeros(sizes, options);
  std::vector<double> values;
  for (auto& value : split(field[3], ',')) values.push_back(std::stod(value));
  return at::tensor(values, at::kDouble).to(options.dtype()).reshape(sizes).contiguous();
}

}  // namespace state
