"""JAX as it is written first: a batched network of flax's own layers, one device, a Python loop or a scan over the steps.

The networks are ours with the three layers that we have our own of, convolution, group norm and attention, put back to
flax's, so that the same parameters draw the same pictures.
"""

import functools
from collections.abc import Callable
from typing import Any
from unittest import mock

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from benchmarks.speed.ours import start, training_batch
from benchmarks.speed.sizes import EMA_DECAY, LABEL_DROPOUT, LEARNING_RATE, SCALE, Size, networks, parameters
from guided_jax.models import blocks
from guided_jax.models.ops import norm


def flax_group_norm(next_method: Callable, args: Any, kwargs: Any, context: Any) -> Any:
    """An interceptor that calls flax's layer in the place of our `norm.GroupNorm`."""
    ours = context.module
    if not isinstance(ours, norm.GroupNorm) or context.method_name != "__call__":
        return next_method(*args, **kwargs)
    layer = nn.GroupNorm(ours.num_groups, epsilon=1e-5, parent=None)
    return layer.apply({"params": {name: ours.get_variable("params", name) for name in ("scale", "bias")}}, *args)


def plain(size: Size) -> tuple[Callable, Callable]:
    """(params, x, t, label) -> eps and (params, x, t) -> logits, of flax's layers."""

    def of(network: nn.Module) -> Callable:
        def apply(*arguments: Any) -> Any:
            attention = mock.patch.object(blocks, "attend", nn.dot_product_attention)
            with attention, nn.intercept_methods(flax_group_norm):
                return network.apply(*arguments)

        return apply

    unet, classifier = networks(size, plain_convolution=True, attention_kernel="plain")
    return of(unet), of(classifier)


def alpha_bars() -> np.ndarray:
    """The products of 1 - beta of DDPM's linear schedule."""
    return np.cumprod(1 - np.linspace(1e-4, 0.02, 1000)).astype(np.float32)


def ddim_step(size: Size, kind: str, unet: Callable, classifier: Callable) -> Callable:
    """(params, x, labels, t, alpha_bar, alpha_bar_before) -> x one step less noisy, for a batch."""

    def step(params: Any, x: Any, labels: Any, t: Any, now: Any, before: Any) -> Any:
        times, null = jnp.full(len(x), t), jnp.full_like(labels, size.num_classes)
        eps = unet(params["unet"], x, times, null)
        if kind == "classifier":

            def total(x: Any) -> Any:
                logits = jax.nn.log_softmax(classifier(params["classifier"], x, times))
                return jnp.sum(logits[jnp.arange(len(x)), labels])

            eps = eps - SCALE * jnp.sqrt(1 - now) * jax.grad(total)(x)
        else:
            eps = eps + SCALE * (unet(params["unet"], x, times, labels) - eps)
        x_0 = (x - jnp.sqrt(1 - now) * eps) / jnp.sqrt(now)
        return jnp.sqrt(before) * x_0 + jnp.sqrt(1 - before) * eps

    return step


def steps(size: Size) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """t, its alpha_bar and that of the next step, from the noisiest on."""
    stride = 1000 // size.steps
    times = np.arange(0, 1000, stride)[::-1].astype(np.int32)
    bars = np.append(alpha_bars(), np.float32(1))  # index -1 is the clean level
    return times, bars[times], bars[np.where(times >= stride, times - stride, -1)]


def scanned(size: Size, kind: str, networks: tuple[Callable, Callable]) -> Callable:
    """(params, x_T, labels) -> x_0 in one `lax.scan`."""
    step, rows = ddim_step(size, kind, *networks), steps(size)

    def whole(params: Any, x: Any, labels: Any) -> Any:
        return jax.lax.scan(lambda x, row: (step(params, x, labels, *row), None), x, rows)[0]

    return whole


def looped(size: Size, kind: str, networks: tuple[Callable, Callable]) -> Callable:
    """(params, x_T, labels) -> x_0 in a loop of Python over a compiled step."""
    compiled, rows = jax.jit(ddim_step(size, kind, *networks)), list(zip(*steps(size), strict=True))

    def loop(params: Any, x: Any, labels: Any) -> Any:
        for row in rows:
            x = compiled(params, x, labels, *row)
        return x

    return loop


def sampling(size: Size, kind: str, who: str, networks: tuple[Callable, Callable] | None = None) -> Callable:
    """A function that draws `size.images` pictures. networks: others than `plain(size)`."""
    both = networks or plain(size)
    run = jax.jit(scanned(size, kind, both)) if who == "scan" else looped(size, kind, both)
    params, (x_T, labels) = parameters(size), start(size)
    return lambda: np.asarray(run(params, x_T, labels))


def train(size: Size) -> Callable[[], Any]:
    """A function that makes `size.train_steps` steps of training the U-Net: AdamW and an average of the weights."""
    unet, _ = plain(size)
    bars, batch = jnp.asarray(alpha_bars()), training_batch(size)
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LEARNING_RATE, weight_decay=0.0))

    def loss(params: Any, key: Any, x_0: Any, labels: Any) -> Any:
        key_t, key_eps, key_drop = jax.random.split(key, 3)
        t = jax.random.randint(key_t, (size.batch,), 0, 1000)
        eps = jax.random.normal(key_eps, x_0.shape)
        bar = bars[t][:, None, None, None]
        labels = jnp.where(jax.random.bernoulli(key_drop, LABEL_DROPOUT, labels.shape), size.num_classes, labels)
        return jnp.mean((unet(params, jnp.sqrt(bar) * x_0 + jnp.sqrt(1 - bar) * eps, t, labels) - eps) ** 2)

    @functools.partial(jax.jit, donate_argnums=(0, 1, 2))
    def step(params: Any, average: Any, memory: Any, key: Any, x_0: Any, labels: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, key, x_0, labels)
        updates, memory = optimizer.update(gradients, memory, params)
        params = optax.apply_updates(params, updates)
        average = jax.tree.map(lambda a, p: EMA_DECAY * a + (1 - EMA_DECAY) * p, average, params)
        return params, average, memory, value

    params = parameters(size)["unet"]
    state, key = (params, jax.tree.map(jnp.copy, params), optimizer.init(params)), jax.random.key(0)

    def run() -> Any:
        nonlocal state, key
        for _ in range(size.train_steps):
            key, key_step = jax.random.split(key)
            *state, value = step(*state, key_step, batch["image"], batch["label"])
        return value.block_until_ready()

    return run


def build(size: Size, job: str, who: str) -> Callable[[], Any]:
    """What is timed."""
    return train(size) if job == "train" else sampling(size, job, who)
