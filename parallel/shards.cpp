#include "parallel/shards.h"

#include <utility>

#include "core/comm/lists.h"

namespace ls::parallel {

void CommShards::gather(const Tensor& shard, Tensor& whole) {
  if (whole.device().host_accessible()) {
    comm_.all_gather(shard.raw(), whole.raw(), shard.numel(), shard.dtype());
  } else {
    begin_all_gather(comm_, {shard}, {whole}).wait();
  }
}

void CommShards::sum(const Tensor& whole, Tensor& shard) {
  if (whole.device().host_accessible()) {
    comm_.reduce_scatter(whole.raw(), shard.raw(), shard.numel(), shard.dtype());
    shard.bump_version();
  } else {
    begin_reduce_scatter(comm_, {whole}, {shard}).wait();
  }
}

}  // namespace ls::parallel
