"""A guidance of your own: denoisers in, a denoiser out, and a name for it on the command line.

    python examples/own_guidance.py

Towards samples of a given mean: the score gets the gradient of log p(y | x_0) = -(mean(x_0) - y)^2 / (2 std^2), taken back
through the network. The data is a mixture of two normal laws, so the right answer is known.
"""

import jax
import jax.numpy as jnp

from guided_jax import analytic, guidance, reverse, sampler, schedule
from guided_jax.app.sample.guidances import GUIDANCES, Row


def towards_mean(denoise, y, std, scale):
    """score + scale grad_{x_t} log N(y; mean(x_0(x_t)), std^2), with x_0(x_t) what `denoise` predicts."""

    def log_prob(x_0, level):
        return -((x_0.mean() - y) ** 2) / (2 * std**2)

    return guidance.universal(denoise, log_prob, scale)


# One row, and `guided-jax sample --guidance bright` knows it, with its modifiers, samplers and diagnostics.
GUIDANCES["bright"] = Row(
    "towards pictures whose mean is 0.5",
    lambda parts: (parts.plain(), lambda denoise: towards_mean(denoise, 0.5, 0.1, parts.scale)),
)


def main(count: int = 2000) -> jax.Array:
    """Draw from a mixture of two normal laws, towards the upper one; return the mean of each sample."""
    mixture = analytic.GaussianMixture(jnp.ones(2), jnp.array([[-1.0, -1.0], [1.0, 1.0]]), jnp.array([0.3, 0.3]))
    levels = schedule.respace(schedule.cosine(1000), 50)

    def draw(key, y):
        denoise = towards_mean(mixture.denoiser(), y, 0.3, 1.0)
        key_noise, key_run = jax.random.split(key)
        x_T = schedule.at(levels, -1).sigma * jax.random.normal(key_noise, (2,))
        return sampler.sample(key_run, denoise, reverse.ddim(), x_T, levels)

    keys = sampler.keys(jax.random.key(0), jnp.arange(count))
    return jax.jit(jax.vmap(draw))(keys, jnp.full(count, 1.0)).mean(1)


if __name__ == "__main__":
    found = main()
    print(f"{(found > 0).mean():.3f} of the samples are of the upper law; without guidance it is half of them")
