"""A picture of which a part is known: inpainting by pseudo-inverse guidance, beside the exact answer.

    python examples/posterior.py

The data is a normal law in two dimensions with independent coordinates of equal deviation; the first one is measured, with
noise, and so the second keeps its law. For normal data the guidance is exact.
"""

import jax
import jax.numpy as jnp

from guided_jax import analytic, guidance, operators, reverse, sampler, schedule


def main(count: int = 2000) -> tuple[jax.Array, float]:
    """Return (samples of x_0 given its first coordinate, their exact mean of the first coordinate)."""
    std, noise_std, y = 0.7, 0.2, jnp.array([1.0, 0.0])
    data = analytic.GaussianMixture(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([std]))
    observed = operators.mask(jnp.array([1.0, 0.0]))
    levels = schedule.respace(schedule.cosine(1000), 100)

    def draw(key):
        denoise = guidance.pigdm(data.denoiser(), observed, y, noise_std, std)
        key_noise, key_run = jax.random.split(key)
        x_T = schedule.at(levels, -1).sigma * jax.random.normal(key_noise, (2,))
        return sampler.sample(key_run, denoise, reverse.ddim(1.0), x_T, levels)

    samples = jax.jit(jax.vmap(draw))(sampler.keys(jax.random.key(0), jnp.arange(count)))
    exact = float(y[0] * std**2 / (std**2 + noise_std**2))
    return samples, exact


if __name__ == "__main__":
    samples, exact = main()
    print(f"mean of the measured coordinate: {samples[:, 0].mean():.3f}, exactly {exact:.3f}")
    print(f"standard deviation of the other: {samples[:, 1].std():.3f}, exactly 0.700")
