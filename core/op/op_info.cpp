#include "core/op/op_info.h"

#include <algorithm>

#include "core/tensor/rows.h"

namespace ls {

bool lies::contiguous(const Layout& x) {
  return x.is_contiguous();
}

bool lies::rows(const Layout& x) {
  return rows_of(x).has_value();
}

bool lies::rows_apart(const Layout& x) {
  const std::optional<RowPattern> r = rows_of(x);
  return r && r->stride >= r->cols;
}

bool lies::heads(const Layout& x) {
  return x.rank() == 0 || x.shape().back() == 1 || x.strides().back() == 1;
}

bool lies::matrices(const Layout& x) {
  return stack_of(x).has_value();
}

bool lies::anyhow(const Layout&) {
  return true;
}

bool OpInfo::continues() const {
  return std::any_of(out.begin(), out.end(), [](const ArgSpec& o) { return o.continues >= 0; });
}

const Kernel* OpInfo::kernel(DeviceType device, DType dtype) const {
  const auto found = std::find_if(kernels.begin(), kernels.end(), [&](const Kernel& k) {
    return k.device == device && k.dtype == dtype;
  });
  return found == kernels.end() ? nullptr : &*found;
}

bool OpInfo::has(const Kernel& kernel) const {
  return !kernels.empty() && &kernel >= kernels.data() && &kernel < kernels.data() + kernels.size();
}

Registry<const OpInfo*>& op_registry() {
  static auto* const registry = new Registry<const OpInfo*>("op");
  return *registry;
}

std::string detail::attr_text(double x) {
  return fmt::format("{}", x);
}

}  // namespace ls
