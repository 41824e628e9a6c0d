"""Guidance that makes fewer calls: the difference that is used again, and an interval that is one of the scale."""

import jax
import numpy as np
import pytest

from guided_jax import guidance, reverse, sampler, schedule
from tests.oracle import MIXTURE, points

LEVELS = schedule.respace(schedule.cosine(1000), 8)
KEY = jax.random.key(0)
C, U = MIXTURE.denoiser(1), MIXTURE.denoiser()
X_T = jax.random.normal(jax.random.key(1), (4, 2))


def run(x_T, every, unconditional=U):
    made = guidance.reused(C, unconditional, 3.0, every)
    x_0, memory, _ = sampler.run(KEY, C, reverse.with_state(made, reverse.ddim()), x_T, LEVELS)
    return x_0, guidance.saved_calls(memory)


def test_the_difference_of_eps_is_used_again_until_the_next_call():
    """By a plain loop; at every step it is classifier-free guidance; and the calls that are saved are not made."""
    times = []

    def unconditional(x_t, level):
        jax.debug.callback(lambda t: times.append(float(t)), level.t)
        return U(x_t, level)

    def free(x_T):
        return sampler.sample(KEY, guidance.classifier_free(C, U, 3.0), reverse.ddim(), x_T, LEVELS)

    (third, saved), (first, none), exact = jax.jit(jax.vmap(lambda x: (run(x, 3, unconditional), run(x, 1), free(x))))(
        X_T
    )
    jax.effects_barrier()
    assert sorted(set(times), reverse=True) == [float(schedule.at(LEVELS, place).t) for place in (8, 5, 2)]
    np.testing.assert_array_equal(saved, 5)
    np.testing.assert_array_equal(none, 0)
    np.testing.assert_allclose(first, exact, atol=2e-4)

    predicted = jax.jit(jax.vmap(lambda x, level: (C(x, level).x_0, U(x, level).x_0), (0, None)))
    x = np.asarray(X_T)
    for position in range(8, 0, -1):
        now, then = (jax.tree.map(np.asarray, schedule.at(LEVELS, place)) for place in (position, position - 1))
        c, u = (np.asarray(x_0, np.float64) for x_0 in predicted(np.float32(x), now))
        difference = (u - c) * now.alpha / now.sigma if position in (8, 5, 2) else difference  # of eps
        x_0 = c - 2 * difference * now.sigma / now.alpha
        x = then.alpha * x_0 + then.sigma * (x - now.alpha * x_0) / now.sigma
    np.testing.assert_allclose(third, x, rtol=1e-3, atol=1e-3)
    assert np.abs(third - exact).max() > 0.01


def test_every_has_to_be_1_or_more():
    with pytest.raises(ValueError, match="every is 0; u is called at every so many steps, at least 1"):
        guidance.reused(C, U, 3.0, 0)


def test_a_limited_scale_is_an_interval_of_classifier_free_guidance():
    """At both ends of the interval too, of which the upper one belongs to it."""
    levels = schedule.karras(4, 0.5, 4.0)
    low, high = (float(schedule.at(levels, place).sigma) for place in (2, 3))

    def both(x, level):
        limited = guidance.classifier_free(C, U, guidance.limited(3.0, low, high))
        interval = guidance.interval(lambda c: guidance.classifier_free(c, U, 3.0), C, low, high)
        return limited(x, level), interval(x, level), C(x, level)

    guides = []
    over = jax.jit(jax.vmap(both, (0, None)))
    for position in range(1, 5):
        level = schedule.at(levels, position)
        limited, interval, plain = over(points(KEY, level), level)
        jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), limited, interval)
        guides.append(bool(np.abs(limited.x_0 - plain.x_0).max() > 1e-3))
    assert guides == [False, False, True, False]
