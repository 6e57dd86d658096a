#include "core/tensor/graph.h"

#include "core/base/error.h"
#include "core/base/profile.h"

namespace ls {

void Capture::note(const std::shared_ptr<Storage>& storage, bool write) {
  if (storage->allocator() != memory.get()) {
    held.emplace(storage.get(), storage);
  }
  if (write) {
    written.emplace(storage.get(), storage);
  }
}

std::shared_ptr<BlockPool> graph_memory(Device& device) {
  return std::make_shared<BlockPool>(device, MemoryKind::kDevice, true);
}

/// Ends a recording however its body ends.
class GraphRecorder {
 public:
  GraphRecorder(Stream& stream, std::shared_ptr<Capture> capture)
      : stream_(stream), capture_(std::move(capture)) {
    LS_CHECK(!stream.capturing(), kDevice, "{} is captured already", stream.describe());
    stream_.do_begin_capture();
    stream_.capture_ = capture_;
    capture_->streams.push_back(&stream_);
    capture_->memory->begin_capture();
  }
  ~GraphRecorder() {
    if (!capture_->finished) {
      leave();
      try {
        stream_.do_end_capture();
      } catch (const Error&) {  // the one under way is thrown
      }
    }
  }
  std::unique_ptr<RecordedWork> finish() {
    leave();
    return stream_.do_end_capture();
  }

 private:
  void leave() {
    capture_->finished = true;
    for (Stream* s : capture_->streams) {
      s->capture_ = nullptr;
    }
    capture_->memory->end_capture();
  }
  Stream& stream_;
  std::shared_ptr<Capture> capture_;
};

Graph::Graph(Stream& stream, std::shared_ptr<BlockPool> memory, const std::function<void()>& body)
    : capture_(std::make_shared<Capture>()) {
  capture_->memory = std::move(memory);
  profiled_ = profile::begin_work();
  GraphRecorder recorder(stream, capture_);
  {
    const UseStream use(stream);
    body();
  }
  work_ = recorder.finish();
}

void Graph::replay(Stream& stream) {
  LS_CHECK(!stream.capturing(), kDevice, "a graph is replayed on {} while that is captured",
           stream.describe());
  for (const Event& use : capture_->memory->take_outside_uses()) {
    stream.wait(use);
  }
  work_->replay(stream);
  profile::replayed(profiled_);
  for (const auto& [key, storage] : capture_->held) {
    storage->record_use(stream);
  }
  for (const auto& [key, weak] : capture_->written) {
    if (const std::shared_ptr<Storage> storage = weak.lock()) {
      storage->bump_version();
    }
  }
}

}  // namespace ls
