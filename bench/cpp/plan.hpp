// The rows of plans, as the state tensor plan_0 of a package holds them (fxcache/ops/plan.py), from the JSON
// files that Plan.save() writes.
#pragma once

#include <ATen/ATen.h>

#include <cctype>
#include <fstream>
#include <iterator>
#include <map>
#include <stdexcept>
#include <string>
#include <utility>
#include <vector>

namespace plan {

// As much of JSON as a plan is made of: text is skipped, null is an empty list.
struct Json {
  bool given = false;
  double number = 0;
  std::vector<Json> items;
  std::map<std::string, Json> fields;
};

class Reader {
 public:
  explicit Reader(std::string text) : text_(std::move(text)) {}

  Json read() {
    Json found = value();
    if (next() != '\0') fail();
    return found;
  }

 private:
  [[noreturn]] void fail() const { throw std::runtime_error("no plan: at character " + std::to_string(at_)); }

  char next() {
    while (at_ < text_.size() && std::isspace(static_cast<unsigned char>(text_[at_]))) ++at_;
    return at_ < text_.size() ? text_[at_] : '\0';
  }

  void expect(char wanted) {
    if (next() != wanted) fail();
    ++at_;
  }

  std::string text() {
    expect('"');
    std::string found;
    for (; at_ < text_.size() && text_[at_] != '"'; ++at_) {
      if (text_[at_] == '\\') ++at_;
      if (at_ < text_.size()) found += text_[at_];
    }
    expect('"');
    return found;
  }

  Json value() {
    Json found;
    const char first = next();
    found.given = first != 'n';
    if (first == '"') {
      text();
    } else if (first == '{' || first == '[') {
      const char last = first == '{' ? '}' : ']';
      expect(first);
      for (bool more = next() != last; more;) {
        if (first == '{') {
          std::string name = text();
          expect(':');
          found.fields[name] = value();
        } else {
          found.items.push_back(value());
        }
        more = next() == ',';
        if (more) ++at_;
      }
      expect(last);
    } else if (text_.compare(at_, 4, "null") == 0 || text_.compare(at_, 4, "true") == 0) {
      at_ += 4;
    } else if (text_.compare(at_, 5, "false") == 0) {
      at_ += 5;
    } else {
      size_t length = 0;
      found.number = std::stod(text_.substr(at_, 32), &length);
      at_ += length;
    }
    return found;
  }

  std::string text_;
  size_t at_ = 0;
};

constexpr double kAny = 1e30, kReplay = 0, kCompute = 1, kEnd = 2;
constexpr int kTime = 0, kKind = 1, kOwn = 2, kFirst = 3;

// Writes the plans in `files` into `state`, [plans, rows, 3 + k], in place of those it holds.
inline void use(at::Tensor state, const std::vector<std::string>& files) {
  auto rows = state.accessor<float, 3>();
  const int64_t width = rows.size(2);
  if (static_cast<int64_t>(files.size()) > rows.size(0)) throw std::runtime_error("too many plans");
  state.zero_();
  state.select(2, kKind).fill_(kEnd);
  state.select(2, kOwn).fill_(1);
  for (size_t p = 0; p < files.size(); ++p) {
    std::ifstream file(files[p]);
    std::string text{std::istreambuf_iterator<char>(file), {}};
    Json plan = Reader(text).read();
    const int format = static_cast<int>(plan.fields["format"].number);
    if (format != 1) throw std::runtime_error(files[p] + ": no plan, or of a newer format");
    auto& weights = plan.fields["weights"].items;
    auto& times = plan.fields["timesteps"];
    if (weights.empty() || static_cast<int64_t>(weights.size()) >= rows.size(1) ||
        static_cast<int64_t>(weights[0].items.size()) > width - kOwn)
      throw std::runtime_error(files[p] + ": more steps or values than the package has room for");
    for (size_t i = 0; i < weights.size(); ++i) {
      rows[p][i][kTime] = times.given ? times.items.at(i).number : kAny;
      rows[p][i][kKind] = kReplay;
      for (size_t j = 0; j < weights[i].items.size(); ++j)
        rows[p][i][kOwn + j] = weights[i].items[j].number;
    }
    for (auto& step : plan.fields["computed"].items)
      rows[p][static_cast<int64_t>(step.number)][kKind] = kCompute;
  }
}

}  // namespace plan
