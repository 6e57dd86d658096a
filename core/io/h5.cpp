#include "core/io/h5.h"

#include <fcntl.h>
#include <hdf5.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <mutex>
#include <new>
#include <utility>

#include "core/base/checksum.h"
#include "core/io/descriptor.h"
#include "core/io/files.h"

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
  reason.erase(std::min(reason.find('\n'), reason.size()));
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

struct ElementType {
  hid_t file, memory;
};
ElementType element_type(DType t) {
  switch (t) {
    case DType::kF64:
      return {H5T_IEEE_F64LE, H5T_NATIVE_DOUBLE};
    case DType::kF32:
      return {H5T_IEEE_F32LE, H5T_NATIVE_FLOAT};
    case DType::kBF16:
    case DType::kF16:
      return {H5T_STD_U16LE, H5T_NATIVE_UINT16};
    case DType::kI64:
      return {H5T_STD_I64LE, H5T_NATIVE_INT64};
    case DType::kI32:
      return {H5T_STD_I32LE, H5T_NATIVE_INT32};
    default:
      return {H5T_STD_U8LE, H5T_NATIVE_UINT8};
  }
}

/// For H5Literate and H5Aiterate: appends to the vector of names at `out`.
template <class Info>
herr_t add_name(hid_t, const char* name, const Info*, void* out) {
  static_cast<std::vector<std::string>*>(out)->emplace_back(name);
  return 0;
}

constexpr const char* kDTypeAttribute = "dtype_of_bits";  // on 16-bit floats and bools
constexpr const char* kSealAttribute = "sealed";          // on the root: a seal follows HDF5's part
constexpr int kMaxTextBytes = 1 << 30;

struct Seal {
  std::uint64_t magic = 0x0a314c4145534c1bu;  // "\x1bLSEAL1\n"
  std::uint64_t bytes = 0, checksum = 0;      // of what lies before the seal
};

ssize_t read_some(int fd, void* to, std::size_t bytes, std::uint64_t at) {
  ssize_t n = 0;
  do {
    n = ::pread(fd, to, bytes, static_cast<off_t>(at));
  } while (n < 0 && errno == EINTR);
  return n;
}

// @throws Error(Io) if the file cannot be read that far
std::uint64_t file_checksum(int fd, std::uint64_t bytes, const std::string& path) {
  constexpr std::size_t kBlock = 1u << 20;
  std::vector<char> block(static_cast<std::size_t>(std::min<std::uint64_t>(kBlock, bytes)));
  Checksum sum;
  for (std::uint64_t at = 0; at < bytes;) {
    const auto want = static_cast<std::size_t>(std::min<std::uint64_t>(kBlock, bytes - at));
    for (std::size_t have = 0; have < want;) {
      errno = 0;
      const ssize_t n = read_some(fd, block.data() + have, want - have, at + have);
      LS_CHECK(n > 0, kIo, "{}: cannot be read: {}", path,
               errno != 0 ? std::strerror(errno) : "it became shorter");
      have += static_cast<std::size_t>(n);
    }
    sum.add(block.data(), want);
    at += want;
  }
  return sum.value();
}

void write_at(int fd, const void* data, std::size_t bytes, std::uint64_t at,
              const std::string& path) {
  const char* from = static_cast<const char*>(data);
  while (bytes > 0) {
    const ssize_t n =
        ::pwrite(fd, from, std::min<std::size_t>(bytes, 1u << 30), static_cast<off_t>(at));
    if (n < 0 && errno == EINTR) {
      continue;
    }
    LS_CHECK(n >= 0, kIo, "{}: cannot be written, {} bytes are missing: {}", path, bytes,
             write_failure(errno));
    from += n;
    at += static_cast<std::uint64_t>(n);
    bytes -= static_cast<std::size_t>(n);
  }
}

// Whether the file ends in a seal. @throws Error(Io) if it does and the seal is broken
bool check_seal(int fd, std::uint64_t size, const std::string& path) {
  Seal seal;
  if (size < sizeof seal || read_some(fd, &seal, sizeof seal, size - sizeof seal) != sizeof seal ||
      seal.magic != Seal{}.magic) {
    return false;
  }
  const std::uint64_t bytes = size - sizeof seal;
  LS_CHECK(seal.bytes == bytes, kIo, "{}: is damaged: it was written with {} bytes and has {}",
           path, seal.bytes, bytes);
  const std::uint64_t found = file_checksum(fd, bytes, path);
  LS_CHECK(found == seal.checksum, kIo,
           "{}: is damaged: its checksum is {:016x}, it was written with {:016x}", path, found,
           seal.checksum);
  return true;
}

}  // namespace

std::string library_version() {
  const Lock lock;
  unsigned major = 0, minor = 0, release = 0;
  H5get_libversion(&major, &minor, &release);
  return fmt::format("{}.{}.{}", major, minor, release);
}

std::string damage(const std::string& path) {
  const Descriptor fd(::open(path.c_str(), O_RDONLY | O_CLOEXEC));
  struct stat info {};
  LS_CHECK(fd >= 0 && ::fstat(fd, &info) == 0, kIo, "{}: cannot be opened: {}", path,
           std::strerror(errno));
  try {
    const bool sealed = check_seal(fd, static_cast<std::uint64_t>(info.st_size), path);
    return sealed ? ""
                  : path +
                        ": is damaged: the checksum at its end is missing; it was truncated, or is "
                        "not an HDF5 file of this program";
  } catch (const Error& e) {
    return e.message();
  }
}

struct File::Impl {
  std::string path;
  hid_t id = -1;
  Descriptor disk{-1};  // of a new file
  bool sealed = false;

  Impl(std::string path, int disk) : path(std::move(path)), disk(disk) {}
  Impl(const Impl&) = delete;
  Impl& operator=(const Impl&) = delete;
  ~Impl() {
    if (id >= 0) {
      const Lock lock;
      H5Fclose(id);
    }
  }

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
    return {check(H5Oopen(id, name.empty() ? "/" : name.c_str(), H5P_DEFAULT), "open", name),
            H5Oclose};
  }
  Handle dataset(const std::string& name) const {
    LS_CHECK(exists(name), kIo, "{}: there is no dataset '{}'", path, name);
    return {check(H5Dopen2(id, name.c_str(), H5P_DEFAULT), "open dataset", name), H5Dclose};
  }
  /// The file as it is in memory, sealed, forced to the disk.
  void write_image() const;
  DatasetInfo info(hid_t dataset, const std::string& name) const;
  Attribute attribute(hid_t object, const std::string& object_name, const std::string& name) const;
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

File::~File() = default;

const std::string& File::path() const {
  return impl_->path;
}
bool File::sealed() const {
  return impl_->sealed;
}

File File::open(const std::string& path) {
  const Lock lock;
  auto impl = std::make_unique<Impl>(path, -1);
  struct stat info {};
  LS_CHECK(::stat(path.c_str(), &info) == 0, kIo, "{}: {}", path, std::strerror(errno));
  LS_CHECK(!S_ISDIR(info.st_mode), kIo, "{}: is a directory, an HDF5 file was expected", path);
  LS_CHECK(S_ISREG(info.st_mode), kIo, "{}: is not a regular file, an HDF5 file was expected",
           path);
  {
    const Descriptor fd(::open(path.c_str(), O_RDONLY));
    LS_CHECK(fd >= 0, kIo, "{}: cannot be opened: {}", path, std::strerror(errno));
    impl->sealed = check_seal(fd, static_cast<std::uint64_t>(info.st_size), path);
  }
  LS_CHECK(
      H5Fis_hdf5(path.c_str()) > 0, kIo,
      "{}: is not an HDF5 file ({} bytes); it was cut off while being written or is something else",
      path, static_cast<Index>(info.st_size));
  impl->id = H5Fopen(path.c_str(), H5F_ACC_RDONLY, H5P_DEFAULT);
  LS_CHECK(impl->id >= 0, kIo, "{}: cannot be opened, it is truncated or damaged: {}", path,
           library_reason());
  const Handle root = impl->object("/");
  LS_CHECK(
      impl->sealed || impl->check(H5Aexists(root, kSealAttribute), "look at", "/") == 0, kIo,
      "{}: is not complete: it lacks the checksum at its end; its writer was stopped or its end "
      "was cut off",
      path);
  return File(std::move(impl));
}

File File::create(const std::string& path) {
  const Lock lock;
  auto impl = std::make_unique<Impl>(path, ::open(path.c_str(), O_RDWR | O_CREAT | O_TRUNC, 0644));
  LS_CHECK(impl->disk >= 0, kIo, "{}: cannot be created: {}", path, write_failure(errno));
  constexpr std::size_t kGrowth = 1u << 20;
  const Handle access_list(H5Pcreate(H5P_FILE_ACCESS), H5Pclose);
  H5Pset_libver_bounds(access_list, H5F_LIBVER_V18, H5F_LIBVER_V110);
  impl->check(H5Pset_fapl_core(access_list, kGrowth, false), "create", path);
  impl->id =
      impl->check(H5Fcreate(path.c_str(), H5F_ACC_TRUNC, H5P_DEFAULT, access_list), "create", path);
  File file(std::move(impl));
  file.set_attribute("/", kSealAttribute, std::int64_t{1});
  return file;
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
  // In native order: sorted by HDF5, damage in a large group makes 1.10.8 free what it never made.
  impl_->check(H5Literate(g, H5_INDEX_NAME, H5_ITER_NATIVE, nullptr, add_name<H5L_info_t>, &names),
               "list", group);
  std::sort(names.begin(), names.end());
  return names;
}

DatasetInfo File::Impl::info(hid_t d, const std::string& name) const {
  const Handle space(check(H5Dget_space(d), "read the shape of", name), H5Sclose);
  const Handle type(check(H5Dget_type(d), "read the type of", name), H5Tclose);
  hsize_t dims[H5S_MAX_RANK] = {};
  const int rank = check(H5Sget_simple_extent_ndims(space), "read the shape of", name);
  LS_CHECK(rank <= kMaxRank, kIo, "{}: dataset '{}' has {} axes, at most {} are supported", path,
           name, rank, kMaxRank);
  check(H5Sget_simple_extent_dims(space, dims, nullptr), "read the shape of", name);
  LS_CHECK(H5Sget_simple_extent_type(space) != H5S_NULL, kIo,
           "{}: dataset '{}' has no elements at all", path, name);
  DatasetInfo out{{}, DType::kF64};
  for (int i = 0; i < rank; ++i) {
    LS_CHECK(dims[i] <= hsize_t{1} << 62, kIo, "{}: dataset '{}' has an axis of {} elements", path,
             name, dims[i]);
    out.shape.push_back(static_cast<Index>(dims[i]));
  }
  const H5T_class_t kind = H5Tget_class(type);
  const std::size_t size = H5Tget_size(type);
  if (kind == H5T_FLOAT) {
    out.dtype = size <= 4 ? DType::kF32 : DType::kF64;
  } else if (kind == H5T_INTEGER || kind == H5T_ENUM) {
    const Handle base(kind == H5T_ENUM ? H5Tget_super(type) : H5Tcopy(type), H5Tclose);
    const bool sign = H5Tget_sign(base) != H5T_SGN_NONE;
    out.dtype = size == 1 && !sign                ? DType::kU8
                : size < 4 || (size == 4 && sign) ? DType::kI32
                                                  : DType::kI64;
    if (H5Aexists(d, kDTypeAttribute) > 0) {
      const Attribute stored = attribute(d, name, kDTypeAttribute);
      const auto* text = std::get_if<std::string>(&stored);
      bool known = false;
      for (const DType t : {DType::kBF16, DType::kF16, DType::kBool}) {
        if (text != nullptr && *text == enum_name(t) && !sign &&
            size == static_cast<std::size_t>(dtype_size(t))) {
          out.dtype = t;
          known = true;
        }
      }
      LS_CHECK(
          known, kIo,
          "{}: dataset '{}' has {} bytes an element, which its attribute '{}' ({}) does not fit",
          path, name, size, kDTypeAttribute, text != nullptr ? *text : "not text");
    }
  } else {
    LS_FAIL(kIo, "{}: dataset '{}' holds neither floats nor integers", path, name);
  }
  Index bytes = dtype_size(out.dtype);
  for (const Index d : out.shape) {
    LS_CHECK(!__builtin_mul_overflow(bytes, std::max<Index>(d, 1), &bytes), kIo,
             "{}: dataset '{}' of shape {} is too large", path, name, out.shape.str());
  }
  return out;
}

DatasetInfo File::info(const std::string& dataset) const {
  const Lock lock;
  return impl_->info(impl_->dataset(dataset), dataset);
}

Tensor File::read(const std::string& dataset) const {
  const Lock lock;
  const Handle d = impl_->dataset(dataset);
  const DatasetInfo info = impl_->info(d, dataset);
  // A damaged shape must not become a huge allocation: plain datasets lie in the file as they are.
  const Handle layout(impl_->check(H5Dget_create_plist(d), "read the layout of", dataset),
                      H5Pclose);
  if (H5Pget_layout(layout) == H5D_CONTIGUOUS && H5Pget_external_count(layout) == 0) {
    const Handle type(impl_->check(H5Dget_type(d), "read the type of", dataset), H5Tclose);
    const auto element = static_cast<Index>(H5Tget_size(type));
    const auto stored = static_cast<Index>(H5Dget_storage_size(d));
    LS_CHECK(element > 0 && info.shape.numel() <= stored / element, kIo,
             "{}: dataset '{}' of shape {} has only {} bytes in the file", impl_->path, dataset,
             info.shape.str(), stored);
  }
  Tensor out;
  try {
    out = Tensor::empty(info.shape, info.dtype);
  } catch (const std::bad_alloc&) {
    LS_FAIL(kIo, "{}: dataset '{}' of shape {} does not fit into memory", impl_->path, dataset,
            info.shape.str());
  }
  if (out.numel() > 0) {
    impl_->check(
        H5Dread(d, element_type(info.dtype).memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, out.raw()),
        "read", dataset);
  }
  return out;
}

void File::write(const std::string& dataset, const Tensor& value) {
  const Lock lock;
  const Tensor v = value.to(cpu()).contiguous();
  const ElementType type = element_type(v.dtype());
  std::vector<hsize_t> dims(v.shape().begin(), v.shape().end());
  const Handle space(
      v.rank() == 0 ? H5Screate(H5S_SCALAR) : H5Screate_simple(v.rank(), dims.data(), nullptr),
      H5Sclose);
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  {
    const Handle d(impl_->check(H5Dcreate2(impl_->id, dataset.c_str(), type.file, space, links,
                                           H5P_DEFAULT, H5P_DEFAULT),
                                "create", dataset),
                   H5Dclose);
    if (v.numel() > 0) {
      impl_->check(H5Dwrite(d, type.memory, H5S_ALL, H5S_ALL, H5P_DEFAULT, v.raw()), "write",
                   dataset);
    }
  }
  if (v.dtype() == DType::kBF16 || v.dtype() == DType::kF16 || v.dtype() == DType::kBool) {
    set_attribute(dataset, kDTypeAttribute, std::string(enum_name(v.dtype())));
  }
}

void File::create_group(const std::string& group) {
  const Lock lock;
  if (impl_->exists(group)) {
    return;
  }
  const Handle links(H5Pcreate(H5P_LINK_CREATE), H5Pclose);
  H5Pset_create_intermediate_group(links, 1);
  const Handle g(impl_->check(H5Gcreate2(impl_->id, group.c_str(), links, H5P_DEFAULT, H5P_DEFAULT),
                              "create", group),
                 H5Gclose);
}

std::vector<std::string> File::attributes(const std::string& object) const {
  const Lock lock;
  const Handle o = impl_->object(object);
  std::vector<std::string> names;
  hsize_t at = 0;
  impl_->check(H5Aiterate2(o, H5_INDEX_NAME, H5_ITER_NATIVE, &at, add_name<H5A_info_t>, &names),
               "list the attributes of", object);
  std::erase(names, kSealAttribute);
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
  return impl_->attribute(o, object, name);
}

Attribute File::Impl::attribute(hid_t o, const std::string& object_name,
                                const std::string& name) const {
  LS_CHECK(H5Aexists(o, name.c_str()) > 0, kIo, "{}: '{}' has no attribute '{}'", path, object_name,
           name);
  const std::string both = object_name + "@" + name;
  const Handle a(check(H5Aopen(o, name.c_str(), H5P_DEFAULT), "open attribute", both), H5Aclose);
  const Handle type(check(H5Aget_type(a), "read the type of attribute", both), H5Tclose);
  const Handle space(check(H5Aget_space(a), "read the shape of attribute", both), H5Sclose);
  const hssize_t count =
      check(H5Sget_simple_extent_npoints(space), "read the shape of attribute", both);
  const std::size_t size = H5Tget_size(type);
  LS_CHECK(size > 0 && static_cast<std::size_t>(count) <= kMaxTextBytes / size, kIo,
           "{}: attribute '{}' of '{}' is too large: {} elements of {} bytes", path, name,
           object_name, count, size);
  const auto n = static_cast<std::size_t>(count);
  const bool scalar = H5Sget_simple_extent_type(space) == H5S_SCALAR;
  const auto get = [&](hid_t memory, void* to) {
    if (n > 0) {
      check(H5Aread(a, memory, to), "read attribute", both);
    }
  };
  switch (H5Tget_class(type)) {
    case H5T_FLOAT: {
      std::vector<double> v(n);
      get(H5T_NATIVE_DOUBLE, v.data());
      return scalar ? Attribute(v[0]) : Attribute(std::move(v));
    }
    case H5T_INTEGER:
    case H5T_ENUM: {
      std::vector<std::int64_t> v(n);
      get(H5T_NATIVE_INT64, v.data());
      return scalar ? Attribute(v[0]) : Attribute(std::move(v));
    }
    case H5T_STRING: {
      std::vector<std::string> v;
      if (H5Tis_variable_str(type) > 0) {
        std::vector<char*> raw(n, nullptr);
        const Handle memory(H5Tcopy(H5T_C_S1), H5Tclose);
        H5Tset_size(memory, H5T_VARIABLE);
        H5Tset_cset(memory, H5Tget_cset(type));
        get(memory, raw.data());
        for (const char* s : raw) {
          v.emplace_back(s != nullptr ? s : "");
        }
        if (n > 0) {
          H5Dvlen_reclaim(memory, space, H5P_DEFAULT, raw.data());
        }
      } else {
        std::string raw(n * size, '\0');
        get(type, raw.data());
        for (std::size_t i = 0; i < n; ++i) {
          std::string s = raw.substr(i * size, size);
          s.erase(std::min(s.find('\0'), s.size()));
          v.push_back(std::move(s));
        }
      }
      return scalar ? Attribute(std::move(v[0])) : Attribute(std::move(v));
    }
    default:
      LS_FAIL(kIo, "{}: attribute '{}' of '{}' is neither number nor text", path, name,
              object_name);
  }
}

void File::set_attribute(const std::string& object, const std::string& name,
                         const Attribute& value) {
  const Lock lock;
  const Handle o = impl_->object(object);
  if (H5Aexists(o, name.c_str()) > 0) {
    impl_->check(H5Adelete(o, name.c_str()), "replace attribute", name);
  }
  const auto put = [&](hid_t type_in_file, hid_t type_in_memory, bool scalar, std::size_t n,
                       const void* data) {
    const hsize_t count = n;
    const Handle space(scalar ? H5Screate(H5S_SCALAR) : H5Screate_simple(1, &count, nullptr),
                       H5Sclose);
    const Handle a(
        impl_->check(H5Acreate2(o, name.c_str(), type_in_file, space, H5P_DEFAULT, H5P_DEFAULT),
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
      LS_CHECK(s.find('\0') == std::string::npos, kIo,
               "{}: attribute '{}' of '{}' would be cut at a zero byte", impl_->path, name, object);
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

void File::Impl::write_image() const {
  check(H5Fflush(id, H5F_SCOPE_GLOBAL), "flush", path);
  void** image = nullptr;
  check(H5Fget_vfd_handle(id, H5P_DEFAULT, reinterpret_cast<void**>(&image)), "flush", path);
  Seal seal;
  seal.bytes = static_cast<std::uint64_t>(check(H5Fget_file_image(id, nullptr, 0), "flush", path));
  Checksum sum;
  sum.add(*image, seal.bytes);
  seal.checksum = sum.value();
  write_at(disk, *image, seal.bytes, 0, path);
  write_at(disk, &seal, sizeof seal, seal.bytes, path);
  LS_CHECK(::fsync(disk) == 0, kIo, "{}: cannot be forced to the disk: {}", path,
           write_failure(errno));
}

void File::close() {
  const Lock lock;
  if (impl_->id < 0) {
    return;
  }
  if (impl_->disk >= 0) {
    impl_->write_image();
  }
  impl_->check(H5Fclose(std::exchange(impl_->id, -1)), "close", impl_->path);
  const int fd = impl_->disk.release();
  LS_CHECK(fd < 0 || ::close(fd) == 0, kIo, "{}: cannot be closed: {}", impl_->path,
           write_failure(errno));
}

}  // namespace ls::h5
