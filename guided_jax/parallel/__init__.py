"""Several devices, and several processes, known to this package only: the train step and the sampler stay pure, and
are compiled for them here, by `jax.pmap` with a whole state on each device, or by `jax.jit` with a part of it on each."""

from guided_jax.parallel.chunks import chunk_size, map_in_chunks
from guided_jax.parallel.devices import choose_devices, dividing, local_devices, use_cpu_devices
from guided_jax.parallel.processes import (
    exit_if_peer_lost,
    join,
    primary,
    same_everywhere,
    share,
    single_process,
    stop_requested,
)
from guided_jax.parallel.replicated import as_global, data_parallel, parallel_map, place, shard
from guided_jax.parallel.sharded import fully_sharded, init_sharded, part_of, sharded_map

__all__ = [
    "as_global",
    "choose_devices",
    "chunk_size",
    "data_parallel",
    "dividing",
    "exit_if_peer_lost",
    "fully_sharded",
    "init_sharded",
    "join",
    "local_devices",
    "map_in_chunks",
    "parallel_map",
    "part_of",
    "place",
    "primary",
    "same_everywhere",
    "shard",
    "sharded_map",
    "share",
    "single_process",
    "stop_requested",
    "use_cpu_devices",
]
