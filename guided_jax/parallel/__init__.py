"""Several devices and several processes: pure train steps and samplers are compiled for them here and nowhere else.

`replicated` keeps the whole state on each device, by `jax.pmap`; `sharded` a part of it, by `jax.jit`.
"""

from guided_jax.parallel.chunks import chunk_size, map_in_chunks, padded_chunks
from guided_jax.parallel.devices import (
    choose_devices,
    compiler_options,
    dividing_prefix,
    jit,
    local_devices,
    use_cpu_devices,
)
from guided_jax.parallel.processes import (
    all_finite,
    exit_if_peer_lost,
    from_primary,
    join,
    primary,
    same_everywhere,
    share,
    single_process,
    stop_requested,
    takes_part,
    to_host,
    wait_for_all,
)
from guided_jax.parallel.replicated import as_global, data_parallel, first_copy, parallel_map, place, replicate, shard
from guided_jax.parallel.sharded import (
    fully_sharded,
    gathered,
    init_sharded,
    leaf_sharding,
    place_leaves,
    same_sharding,
    sharded_map,
)

__all__ = [
    "all_finite",
    "as_global",
    "choose_devices",
    "chunk_size",
    "compiler_options",
    "data_parallel",
    "dividing_prefix",
    "exit_if_peer_lost",
    "first_copy",
    "from_primary",
    "fully_sharded",
    "gathered",
    "init_sharded",
    "jit",
    "join",
    "leaf_sharding",
    "local_devices",
    "map_in_chunks",
    "padded_chunks",
    "parallel_map",
    "place",
    "place_leaves",
    "primary",
    "replicate",
    "same_everywhere",
    "same_sharding",
    "shard",
    "sharded_map",
    "share",
    "single_process",
    "stop_requested",
    "takes_part",
    "to_host",
    "use_cpu_devices",
    "wait_for_all",
]
