"""The methods: what each draws of one problem, whatever its law, operator and levels."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax import guidance, operators, particles, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture

FLOOR = "other exact draws"
BEST = "`particles.measurement`, optimal variance"
AT_ONCE = 8_000  # numbers of samples that are drawn side by side: what lies in the caches is several times as fast


class Task(NamedTuple):
    """What a method is given."""

    key: Any
    prior: GaussianMixture | None  # None for what has no closed form, and no `optimal` step
    denoise: Any
    step: reverse.ReverseStep
    levels: schedule.NoiseLevel
    operator: operators.Operator
    y: jax.Array
    noise_std: jax.Array
    count: int
    dx: int
    data_std: Any = 11.4  # of all elements of the prior together

    def noise(self, count: int) -> jax.Array:
        """Return (count, dx) starting points."""
        return self.levels.sigma[-1] * jax.random.normal(jax.random.fold_in(self.key, 1), (count, self.dx))

    def optimal(self) -> "Task":
        """Return the same task with DDPM of the optimal variance, estimated on 200 examples of the prior."""
        key_data, key_noise = jax.random.split(jax.random.fold_in(self.key, 3))
        data = jax.vmap(self.prior.sample)(jax.random.split(key_data, 200))
        spread = reverse.estimated_spread(key_noise, self.denoise, data, self.levels)
        return self._replace(step=reverse.ddpm(reverse.optimal_variance(spread)))


class Method(NamedTuple):
    """A row of the table."""

    draw: Callable[[Task], jax.Array]  # (count, dx) samples
    calls: str  # a step and a sample; F and B: a forward and a backward pass of the network


def alone(guide: Callable[[Task], tuple[Any, reverse.ReverseStep]]) -> Callable[[Task], jax.Array]:
    """Draw each sample by itself, with the denoiser and the step that `guide` makes."""

    def draw(task: Task) -> jax.Array:
        denoise, step = guide(task)
        keys = sampler.keys(task.key, jnp.arange(task.count))
        run = lambda given: sampler.sample(given[0], denoise, step, given[1], task.levels)  # noqa: E731
        return jax.lax.map(run, (keys, task.noise(task.count)), batch_size=max(1, AT_ONCE // task.dx))

    return draw


def together(potential: Callable[[Task], particles.Potential], size: int | None = None) -> Callable[[Task], jax.Array]:
    """Draw the samples in clouds of `size` particles, or all in one: of a larger one, each of the weights' quantiles."""

    def draw(task: Task) -> jax.Array:
        each, clouds = size or task.count, -(-task.count // (size or task.count))
        kept = -(-task.count // clouds)

        def one(key: Any) -> jax.Array:
            x_T = task._replace(key=key).noise(each)
            part = max(1, AT_ONCE // task.dx)
            cloud = particles.sample(key, task.denoise, task.step, x_T, task.levels, potential(task), chunk=part)
            x = particles.resample(jax.random.fold_in(key, 2), cloud)
            return x[jnp.arange(kept) * each // kept]

        x = jax.vmap(one)(sampler.keys(task.key, jnp.arange(clouds)))
        return x.reshape(-1, task.dx)[: task.count]

    return draw


def best_of(count: Callable[[int], int]) -> Callable[[Task], jax.Array]:
    """Draw several of the prior for each sample, and keep the one that fits y best."""

    def draw(task: Task) -> jax.Array:
        each = count(task.y.size)
        more = task._replace(count=each * task.count)
        x_0 = alone(lambda task: (task.denoise, task.step))(more).reshape(task.count, each, task.dx)
        misfit = jnp.square(jax.vmap(jax.vmap(task.operator.forward))(x_0) - task.y[None, None]).sum(-1)
        return x_0[jnp.arange(task.count), misfit.argmin(1)]

    return draw


def measured(task: Task) -> particles.Potential:
    """The potential of `particles.measurement`."""
    return particles.measurement(task.operator, task.y, task.noise_std)


def plain(task: Task) -> particles.Potential:
    """The potential of `particles.twisted`."""
    return particles.twisted(guidance.likelihood(task.operator, task.y, task.noise_std))


def by_covariance(task: Task) -> tuple[Any, reverse.ReverseStep]:
    """`guidance.mmps`, solved exactly."""
    return guidance.mmps(task.denoise, task.operator, task.y, task.noise_std, task.y.size), task.step


def with_optimal(draw: Callable[[Task], jax.Array]) -> Callable[[Task], jax.Array]:
    """Draw with DDPM of the optimal variance."""
    return lambda task: draw(task.optimal())


def with_step(step: reverse.ReverseStep, draw: Callable[[Task], jax.Array]) -> Callable[[Task], jax.Array]:
    """Draw with this step."""
    return lambda task: draw(task._replace(step=step))
