#pragma once
// What the runtime asks of a device: memory, queues of work (streams), moments in them (events) and
// recorded work (graphs). A device of a new kind derives Device and Stream; nothing here names one.
#include <atomic>
#include <functional>
#include <memory>
#include <span>
#include <string>
#include <vector>

#include "core/base/device_type.h"
#include "core/base/types.h"

namespace ls {

class Allocator;
class BlockPool;
struct ErrorFlag;
class Device;
class Storage;
class Stream;
struct Capture;

struct DeviceProperties {
  std::string model;             ///< what it calls itself
  int generation = 0;            ///< compute capability times ten; 0 where there is none
  int processors = 1;            ///< that share the blocks of one kernel
  Index memory = 0;              ///< bytes
  Index alignment = 64;          ///< of every buffer, in bytes
  Index shared_bytes = 0;        ///< that one block of a kernel may share
  Index workspace = 0;           ///< bytes that every stream has for its kernels
  bool host_accessible = false;  ///< the host may read and write its memory
  bool runs_host_code = false;   ///< its kernels are the processor's, launched by Stream::launch
};

/// A moment in a stream. One that was made by default has always happened; copies are the same.
class Event {
 public:
  /// What a device keeps of it.
  class State {
   public:
    virtual ~State() = default;
    virtual bool happened() const = 0;
    virtual void wait_on_host() = 0;
  };
  Event() = default;
  Event(Stream& stream, std::shared_ptr<State> state);
  bool defined() const { return state_ != nullptr; }
  /// Of the stream that it was recorded on, or null.
  Stream* stream() const { return stream_; }
  const std::shared_ptr<State>& shared_state() const { return state_; }
  /// Never waits.
  bool happened() const { return !state_ || state_->happened(); }
  /// The host waits; counted where it has to.
  void synchronize() const;
  /// The capture that it is part of, or null.
  const std::shared_ptr<Capture>& capture() const { return capture_; }

 private:
  Stream* stream_ = nullptr;
  std::shared_ptr<State> state_;
  std::shared_ptr<Capture> capture_;
};

/// What a piece of work reads or writes, by the addresses that the host has.
struct Access {
  const void* data = nullptr;
  Index bytes = 0;
  bool write = false;
};

/// Work as a device has recorded it.
class RecordedWork {
 public:
  virtual ~RecordedWork() = default;
  virtual void replay(Stream& stream) = 0;
};

/// A queue of work that is done in order, beside the host and other streams. Lives as long as its
/// device. Everything but `synchronize` returns before the work is done.
class Stream {
 public:
  Stream(Device& device, int index);
  virtual ~Stream();
  Stream(const Stream&) = delete;
  Stream& operator=(const Stream&) = delete;

  Device& device() const { return device_; }
  int index() const { return index_; }
  std::string describe() const;  ///< "cuda:0 stream 1"
  /// Where memory for work on this stream comes from: a graph's own pool while it is captured.
  Allocator& allocator() const;
  /// For kernels of this stream alone, properties().workspace bytes.
  void* workspace() const { return workspace_; }
  /// Of kernels of this stream, in the device's memory.
  ErrorFlag* error_flag() const { return error_flag_; }
  /// What the runtime of the device calls it (cudaStream_t), or null.
  virtual void* native() const { return nullptr; }

  /// The moment when all that is in the queue by now is done.
  Event record();
  /// What is put in from now on begins when the event has happened. While the event's stream is
  /// captured, this one is captured too.
  void wait(const Event& event);
  /// Between two addresses of the device, or one of it and one of its pinned memory; the other may
  /// be of another device of the same type.
  virtual void copy(void* to, const void* from, Index bytes) = 0;
  virtual void fill(void* to, unsigned char value, Index bytes) = 0;
  /// Host code as a kernel, for devices that run such. @throws Error(Unsupported) elsewhere
  virtual void launch(std::function<void()> kernel, std::span<const Access> uses) = 0;
  /// The host waits until the queue is empty: counted, an Error(Device) during a capture.
  void synchronize();

  bool capturing() const { return capture_ != nullptr; }
  const std::shared_ptr<Capture>& current_capture() const { return capture_; }

 protected:
  friend class Device;
  friend class GraphRecorder;
  virtual std::shared_ptr<Event::State> do_record() = 0;
  virtual void do_wait(const Event& event) = 0;
  virtual void do_synchronize() = 0;
  virtual void do_begin_capture() = 0;
  virtual std::unique_ptr<RecordedWork> do_end_capture() = 0;

 private:
  Device& device_;
  int index_;
  void* workspace_ = nullptr;
  ErrorFlag* error_flag_ = nullptr;
  std::shared_ptr<Capture> capture_;
};

/// How often the host waited for a device, and asked it for more memory than it had. Both stand
/// still in a step that has warmed up.
struct DeviceCounts {
  Index host_waits = 0;
  Index growths = 0;
};

enum class MemoryKind : std::uint8_t { kDevice, kPinned };

class Device {
 public:
  Device(DeviceType type, int index, DeviceProperties properties);
  virtual ~Device();
  Device(const Device&) = delete;
  Device& operator=(const Device&) = delete;

  DeviceType type() const { return type_; }
  int index() const { return index_; }
  const DeviceProperties& properties() const { return properties_; }
  bool host_accessible() const { return properties_.host_accessible; }
  std::string describe() const;  ///< "cpu", "cuda:0"

  /// The first stream: where work goes unless UseStream says otherwise.
  virtual Stream& default_stream() = 0;
  virtual Stream& new_stream() = 0;
  virtual Allocator& allocator() = 0;
  /// Host memory that copies of this device read and write beside the host's work.
  virtual Allocator& pinned() = 0;
  /// Where kernels find what the host knows by this address.
  virtual void* kernel_address(void* data) const { return data; }
  /// The host waits for all streams; counted.
  virtual void synchronize() = 0;

  DeviceCounts counts() const { return {host_waits_.load(), growths_.load()}; }
  void count_host_wait() { ++host_waits_; }
  void count_growth() { ++growths_; }

 protected:
  friend class BlockPool;
  /// Bytes of a stream's error flag and workspace, and what gives a new stream these.
  Index equipment_bytes() const { return properties_.alignment + properties_.workspace; }
  void equip(Stream& stream, void* data);
  /// Memory for a pool to cut up, aligned; null where there is no more.
  virtual void* reserve(MemoryKind kind, Index bytes) = 0;
  /// Waits for work that may still use it.
  virtual void release(MemoryKind kind, void* data, Index bytes) = 0;
  /// A block of one of the device's pools begins to be used, and is used no more by what is put in
  /// from now on. `home` is null where its next user may be any stream.
  virtual void note_allocated(const BlockPool& /*pool*/, void* /*data*/, Index /*bytes*/,
                              Stream* /*home*/) {}
  virtual void note_freed(const BlockPool& /*pool*/, void* /*data*/, Index /*bytes*/,
                          Stream* /*home*/) {}

 private:
  DeviceType type_;
  int index_;
  DeviceProperties properties_;
  std::atomic<Index> host_waits_ = 0, growths_ = 0;
};

/// The processor that this program runs on: its stream does everything at once.
Device& cpu();

/// The stream on which this thread puts work for a device.
Stream& current_stream(Device& device);

/// While alive, this thread's work for the stream's device goes there.
class UseStream {
 public:
  explicit UseStream(Stream& stream);
  ~UseStream();
  UseStream(const UseStream&) = delete;
  UseStream& operator=(const UseStream&) = delete;
};

}  // namespace ls
