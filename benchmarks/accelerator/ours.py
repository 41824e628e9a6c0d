"""The library's side: guided sampling as `guided-jax sample` has it and a step of training, of random weights."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import chips
from benchmarks.accelerator.sizes import NETWORKS, Network, Row
from benchmarks.speed import flops, ours
from benchmarks.speed.sizes import EMA_DECAY, SCALE, drawn
from guided_jax import guidance, parallel, reverse, sampler, schedule, training
from guided_jax.pretrained import dit

Tree = Any
BAD = 2 / 3  # of the width: EDM2-XS guides EDM2-S ([AG])
SIGMA_MAX = 80.0


def dit_case(config: dict[str, Any], **fields: Any) -> chips.Case:
    """DiT of these arguments; of its output the part that is not the variance's."""
    module = dit.make_network(config, dtype=jnp.bfloat16).clone(**fields)

    def network(params: Tree, x: Any, time: Any, label: Any) -> Any:
        return module.apply(params, x, time, label)[..., : module.in_channels]

    label = jax.ShapeDtypeStruct((), jnp.int32)
    return chips.eps_case(dit.shapes(module), module.input_size, network, label)


def cases(name: str, config: dict[str, Any], plain: bool = False, **fields: Any) -> dict[str, chips.Case]:
    """{"good": the network} and, where a smaller one guides it, "bad".

    plain: XLA's own convolutions, for counting. fields: of the modules.
    """
    if name.startswith("dit"):
        return {"good": dit_case(config, **fields)}
    fields["plain_convolution"] = plain
    if name.startswith("sd"):
        return {"good": chips.text_case(config, {"context": (77, config["cross_attention_dim"])}, **fields)}
    smaller = config | {"model_channels": round(BAD * config["model_channels"]) // 16 * 16}
    return {key: chips.edm2_case(each, **fields) for key, each in {"good": config, "bad": smaller}.items()}


def weights(found: dict[str, chips.Case], dtype: Any) -> Tree:
    """Random weights of each network in this type, and for a network that is told a text two prompts, the second empty."""
    rng = np.random.default_rng(0)
    params = {key: drawn(case.params, rng) for key, case in found.items()}
    condition = found["good"].condition
    if isinstance(condition, dict):
        shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((2, *leaf.shape), leaf.dtype), condition)
        params["prompts"] = {name: rng.standard_normal(leaf.shape, np.float32) for name, leaf in shapes.items()}
    return jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), params)


def denoiser_of(found: dict[str, chips.Case], params: Tree, label: Any, null: int) -> Any:
    """Autoguidance with a smaller network, else classifier-free guidance, both conditions in one call."""
    good = found["good"]
    if "bad" in found:
        pair = (found[key].denoise(params[key], label) for key in ("good", "bad"))
        return guidance.autoguidance(*pair, SCALE)
    condition = jnp.stack([label, jnp.full_like(label, null)])
    if "prompts" in params:
        condition = jax.tree.map(lambda leaf: leaf[condition], params["prompts"])
    free = functools.partial(guidance.classifier_free, scale=SCALE)
    return guidance.batched(lambda each: good.denoise(params["good"], each), condition, free)


def sampling(network: Network, found: dict[str, chips.Case]) -> Callable[[], np.ndarray]:
    """A function that draws `work.images` pictures on one device, all weights in bfloat16."""
    size, variance_exploding = network.work, "bad" in found
    levels = schedule.karras(size.steps, 0.002, SIGMA_MAX) if variance_exploding else ours.levels_of(size.steps)

    def draw(params: Tree, x_T: Any, label: Any) -> Any:
        denoise = denoiser_of(found, params, label, size.num_classes)
        return sampler.sample(jax.random.key(0), denoise, reverse.ddim(), x_T, levels)

    x_T, label = ours.start(size)
    devices = jax.devices()[:1]
    params = parallel.replicate(weights(found, jnp.bfloat16), devices)
    run = parallel.parallel_map(draw, devices, (None, 0, 0))
    return functools.partial(run, params, SIGMA_MAX * x_T if variance_exploding else x_T, label)


def training_run(network: Network, case: chips.Case) -> Callable[[], Any]:
    """A function that makes `work.train_steps` steps on one device: AdamW, clipping, an average; weights in float32."""
    size, devices = network.work, jax.devices()[:1]
    loss = functools.partial(chips.loss, case)
    one = functools.partial(training.train_step, loss=loss, optimizer=chips.OPTIMIZER, ema_decay=EMA_DECAY)
    step, params = parallel.data_parallel(one, devices), weights({"good": case}, jnp.float32)["good"]
    state = parallel.place(training.init(jax.random.key(0), params, chips.OPTIMIZER), devices)
    given = ours.training_batch(size)
    return ours.stepping(step, state, {"image": given["image"], "condition": given["label"]}, size.train_steps)


def build(row: Row, attention: str) -> Callable[[], Any]:
    """What is timed, with this kernel of attention."""
    network = NETWORKS[row.network]
    if not network.config:  # ADM, which `benchmarks.speed` has
        size = network.work._replace(attention_kernel=attention)
        if row.job == "train":
            return ours.train(size, jax.devices()[:1])
        return ours.sampling(size, "classifier", "plain", jax.devices()[:1])
    found = cases(row.network, network.config, attention_kernel=attention)
    return training_run(network, found["good"]) if row.job == "train" else sampling(network, found)


def operations(row: Row) -> int:
    """Of one timing, by torch's rules (`speed.flops`): calls for sampling, calls with their gradients for training."""
    network = NETWORKS[row.network]
    size = network.work
    if not network.config:
        counts = flops.of_networks(size, flops.by_torch_rules)
        each = {"train": counts["train"], "sample": counts["unet"] + counts["classifier"]}[row.job]
    else:
        found = cases(row.network, network.config, plain=True)
        counts = {key: count(case, row.job) for key, case in found.items()}
        each = counts["good"] if row.job == "train" else sum(counts.values()) * (1 if "bad" in found else 2)
    return each * (size.batch * size.train_steps if row.job == "train" else size.images * size.steps)


def count(case: chips.Case, job: str) -> int:
    """Operations of one call of a network for one example, with the gradient of its weights for job "train"."""

    def call(params: Tree, x: Any, time: Any, condition: Any) -> Any:
        return jnp.sum(case.network(params, x, time, condition))

    function = jax.grad(call) if job == "train" else call
    return flops.by_torch_rules(function, case.params, case.x, jax.ShapeDtypeStruct((), jnp.float32), case.condition)
