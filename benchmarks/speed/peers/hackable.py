"""google/hackable_diffusion's side, as its notebook of MNIST has it: process, time schedule, sampler, guidance, loss.

Its network is an `nn.Module` of (time, xt, conditioning, is_training), which ours becomes by a few lines. Its own networks
drop labels inside, in training, and so does that one.
"""

import functools
from collections.abc import Callable
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from hackable_diffusion import hd
from jax.experimental import checkify

from benchmarks.speed.ours import interval_of, start, training_batch
from benchmarks.speed.sizes import LABEL_DROPOUT, LEARNING_RATE, Size, networks, parameters
from guided_jax import schedule

STEPS = 1000  # of training, which the U-Net counts its time in
PROCESS = hd.corruption.gaussian.GaussianProcess(schedule=hd.corruption.schedules.LinearDiffusionSchedule())
TIMES = hd.sampling.time_scheduling.UniformTimeSchedule()


class Network(nn.Module):
    """A U-Net (x, t, label) -> eps, as the library calls its networks: times of 0 to 1, None in the place of no labels."""

    unet: nn.Module
    null: int
    dropout: float = LABEL_DROPOUT

    @nn.compact
    def __call__(self, time: Any, xt: Any, conditioning: Any, is_training: bool) -> dict[str, Any]:
        label = jnp.full(len(xt), self.null) if conditioning is None else conditioning["label"]
        if is_training:
            kept = jax.random.bernoulli(self.make_rng("dropout"), 1 - self.dropout, label.shape)
            label = jnp.where(kept, label, self.null)
        return {"epsilon": self.unet(xt, STEPS * time.reshape(-1), label)}


def levels_of(steps: int) -> schedule.NoiseLevel:
    """Those that its sampler visits, in our order and our time."""
    infos = TIMES.all_step_infos(jax.random.key(0), steps + 1, jnp.zeros((1, 1)))
    time = jnp.sort(infos.time.reshape(-1))
    return schedule.NoiseLevel(STEPS * time + 1, PROCESS.schedule.alpha(time), PROCESS.schedule.sigma(time))


def bounds_of(levels: schedule.NoiseLevel) -> tuple[float, float]:
    """The times of 0 to 1 between which the same steps are guided as by ours: half a step beyond the noisiest of them."""
    last = int(np.argmin(abs(levels.sigma / levels.alpha - interval_of(levels)[1])))
    return 0.0, float((levels.t[last] + levels.t[last + 1]) / 2 - 1) / STEPS


def sampling(size: Size, job: str, who: str, unet: nn.Module, variables: Any) -> Callable[[float], np.ndarray]:
    """scale -> pictures.

    Its guidance counts from 0, w = scale - 1, and is a constant of the program that it is compiled into, as the weights
    are; where `who` is traced we make both inputs by hand.
    """
    stepper = hd.sampling.gaussian_step_sampler.DDIMStep(corruption_process=PROCESS, stoch_coeff=0.0)
    loop = hd.sampling.sampling.DiffusionSampler(
        time_schedule=TIMES, stepper=stepper, num_steps=size.steps + 1, store_trajectory=False
    )
    x_T, labels = start(size)
    given = {
        "rng": jax.random.key(0),
        "initial_noise": jnp.asarray(x_T),
        "conditioning": {"label": jnp.asarray(labels)},
    }
    weights = {"unet": variables["params"]} if variables else {}
    lower, upper = bounds_of(levels_of(size.steps))

    def guided(params: Any, scale: Any) -> Any:
        base = hd.inference.wrappers.FlaxLinenInferenceFn(network=Network(unet, size.num_classes), params=params)
        rule = hd.inference.guidance.ScalarGuidanceFn(guidance=scale - 1)
        if job == "interval":
            rule = hd.inference.guidance.LimitedIntervalGuidanceFn(guidance=scale - 1, lower=lower, upper=upper)
        return hd.inference.diffusion_inference.GuidedDiffusionInferenceFn(base_inference_fn=base, guidance_fn=rule)

    @functools.cache
    def program(scale: float) -> Callable:
        return jax.jit(checkify.checkify(functools.partial(loop, inference_fn=guided(weights, scale))))

    @jax.jit
    def whole(params: Any, scale: Any, given: Any) -> Any:
        return checkify.checkify(functools.partial(loop, inference_fn=guided(params, scale)))(**given)

    def draw(scale: float) -> np.ndarray:
        error, (last, _) = whole(weights, np.float32(scale), given) if "traced" in who else program(scale)(**given)
        error.throw()
        return np.asarray(last.xt)

    return draw


def train(size: Size, who: str) -> Callable[[], Any]:
    """A function that makes `size.train_steps` steps: its notebook's, which keeps no average of the weights."""
    network = Network(networks(size)[0], size.num_classes)
    times = hd.training.time_sampling.UniformTimeSampler(span=hd.jax_helpers.SafeSpan(safety_epsilon=1e-3))
    loss_of = hd.training.gaussian_loss.NoWeightGaussianLoss()
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(LEARNING_RATE, weight_decay=0.0))

    def loss(params: Any, x_0: Any, conditioning: Any, rng: Any) -> Any:
        key_time, key_noise = jax.random.split(rng)
        time = times(key=key_time, data_spec=x_0)
        xt, targets = PROCESS.corrupt(key=key_noise, x0=x_0, time=time)
        output = network.apply(
            {"params": params}, time=time, xt=xt, conditioning=conditioning, is_training=True, rngs={"dropout": rng}
        )
        return jnp.mean(loss_of(preds=output, targets=targets, time=time))

    @jax.jit
    def update(params: Any, memory: Any, x_0: Any, conditioning: Any, rng: Any) -> Any:
        value, gradients = jax.value_and_grad(loss)(params, x_0, conditioning, rng)
        updates, memory = optimizer.update(gradients, memory, params)
        return optax.apply_updates(params, updates), memory, value

    params, batch, key = {"unet": parameters(size)["unet"]["params"]}, training_batch(size), jax.random.key(0)
    state = params, optimizer.init(params)
    x_0, conditioning = jnp.asarray(batch["image"]), {"label": jnp.asarray(batch["label"])}

    def run() -> Any:
        nonlocal state, key
        for _ in range(size.train_steps):
            key, key_step = jax.random.split(key)
            *state, value = update(*state, x_0, conditioning, key_step)
        return float(value)

    return run
