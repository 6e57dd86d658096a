#include "tests/support/stand_in.h"

#include <algorithm>
#include <cstdlib>
#include <cstring>

#include "core/base/error.h"
#include "core/tensor/tensor_kernels.h"
#include "tests/support/stand_in_machine.h"

namespace ls::test {
namespace {

DeviceProperties what_it_is() {
  DeviceProperties p;
  p.model = "stand-in";
  p.memory = TwiceMapped::kBytes;
  p.alignment = 256;
  p.workspace = Index{1} << 16;
  p.runs_host_code = true;
  return p;
}

/// A CPU kernel as a piece of work on views with the kernels' addresses.
template <class Run>
void launch(const ExecutionContext& ctx, std::initializer_list<Access> uses, Run run) {
  ctx.stream.launch([run = std::move(run)] { run(current_context(cpu())); },
                    std::span<const Access>(uses.begin(), uses.size()));
}

void copy(const ExecutionContext& ctx, TensorView to, const TensorView& from) {
  launch(ctx, {access_of(from, false), access_of(to, true)},
         [t = kernel_view(ctx.device, to), f = kernel_view(ctx.device, from)](const auto& host) {
           cpu_tensor_kernels().copy(host, t, f);
         });
}
void fill(const ExecutionContext& ctx, TensorView to, double value) {
  launch(ctx, {access_of(to, true)}, [t = kernel_view(ctx.device, to), value](const auto& host) {
    cpu_tensor_kernels().fill(host, t, value);
  });
}
void add(const ExecutionContext& ctx, TensorView to, const TensorView& from, double alpha) {
  launch(ctx, {access_of(from, false), access_of(to, true)},
         [t = kernel_view(ctx.device, to), f = kernel_view(ctx.device, from),
          alpha](const auto& host) { cpu_tensor_kernels().add(host, t, f, alpha); });
}
void mul(const ExecutionContext& ctx, TensorView to, double factor) {
  launch(ctx, {access_of(to, true)}, [t = kernel_view(ctx.device, to), factor](const auto& host) {
    cpu_tensor_kernels().mul(host, t, factor);
  });
}

constexpr TensorKernels kKernels = {copy, fill, add, mul};
const bool kernels_set = [] {
  set_tensor_kernels(DeviceType::kStandIn, kKernels);
  return true;
}();

}  // namespace

// Streams.

StandInStream::StandInStream(StandIn& device, int index)
    : Stream(device, index), machine_(*device.machine()), owner_(device) {
  id_ = machine_.add(*this);
}

StandInStream::~StandInStream() {
  machine_.remove(*this);
}

void StandInStream::work(const char* kind, std::function<void()> run, std::vector<Access> uses) {
  Item item;
  const std::string context = innermost_context();
  item.name = context.empty() ? kind : fmt::format("{} ({})", kind, context);
  item.run = std::move(run);
  item.uses = std::move(uses);
  machine_.check_buffers(*this, item);
  if (recording_) {
    recording_->add(*this, std::move(item));
  } else {
    machine_.put(*this, std::move(item), false);
  }
}

void StandInStream::copy(void* to, const void* from, Index bytes) {
  const auto is_known = [&](const void* p) {
    if (bytes == 0 || machine_.memory.holds(p)) {
      return true;
    }
    auto it = machine_.pinned.upper_bound(const_cast<void*>(p));
    return it != machine_.pinned.begin() &&
           static_cast<const char*>(p) < static_cast<char*>((--it)->first) + it->second;
  };
  LS_CHECK(is_known(to) && is_known(from), kDevice,
           "{} copies to or from memory of the host that is not pinned", describe());
  void* const t = machine_.memory.for_kernels(to);
  const void* const f = machine_.memory.for_kernels(const_cast<void*>(from));
  work("a copy", [=] { std::memcpy(t, f, static_cast<std::size_t>(bytes)); },
       {{from, bytes, false}, {to, bytes, true}});
}

void StandInStream::fill(void* to, unsigned char value, Index bytes) {
  void* const t = machine_.memory.for_kernels(to);
  work("a fill", [=] { std::memset(t, value, static_cast<std::size_t>(bytes)); },
       {{to, bytes, true}});
}

void StandInStream::launch(std::function<void()> kernel, std::span<const Access> uses) {
  LS_CHECK(!recording_ || owner_.fails_at_ < 0 || recorded_kernels_ != owner_.fails_at_, kDevice,
           "{} records no more than {} kernels", describe(), owner_.fails_at_);
  ++recorded_kernels_;
  work("a kernel", std::move(kernel), {uses.begin(), uses.end()});
}

std::shared_ptr<Event::State> StandInStream::do_record() {
  Item item;
  item.kind = Item::Kind::kRecord;
  item.event = std::make_shared<StandInEvent>(machine_);
  const auto event = item.event;
  if (recording_) {
    recording_->add(*this, std::move(item));
  } else {
    machine_.put(*this, std::move(item), false);
  }
  return event;
}

void StandInStream::do_wait(const Event& event) {
  Item item;
  item.kind = Item::Kind::kWait;
  item.event = std::static_pointer_cast<StandInEvent>(event.shared_state());
  if (event.capture() && !recording_) {
    recording_ = static_cast<StandInStream*>(event.stream())->recording_;
  }
  if (recording_) {
    recording_->add(*this, std::move(item));
  } else {
    machine_.put(*this, std::move(item), false);
  }
}

void StandInStream::do_synchronize() {
  machine_.wait_for(*this);
}

void StandInStream::do_begin_capture() {
  recorded_kernels_ = 0;
  own_recording_ = std::make_unique<Recording>(owner_);
  recording_ = own_recording_.get();
  recording_->branch_of(*this);
}

std::unique_ptr<RecordedWork> StandInStream::do_end_capture() {
  std::unique_ptr<Recording> recording = std::move(own_recording_);
  recording->release_streams();
  recording->check_joined();
  return recording;
}

// Recordings.

int Recording::branch_of(StandInStream& stream) {
  const auto at = std::find(captured_.begin(), captured_.end(), &stream);
  const auto branch = static_cast<int>(at - captured_.begin());
  if (at == captured_.end()) {
    captured_.push_back(&stream);
    clocks_.emplace_back();
  }
  return branch;
}

void Recording::release_streams() {
  for (StandInStream* s : captured_) {
    s->recording_ = nullptr;
  }
}

void Recording::add(StandInStream& stream, Item item) {
  const int branch = branch_of(stream);
  Clock& clock = clocks_[static_cast<std::size_t>(branch)];
  switch (item.kind) {
    case Item::Kind::kRecord:
      item.event->clock = clock;
      item.event->number = events_++;
      break;
    case Item::Kind::kWait:
      clock.join(item.event->clock);
      break;
    case Item::Kind::kWork:
      clock.set(branch, clock[branch] + 1);
      break;
  }
  nodes_.push_back({branch, std::move(item)});
}

void Recording::check_joined() const {
  for (int b = 1; b < static_cast<int>(clocks_.size()); ++b) {
    const auto i = static_cast<std::size_t>(b);
    LS_CHECK(clocks_[0][b] >= clocks_[i][b], kDevice,
             "{} was captured into a graph that does not wait for it at its end",
             captured_[i]->describe());
  }
}

void Recording::replay(Stream& stream) {
  auto& first = static_cast<StandInStream&>(stream);
  StandInMachine& machine = first.machine_;
  std::vector<StandInStream*> on = {&first};
  for (std::size_t b = 1; b < captured_.size(); ++b) {
    if (streams_.size() < b) {
      streams_.push_back(std::make_unique<StandInStream>(device_, -1));
    }
    on.push_back(streams_[b - 1].get());
    on.back()->wait(first.record());
  }
  std::vector<std::shared_ptr<StandInEvent>> events(static_cast<std::size_t>(events_));
  for (const Node& node : nodes_) {
    Item item = node.item;
    if (item.event) {
      auto& event = events[static_cast<std::size_t>(item.event->number)];
      event = event ? event : std::make_shared<StandInEvent>(machine);
      item.event = event;
    }
    machine.put(*on[static_cast<std::size_t>(node.branch)], std::move(item), true);
  }
}

// The device.

StandIn::StandIn(std::uint64_t seed, std::shared_ptr<StandInMachine> machine)
    : Device(DeviceType::kStandIn, machine ? machine->devices : 0, what_it_is()),
      machine_(machine ? std::move(machine) : std::make_shared<StandInMachine>(seed)),
      memory_(std::make_shared<BlockPool>(*this, MemoryKind::kDevice)),
      pinned_(std::make_shared<BlockPool>(*this, MemoryKind::kPinned)) {
  ++machine_->devices;
  new_stream();
}

void StandIn::run_by_itself() {
  machine_->run_by_itself();
}

StandIn::~StandIn() {
  machine_->drain();
  machine_->come_to_rest();
  streams_.clear();
  memory_.reset();
  pinned_.reset();
}

Stream& StandIn::default_stream() {
  return *streams_.front();
}

Stream& StandIn::new_stream() {
  streams_.push_back(std::make_unique<StandInStream>(*this, static_cast<int>(streams_.size())));
  Stream& stream = *streams_.back();
  equip(stream, memory_->allocate(equipment_bytes(), stream).data);
  return stream;
}

void* StandIn::kernel_address(void* data) const {
  return machine_->memory.for_kernels(data);
}

void StandIn::synchronize() {
  for (const auto& stream : streams_) {
    stream->synchronize();
  }
}

void* StandIn::reserve(MemoryKind kind, Index bytes) {
  const std::lock_guard lock(machine_->host);
  if (kind == MemoryKind::kDevice) {
    return machine_->memory.take(bytes);
  }
  constexpr Index kPage = 4096;
  void* const data =
      std::aligned_alloc(kPage, static_cast<std::size_t>((bytes + kPage - 1) / kPage * kPage));
  machine_->pinned[data] = bytes;
  return data;
}

void StandIn::release(MemoryKind kind, void* data, Index bytes) {
  const std::lock_guard lock(machine_->host);
  machine_->drain();
  if (kind == MemoryKind::kDevice) {
    machine_->memory.give_back(data, bytes);
  } else {
    machine_->pinned.erase(data);
    std::free(data);
  }
}

// What was there before is gone, so that a kernel that reads it makes NaN.
void StandIn::note_allocated(const BlockPool& pool, void* data, Index bytes, Stream* home) {
  {
    const std::lock_guard lock(machine_->host);
    machine_->log.allocated(data, bytes, pool.of_graphs() && home->capturing());
  }
  home->fill(data, 0xff, bytes);
}

void StandIn::note_freed(const BlockPool&, void* data, Index, Stream*) {
  const std::lock_guard lock(machine_->host);
  machine_->log.freed(data);
}

}  // namespace ls::test
