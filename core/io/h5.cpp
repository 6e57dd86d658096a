#include "core/io/h5.h"

#include <fcntl.h>
#include <hdf5.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <sys/stat.h>
#include <utility>

namespace ls::h5 {
namespace {

// One lock for the library; recursive because methods call each other.
std::recursive_mutex& library_mutex() {
  static std::recursive_mutex mutex;
  return mutex;
}

struct Lock {
  Lock() : guard(library_mutex()) {
    static const bool quiet = [] { return H5Eset_auto2(H5E_DEFAULT, nullptr, nullptr) >= 0; }();
    (void)quiet;
  }
  std::lock_guard<std::recursive_mutex> guard;
};

// The innermost description on HDF5's error stack.
std::string library_reason() {
  std::string reason;
  H5Ewalk2(
      H5E_DEFAULT, H5E_WALK_UPWARD,
      [](unsigned, const H5E_error2_t* e, void* out) -> herr_t {
        auto& text = *static_cast<std::string*>(out);
        if (text.empty() && e->desc) {
          text = e->desc;
        }
        return 0;
      },
      &reason);
  return reason.empty() ? "no reason given" : reason;
}

class Handle {
 public:
  Handle(hid_t id, herr_t (*close)(hid_t)) : id_(id), close_(close) {}
  Handle(Handle&& o) noexcept : id_(std::exchange(o.id_, -1)), close_(o.close_) {}
  Handle(const Handle&) = delete;
  Handle& operator=(const Handle&) = delete;
  ~Handle() {
    if (id_ >= 0) {
      close_(id_);
    }
  }
  operator hid_t() const { return id_; }  // NOLINT

 private:
  hid_t id_;
  herr_t (*close_)(hid_t);
};

hid_t file_type(DType t) {
  switch (t) {
    case DType::kF64: return H5T_IEEE_F64LE;
    case DType::kF32: return H5T_IEEE_F32LE;
    case DType::kBF16:
    case DType::kF16: return H5T_STD_U16LE;
    case DType::kI64: return H5T_STD_I64LE;
    case DType::kI32: return H5T_STD_I32LE;
    default: return H5T_STD_U8LE;
  }
}

hid_t memory_type(DType t) {
  switch (t) {
    case DType::kF64: return H5T_NATIVE_DOUBLE;
    case DType::kF32: return H5T_NATIVE_FLOAT;
    case DType::kBF16:
    case DType::kF16: return H5T_NATIVE_UINT16;
    case DType::kI64: return H5T_NATIVE_INT64;
    case DType::kI32: return H5T_NATIVE_INT32;
    default: return H5T_NATIVE_UINT8;
  }
}

constexpr const char* kDTypeAttribute = "dtype_of_bits";  // on 16-bit floats and bools

}  // namespace

std::string library_version() {
  const Lock lock;
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

struct File::Impl {
  std::string path;
  hid_t id = -1;
  bool writable = false;

  [[noreturn]] void fail(const std::string& what, const std::string& object) const {
    const std::string reason = library_reason();
    LS_FAIL(kIo, "{}: cannot {} '{}': {}", path, what, object, reason);
  }
  template <class T>
  T check(T status, const char* what, const std::string& object) const {
    if (status < 0) {
      fail(what, object);
    }
    return status;
  }
  Handle object(const std::string& name) const {
    return {check(H5Oopen(id, name.empty() ? "/" : name.c_str(), H5P_DEFAULT), "open", name), H5Oclose};
  }
  bool exists(const std::string& name) const {
    std::string prefix;
    std::size_t at = 0;
    if (name.empty() || name == "/") {
      return true;
    }
    while (at < name.size()) {  // H5Lexists wants every group on the way to be there
      const std::size_t slash = std::min(name.find('/', at), name.size());
      prefix = name.substr(0, slash);
      at = slash + 1;
      if (!prefix.empty() && H5Lexists(id, prefix.c_str(), H5P_DEFAULT) <= 0) {
        return false;
      }
    }
    return true;
  }
};

File::File(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
File::File(File&&) noexcept = default;
File& File::operator=(File&&) noexcept = default;

File::~File() {
  if (impl_ && impl_->id >= 0) {
    const Lock lock;
    H5Fclose(impl_->id);
  }
}

const std::string& File::path() const { return impl_->path; }

File File::open(const std::string& path) {
  const Lock lock;
  struct stat info{};
  LS_CHECK(stat(path.c_str(), &info) == 0, kIo, "{}: {}", path, std::strerror(errno));
  LS_CHECK(!S_ISDIR(info.st_mode), kIo, "{}: is a directory, an HDF5 file was expected", path);
  LS_CHECK(access(path.c_str(), R_OK) == 0, kIo, "{}: {}", path, std::strerror(errno));
  LS_CHECK(H5Fis_hdf5(path.c_str()) > 0, kIo,
           "{}: is not an HDF5 file ({} bytes); it was cut off while being written or is something else", path,
           static_cast<Index>(info.st_size));
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  LS_CHECK(impl->id >= 0, kIo, "{}: cannot be opened, it is truncated or damaged: {}", path, library_reason());
  return File(std::move(impl));
}

File File::create(const std::string& path) {
  const Lock lock;
  auto impl = std::make_unique<Impl>();
  impl->path = path;
  impl->writable = true;
  const int fd = ::open(path.c_str(), O_WRONLY | O_CREAT | O_TRUNC, 0644);
  LS_CHECK(fd >= 0, kIo, "{}: cannot be created: {}", path, std::strerror(errno));
  ::close(fd);
  const Handle access_list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access_list, H5F_LIBVER_V18, H5F_LIBVER_V110);
  impl->id = H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access_list);
  LS_CHECK(impl->id >= 0, kIo, "{}: cannot be created: {}", path, library_reason());
  return File(std::move(impl));
}

bool File::exists(const std::string& object) const {
  const Lock lock;
  return impl_->exists(object);
}

bool File::is_group(const std::string& object) const {
  const Lock lock;
  if (!impl_->exists(object)) {
    return false;
  }
  const Handle h = impl_->object(object);
  return H5Iget_type(h) == H5I_GROUP;
}

std::vector<std::string> File::children(const std::string& group) const {
  const Lock lock;
  const Handle g = impl_->object(group);
  std::vector<std::string> names;
  impl_->check(H5Literate(
                   g, H5_INDEX_NAME, H5_ITER_INC, nullptr,
                   [](hid_t, const char* name, const H5L_info_t*, void* out) -> herr_t {
                     static_cast<std::vector<std::string>*>(out)->emplace_back(name);
                     return 0;
                   },
                   &names),
               "list", group);
  std::sort(names.begin(), names.end());
  return names;
}

Tensor File::read(const std::string& dataset) const {
  const Lock lock;
  LS_CHECK(impl_->exists(dataset), kIo, "{}: there is no dataset '{}'", impl_->path, dataset);
  const Handle d(impl_->check(H5Dopen2(impl_->id, dataset.c_str(), H5P_DEFAULT), "open", dataset), H5Dclose);
  const Handle space(impl_->check(H5Dget_space(d), "read the shape of", dataset), H5Sclose);
  const Handle type(impl_->check(H5Dget_type(d), "read the type of", dataset), H5Tclose);
  hsize_t dims[H5S_MAX_RANK];
  const int rank = impl_->check(H5Sget_simple_extent_ndims(space), "read the shape of", dataset);
  LS_CHECK(rank <= kMaxRank, kIo, "{}: dataset '{}' has {} axes, at most {} are supported", impl_->path, dataset, rank, kMaxRank);
  H5Sget_simple_extent_dims(space, dims, nullptr);
  Shape shape;
  for (int i = 0; i < rank; ++i) {
    shape.push_back(static_cast<Index>(dims[i]));
  }
  const H5T_class_t kind = H5Tget_class(type);
  const std::size_t size = H5Tget_size(type);
  DType dtype = DType::kF64;
  if (has_attribute(dataset, kDTypeAttribute)) {
    dtype = parse_dtype(text(dataset, kDTypeAttribute));
  } else if (kind == H5T_FLOAT) {
    dtype = size <= 4 ? DType::kF32 : DType::kF64;
  } else if (kind == H5T_INTEGER || kind == H5T_ENUM) {
    const bool sign = H5Tget_sign(type) != H5T_SGN_NONE;
    dtype = size == 1 && !sign ? DType::kU8 : size < 4 || (size == 4 && sign) ? DType::kI32 : DType::kI64;
  } else {
    LS_FAIL(kIo, "{}: dataset '{}' holds neither floats nor integers", impl_->path, dataset);
  }
  Tensor out = Tensor::empty(shape, dtype);
  if (out.numel() > 0) {
    impl_->check(H5Dread(d, memory_type(dtype), H5S_ALL, H5S_ALL, H5P_DEFAULT, out.raw()), "read", dataset);
  }
  return out;
}

void File::write(const std::string& dataset, const Tensor& value) {
  const Lock lock;
  const Tensor v = value.contiguous();
  std::vector<hsize_t> dims(v.shape().begin(), v.shape().end());
  const Handle space(v.rank() == 0 ? H5Screate(H5S_SCALAR)
                                   : H5Screate_simple(v.rank(), dims.data(), nullptr),
                     H5Sclose);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  {
    const Handle d(impl_->check(H5Dcreate2(impl_->id, dataset.c_str(), file_type(v.dtype()), space, links,
                                           H5P_DEFAULT, H5P_DEFAULT),
                                "create", dataset),
                   H5Dclose);
    if (v.numel() > 0) {
      impl_->check(H5Dwrite(d, memory_type(v.dtype()), H5S_ALL, H5S_ALL, H5P_DEFAULT, v.raw()), "write", dataset);
    }
  }
  if (v.dtype() == DType::kBF16 || v.dtype() == DType::kF16 || v.dtype() == DType::kBool) {
    set_attribute(dataset, kDTypeAttribute, std::string(dtype_name(v.dtype())));
  }
}

void File::create_group(const std::string& group) {
  const Lock lock;
  if (impl_->exists(group)) {
    return;
  }
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Handle g(impl_->check(H5Gcreate2(impl_->id, group.c_str(), links, H5P_DEFAULT, H5P_DEFAULT), "create", group),
                 H5Gclose);
}

std::vector<std::string> File::attributes(const std::string& object) const {
  const Lock lock;
  const Handle o = impl_->object(object);
  std::vector<std::string> names;
  hsize_t at = 0;
  impl_->check(H5Aiterate2(
                   o, H5_INDEX_NAME, H5_ITER_INC, &at,
                   [](hid_t, const char* name, const H5A_info_t*, void* out) -> herr_t {
                     static_cast<std::vector<std::string>*>(out)->emplace_back(name);
                     return 0;
                   },
                   &names),
               "list the attributes of", object);
  std::sort(names.begin(), names.end());
  return names;
}

bool File::has_attribute(const std::string& object, const std::string& name) const {
  const Lock lock;
  const Handle o = impl_->object(object);
  return H5Aexists(o, name.c_str()) > 0;
}

Attribute File::attribute(const std::string& object, const std::string& name) const {
  const Lock lock;
  const Handle o = impl_->object(object);
  LS_CHECK(H5Aexists(o, name.c_str()) > 0, kIo, "{}: '{}' has no attribute '{}'", impl_->path, object, name);
  const Handle a(impl_->check(H5Aopen(o, name.c_str(), H5P_DEFAULT), "open attribute", name), H5Aclose);
  const Handle type(H5Aget_type(a), H5Tclose);
  const Handle space(H5Aget_space(a), H5Sclose);
  const auto n = static_cast<std::size_t>(std::max<hssize_t>(0, H5Sget_simple_extent_npoints(space)));
  const bool scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      std::vector<double> v(n);
      impl_->check(H5Aread(a, H5T_NATIVE_DOUBLE, v.data()), "read attribute", name);
      return scalar ? Attribute(v[0]) : Attribute(std::move(v));
    }
    case H5T_INTEGER:
    case H5T_ENUM: {
      std::vector<std::int64_t> v(n);
      const hid_t memory = H5Tget_class(type) == H5T_ENUM ? static_cast<hid_t>(type) : H5T_NATIVE_INT64;
      if (H5Tget_class(type) == H5T_ENUM) {
        std::vector<std::int8_t> small(n * H5Tget_size(type));
        impl_->check(H5Aread(a, memory, small.data()), "read attribute", name);
        for (std::size_t i = 0; i < n; ++i) {
          v[i] = small[i * H5Tget_size(type)];
        }
      } else {
        impl_->check(H5Aread(a, memory, v.data()), "read attribute", name);
      }
      return scalar ? Attribute(v[0]) : Attribute(std::move(v));
    }
    case H5T_STRING: {
      std::vector<std::string> v;
      if (H5Tis_variable_str(type) > 0) {
        std::vector<char*> raw(n, nullptr);
        const Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
        H5Tset_size(memory, H5T_VARIABLE);
        H5Tset_cset(memory, H5Tget_cset(type));
        impl_->check(H5Aread(a, memory, raw.data()), "read attribute", name);
        for (char* s : raw) {
          v.emplace_back(s ? s : "");
        }
        H5Dvlen_reclaim(memory, space, H5P_DEFAULT, raw.data());
      } else {
        const std::size_t size = H5Tget_size(type);
        std::string raw(n * size, '\0');
        impl_->check(H5Aread(a, type, raw.data()), "read attribute", name);
        for (std::size_t i = 0; i < n; ++i) {
          std::string s = raw.substr(i * size, size);
          s.erase(std::min(s.find('\0'), s.size()));
          v.push_back(std::move(s));
        }
      }
      return scalar ? Attribute(v.empty() ? std::string() : v[0]) : Attribute(std::move(v));
    }
    default: LS_FAIL(kIo, "{}: attribute '{}' of '{}' is neither number nor text", impl_->path, name, object);
  }
}

void File::set_attribute(const std::string& object, const std::string& name, const Attribute& value) {
  const Lock lock;
  const Handle o = impl_->object(object);
  if (H5Aexists(o, name.c_str()) > 0) {
    impl_->check(H5Adelete(o, name.c_str()), "replace attribute", name);
  }
  const auto put = [&](hid_t type_in_file, hid_t type_in_memory, bool scalar, std::size_t n, const void* data) {
    const hsize_t count = n;
    const Handle space(scalar ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &count, nullptr), H5Sclose);
    const Handle a(impl_->check(H5Acreate2(o, name.c_str(), type_in_file, space, H5P_DEFAULT, H5P_DEFAULT),
                                "create attribute", name),
                   H5Aclose);
    if (n > 0) {
      impl_->check(H5Awrite(a, type_in_memory, data), "write attribute", name);
    }
  };
  const auto put_text = [&](bool scalar, const std::vector<std::string>& text) {
    const Handle type(H5Tcopy(H5T_C_S1), H5Tclose);
    H5Tset_size(type, H5T_VARIABLE);
    H5Tset_cset(type, H5T_CSET_UTF8);
    std::vector<const char*> raw;
    for (const std::string& s : text) {
      raw.push_back(s.c_str());
    }
    put(type, type, scalar, raw.size(), raw.data());
  };
  if (const auto* i = std::get_if<std::int64_t>(&value)) {
    put(H5T_STD_I64LE, H5T_NATIVE_INT64, true, 1, i);
  } else if (const auto* d = std::get_if<double>(&value)) {
    put(H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, true, 1, d);
  } else if (const auto* s = std::get_if<std::string>(&value)) {
    put_text(true, {*s});
  } else if (const auto* vi = std::get_if<std::vector<std::int64_t>>(&value)) {
    put(H5T_STD_I64LE, H5T_NATIVE_INT64, false, vi->size(), vi->data());
  } else if (const auto* vd = std::get_if<std::vector<double>>(&value)) {
    put(H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE, false, vd->size(), vd->data());
  } else {
    put_text(false, std::get<std::vector<std::string>>(value));
  }
}

std::int64_t File::integer(const std::string& object, const std::string& name) const {
  const Attribute a = attribute(object, name);
  const auto* i = std::get_if<std::int64_t>(&a);
  LS_CHECK(i, kIo, "{}: attribute '{}' of '{}' is not an integer", impl_->path, name, object);
  return *i;
}

double File::number(const std::string& object, const std::string& name) const {
  const Attribute a = attribute(object, name);
  if (const auto* i = std::get_if<std::int64_t>(&a)) {
    return static_cast<double>(*i);
  }
  const auto* d = std::get_if<double>(&a);
  LS_CHECK(d, kIo, "{}: attribute '{}' of '{}' is not a number", impl_->path, name, object);
  return *d;
}

std::string File::text(const std::string& object, const std::string& name) const {
  const Attribute a = attribute(object, name);
  const auto* s = std::get_if<std::string>(&a);
  LS_CHECK(s, kIo, "{}: attribute '{}' of '{}' is not text", impl_->path, name, object);
  return *s;
}

void File::flush() {
  const Lock lock;
  impl_->check(H5Fflush(impl_->id, H5F_SCOPE_GLOBAL), "flush (is the disk full?)", impl_->path);
  const int fd = ::open(impl_->path.c_str(), O_RDONLY);
  if (fd >= 0) {
    const int status = fsync(fd);
    ::close(fd);
    LS_CHECK(status == 0, kIo, "{}: cannot be forced to the disk: {}", impl_->path, std::strerror(errno));
  }
}

void File::close() {
  const Lock lock;
  if (impl_->writable) {
    flush();
  }
  impl_->check(H5Fclose(std::exchange(impl_->id, -1)), "close", impl_->path);
}

}  // namespace ls::h5
