"""T2: which increments of a random walk are 0, where each is with a probability.

Given the variances that the increments would have if they were not 0, and given which of the others are 0, the walk can be
integrated out: each is decided by two evidences, in turn. `draw` decides from the walk in noise, whose cost grows with the
length, `draw_given` from any linear measurement.

Source: [GCK] Gerlach, Carter & Kohn, JASA 2000, whose sweep `draw` is, for a walk.
"""

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from guided_jax.numerics import ratio


def draw(
    share: float, kept: jax.Array, variances: jax.Array, seen: jax.Array, noise: jax.Array, e: jax.Array
) -> jax.Array:
    """Draw which increments are not 0, given the walk with noise of this variance, (length,) of 0 and 1.

    share: their probability. kept: of the sweep before. variances: of the increments if they are not 0.
    e: uniform in (0, 1), (length,).
    """

    def backward(later: tuple[jax.Array, jax.Array], each: tuple[jax.Array, ...]) -> tuple:
        # p(what is seen from here on | x_i) is exp(-precision x_i^2 / 2 + linear x_i), up to a constant.
        precision, linear = later[0] + 1 / noise, later[1] + each[1] / noise
        passed = 1 + each[0] * precision
        return (precision / passed, linear / passed), (precision, linear)

    def forward(before: tuple[jax.Array, jax.Array], each: tuple[jax.Array, ...]) -> tuple:
        mean, power = before
        variance, precision, linear, value, uniform = each

        def evidence(wide: jax.Array) -> jax.Array:
            fit = jnp.square(linear - precision * mean) * wide / (1 + wide * precision)
            return (fit - jnp.log1p(wide * precision)) / 2

        odds = special.logit(share) + evidence(power + variance) - evidence(power)
        is_kept = (uniform < jax.nn.sigmoid(odds)).astype(seen.dtype)
        wide = power + is_kept * variance
        gain = ratio(wide, wide + noise)
        return (mean + gain * (value - mean), gain * noise), is_kept

    zeros = jnp.zeros((), seen.dtype), jnp.zeros((), seen.dtype)
    _, (precisions, linears) = jax.lax.scan(backward, zeros, (kept * variances, seen), reverse=True)
    return jax.lax.scan(forward, zeros, (variances, precisions, linears, seen, e))[1]


def draw_given(
    share: float,
    kept: np.ndarray,
    variances: np.ndarray,
    steps: np.ndarray,
    y: np.ndarray,
    noise_std: float,
    e: np.ndarray,
) -> np.ndarray:
    """Draw which increments are not 0, given y = steps u + noise of each of n walks, (n, length) of 0 and 1.

    steps: (m, length). y: (n, m). kept, variances, e: as of `draw`, (n, length).
    """
    kept = kept.copy()
    inverse = np.linalg.inv((steps * (kept * variances)[:, None, :]) @ steps.T + noise_std**2 * np.eye(len(steps)))
    for i, column in enumerate(steps.T):
        along, variance = inverse @ column, variances[:, i]
        before = kept[:, i] * variance
        # s and q are a^T C^-1 a and a^T C^-1 y of the covariance C of y without this increment.
        without = 1 - before * (along @ column)
        s, q = along @ column / without, (along * y).sum(1) / without
        odds = special.logit(share) + (variance * q**2 / (1 + variance * s) - np.log1p(variance * s)) / 2
        kept[:, i] = e[:, i] < special.expit(odds)
        after = kept[:, i] * variance
        change = before / without - after / (without**2 * (1 + after * s))  # Sherman and Morrison, twice
        inverse += change[:, None, None] * along[:, :, None] * along[:, None, :]
    return kept
