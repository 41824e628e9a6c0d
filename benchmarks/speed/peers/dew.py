"""Dew's side, as its read-me has it: a process and its denoiser, `sample` under `jax.jit`, an objective and its trainer.

Its network is an `nn.Module` of (x, t) and named conditions, which ours nearly is. It conditions pictures on texts alone; a
label is an encoder of it that encodes nothing.
"""

import functools
from collections.abc import Callable, Sequence
from typing import Any, ClassVar

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from dew import CFG, Condition, Field, InputSpec, Process, Trainer, sample
from dew.diffusion import EpsilonPredictionTransform, LinearNoiseScheduler
from dew.inputs import ConditionEncoder
from dew.objectives.diffusion import DiffusionObjective
from dew.sampling import DDIM

from benchmarks.speed import ours
from benchmarks.speed.sizes import EMA_DECAY, INTERVAL, LABEL_DROPOUT, LEARNING_RATE, Size, networks, parameters
from guided_jax import schedule

PROCESS = Process(LinearNoiseScheduler(1000), EpsilonPredictionTransform())  # the table that ours is


class Network(nn.Module):
    """A U-Net (x, t, label) -> eps, as the library calls its networks."""

    unet: nn.Module

    def __call__(self, x: Any, t: Any, label: Any, train: bool = False) -> Any:
        return self.unet(x, t, label)


class Labels(ConditionEncoder):
    """Labels, as they are."""

    params: ClassVar[dict] = {}
    reads_captions = False

    @classmethod
    def from_pretrained(cls, checkpoint: str, *, params: Any = None) -> "Labels":
        return cls()

    def tokenize(self, texts: Sequence[Any]) -> Any:
        return np.asarray(texts, np.int32)

    def encode(self, params: Any, tokens: Any) -> Any:
        return jnp.asarray(tokens)

    def to_json(self) -> dict[str, str]:
        return {"checkpoint": "labels"}


def levels_of(steps: int) -> schedule.NoiseLevel:
    """Ours: `sample` takes any times."""
    return ours.levels_of(steps)


def interval_of(steps: int) -> tuple[float, float]:
    """The part of the walk, from 0 at the noise to 1 at the end, that is guided: the same steps as by ours."""
    low, high = (round(share * steps) for share in INTERVAL)
    return (steps - high) / (steps - 1), min(1.0, (steps - max(low, 1)) / (steps - 1))


def sampling(size: Size, job: str, who: str, unet: nn.Module, variables: Any) -> Callable[[float], np.ndarray]:
    """scale -> pictures.

    `CFG` is a constant of the program that it is compiled into; where `who` is traced we make its scale an input by hand.
    """
    times = np.asarray(levels_of(size.steps).t)[:0:-1] - 1  # from the noisiest; the clean level is a last call's x_0
    x_T, labels = map(jnp.asarray, ours.start(size))
    model, null = Network(unet), {"label": jnp.int32(size.num_classes)}
    weights = {name: {"unet": tree} for name, tree in variables.items()}
    interval = interval_of(size.steps) if job == "interval" else (0.0, 1.0)

    def whole(weights: Any, scale: Any, x_T: Any, labels: Any) -> Any:
        denoise = PROCESS.denoiser(model, weights, {"label": labels}, null)
        return sample(denoise, x_T, times=times, solver=DDIM(), guidance=CFG(scale, interval), key=0)

    traced = jax.jit(whole)

    @functools.cache
    def program(scale: float) -> Callable:
        return jax.jit(lambda weights, x_T, labels: whole(weights, scale, x_T, labels))

    def draw(scale: float) -> np.ndarray:
        if "traced" in who:
            return np.asarray(traced(weights, np.float32(scale), x_T, labels))
        return np.asarray(program(scale)(weights, x_T, labels))

    return draw


def train(size: Size, who: str) -> Callable[[], Any]:
    """A function that makes `size.train_steps` steps of its trainer's compiled step."""
    batch = ours.training_batch(size)
    batch["image"] = 127.5 * (batch["image"] + 1)  # of 0 to 255
    variables = {"params": {"unet": parameters(size)["unet"]["params"]}, "encoders": {"label": {}}}
    label = Condition(Labels(), "label", size.num_classes)
    objective = DiffusionObjective(
        Network(networks(size)[0]),
        PROCESS,
        InputSpec(Field("image", batch["image"].shape[1:]), {"label": label}),
        unconditional_prob=LABEL_DROPOUT,
        ema_decay=EMA_DECAY,
        variables=variables,
    )
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LEARNING_RATE, weight_decay=0.0))
    trainer = Trainer(objective, optimizer, key=0)
    state, *_ = trainer.place()
    step: Any = None

    def run() -> Any:
        nonlocal state, step
        step = step or trainer.compile(state, batch)
        for _ in range(size.train_steps):
            state, loss, *_ = step(state, batch)
        return float(loss)

    return run
