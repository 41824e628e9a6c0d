"""The library's side: what `sample.py` and `train.py` run, of networks of any size."""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks.speed.sizes import EMA_DECAY, INTERVAL, LABEL_DROPOUT, LEARNING_RATE, SCALE, Size, networks, parameters
from guided_jax import denoiser, guidance, losses, models, parallel, reverse, sampler, schedule, training

TABLE = schedule.linear(1000)


def levels_of(steps: int) -> schedule.NoiseLevel:
    """ADM's ddim spacing: t = 1, 1 + 1000 / steps, ..."""
    return schedule.respace(TABLE, f"ddim{steps}")


def interval_of(levels: schedule.NoiseLevel) -> tuple[float, float]:
    """The two sigma / alpha between which `INTERVAL` of the steps lie."""
    sigma = np.asarray(levels.sigma / levels.alpha)
    low, high = (sigma[round(share * (len(sigma) - 1))] for share in INTERVAL)
    return float(low), float(high)


def drawing(size: Size, kind: str, how: str, unet: Callable, classifier: Callable) -> Callable:
    """(params, x_T, label) -> x_0 of one example. how: "plain", "fused" or "interval".

    unet: (params, x, t, label) -> eps, classifier: (params, x, t) -> logits.
    """
    levels, null = levels_of(size.steps), size.num_classes
    bounds, free = interval_of(levels), functools.partial(guidance.classifier_free, scale=SCALE)

    def guided(model: Callable, logits: Callable, label: Any) -> denoiser.Denoiser:
        if kind == "classifier":
            return guidance.classifier(model(null), guidance.from_logits(logits, label), SCALE)
        if how == "fused":
            return guidance.batched(model, jnp.stack([label, jnp.full_like(label, null)]), free)
        if how == "interval":
            return guidance.interval(lambda c: free(c, model(null)), model(label), *bounds)
        return free(model(label), model(null))

    def draw(params: Any, x_T: Any, label: Any) -> Any:
        model = lambda y: denoiser.from_network(lambda x, t: unet(params["unet"], x, t, y))  # noqa: E731
        logits = lambda x, level: classifier(params["classifier"], x, denoiser.network_time(level))  # noqa: E731
        return sampler.sample(jax.random.key(0), guided(model, logits, label), reverse.ddim(), x_T, levels)

    return draw


def prepared(size: Size, params: Any) -> Any:
    """The params of our networks, prepared once for all steps."""
    example = jnp.zeros((1, size.side, size.side, size.channels)), jnp.zeros(1)
    both = dict(zip(("unet", "classifier"), networks(size), strict=True))
    return {name: models.prepare_params(both[name], params[name], *example) for name in both}


def sampling(size: Size, kind: str, how: str, devices: list) -> Callable[[], np.ndarray]:
    """A function that draws `size.images` pictures."""
    unet, classifier = networks(size)
    draw = parallel.parallel_map(drawing(size, kind, how, unet.apply, classifier.apply), devices, (None, 0, 0))
    placed = parallel.replicate(jax.jit(functools.partial(prepared, size))(parameters(size)), devices)
    return functools.partial(draw, placed, *start(size))


def start(size: Size) -> tuple[np.ndarray, np.ndarray]:
    """The noise and the labels that everybody begins with."""
    shape = (size.images, size.side, size.side, size.channels)
    x_T = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    return x_T, (np.arange(size.images) % size.num_classes).astype(np.int32)


def training_batch(size: Size) -> dict[str, np.ndarray]:
    """Pictures and labels to train on."""
    rng = np.random.default_rng(1)
    pictures = rng.uniform(-1, 1, (size.batch, size.side, size.side, size.channels)).astype(np.float32)
    return {"image": pictures, "label": rng.integers(0, size.num_classes, size.batch).astype(np.int32)}


def diffusion_loss(size: Size) -> Callable:
    """As `train.py` has it."""
    unet, _ = networks(size)

    def loss(params: Any, keys: Any, batch: Any) -> tuple[Any, dict]:
        label = losses.drop(keys, batch["label"], jnp.int32(size.num_classes), LABEL_DROPOUT)
        network = lambda x, t, label, keys: unet.apply(params, x, t, label)  # noqa: E731
        return losses.diffusion(network, keys, batch["image"], label, TABLE).mean(), {}

    return loss


def train(size: Size, devices: list) -> Callable[[], Any]:
    """A function that makes `size.train_steps` steps of training the U-Net."""
    optimizer = training.optimizer(LEARNING_RATE, 10**6, decay="constant")
    one = functools.partial(training.train_step, loss=diffusion_loss(size), optimizer=optimizer, ema_decay=EMA_DECAY)
    step, batch = parallel.data_parallel(one, devices), training_batch(size)
    state = parallel.place(training.init(jax.random.key(0), parameters(size)["unet"], optimizer), devices)
    return stepping(step, state, batch, size.train_steps)


def stepping(step: Callable, state: Any, batch: Any, count: int) -> Callable[[], Any]:
    """A function that makes `count` further steps on the same batch and returns the loss."""

    def run() -> Any:
        nonlocal state
        for _ in range(count):
            state, metrics = step(state, batch)
        return jax.block_until_ready(metrics)["loss"]

    return run


def way(who: str) -> str:
    """How the two conditions of classifier-free guidance are asked: "plain", "fused" or "interval"."""
    return who.rpartition(", ")[2] if who.endswith(("fused", "interval")) else "plain"


def build(size: Size, job: str, who: str) -> Callable[[], Any]:
    """What is timed."""
    count = size.batch if job == "train" else size.images
    devices = parallel.choose_devices(count, 1 if "1 device" in who else None)
    return train(size, devices) if job == "train" else sampling(size, job, way(who), devices)
