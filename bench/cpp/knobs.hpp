// The settings of the cache, as the state tensor knobs_0 of a package holds them (fxcache/ops/knobs.py), from
// the notation: F8B0_W4M0MC4_T1O1_R0.2, and then _I2, _A0.5, _S1101d or _S1101s, _N28, _K1, _Z0.15-0.95.
#pragma once

#include <ATen/ATen.h>

#include <algorithm>
#include <regex>
#include <stdexcept>
#include <string>

namespace knobs {

constexpr int kThreshold = 0, kMaxCached = 1, kMaxContinuous = 2, kMaxAccumulated = 3, kSteps = 4;
constexpr double kCheck = 0, kCompute = 1, kReplay = 2, kNoLimit = 1e30;

// Writes the settings in `text` into `state`, [1028]; C0_Q0_NONE computes every step. F, B, T, O and
// what follows a mask are part of the graph: they are not looked at, and must be those that the package was
// exported with.
inline void configure(at::Tensor state, const std::string& text) {
  if (text == "C0_Q0_NONE") {
    state.slice(0, kSteps).fill_(kCompute);
    return;
  }
  static const std::regex pattern(
      "F\\d+B\\d+_W(\\d+)M(\\d+)MC(\\d+)_T[01]O[0-9x]+_R([0-9.e+-]+)"
      "(?:_I(\\d+))?(?:_A([0-9.e+-]+))?(?:_S([01]+)([ds]))?(?:_X\\{.*\\})?(?:_LO)?(?:_E)?(?:_BE)?"
      "(?:_N(\\d+))?(?:_K(\\d+))?(?:_Z([0-9.e+-]+)-([0-9.e+-]+))?"
      "(?:_H[a-z]\\w*?)?(?:_HO)?(?:_G\\d+)?(?:_D\\{.*\\})?");
  std::smatch part;
  if (!std::regex_match(text, part, pattern)) throw std::runtime_error("no setting of a package: " + text);
  auto row = state.accessor<float, 1>();
  const int64_t steps = row.size(0) - kSteps;
  const std::string mask = part[7];
  if (static_cast<int64_t>(mask.size()) > steps) throw std::runtime_error("the steps mask is too long");
  const auto limit = [](const std::string& count) { return std::stod(count) > 0 ? std::stod(count) : kNoLimit; };
  row[kThreshold] = std::stod(part[4]);
  row[kMaxCached] = limit(part[2]);
  row[kMaxContinuous] = limit(part[3]);
  row[kMaxAccumulated] = part[6].matched ? std::stod(part[6]) : kNoLimit;
  int64_t warmup = std::stoll(part[1]);
  if (!mask.empty()) warmup = std::min<int64_t>(warmup, std::min(mask.find('0'), mask.size()));
  const int64_t interval = part[5].matched ? std::stoll(part[5]) : 1;
  for (int64_t i = 0; i < steps; ++i)
    row[kSteps + i] = i < warmup && i % interval == 0 ? kCompute : kCheck;
  for (size_t i = 0; i < mask.size(); ++i) {
    if (mask[i] == '1') row[kSteps + i] = kCompute;
    else if (part[8] == "s") row[kSteps + i] = kReplay;
  }
  if (!part[9].matched) return;
  const double run = std::stod(part[9]), last = part[10].matched ? std::stod(part[10]) : 0;
  const double start = part[11].matched ? std::stod(part[11]) : 0, end = part[12].matched ? std::stod(part[12]) : 1;
  if (last == 0 && start == 0 && end == 1) return;
  for (int64_t i = 0; i < steps; ++i)
    if (i < start * run || i >= std::min(run - last, end * run)) row[kSteps + i] = kCompute;
}

}  // namespace knobs
