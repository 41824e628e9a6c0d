"""The steps that examples are noised to: their law, and how evenly a batch covers it."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import logit, ndtr

from guided_jax import losses, schedule
from guided_jax.losses import times

LEVELS = schedule.cosine(100)


def positions(law, strata=None, count=20_000, seed=0):
    return batches(law, strata, count, [seed])[0]


def batches(law, strata, count, seeds):
    """(seeds, count) positions."""

    @jax.jit
    @jax.vmap
    def one(key):
        return losses.corrupt(jax.random.split(key, count), jnp.zeros((count, 1)), LEVELS, law, strata).position

    return np.asarray(one(jax.vmap(jax.random.key)(jnp.asarray(seeds))))


def test_logit_normal_steps_have_the_papers_density():
    """The density of [SD3] integrated over each tenth of the steps: Phi((logit(t / T) - mean) / std)."""
    for mean, std in ((0.0, 1.0), (-0.6, 0.8)):
        samples = positions(functools.partial(times.logit_normal, mean=mean, std=std))
        edges = np.linspace(0, 1, 11)
        with np.errstate(divide="ignore"):
            want = np.diff(ndtr((logit(edges) - mean) / std))
        got = np.histogram(samples, 100 * edges + 0.5)[0] / len(samples)
        np.testing.assert_allclose(got, want, atol=0.012)


def test_every_share_has_its_step_at_the_ends_too():
    shares = jnp.array([0.0, 1e-9, 0.00999, 0.01, 0.5, 0.99, 0.999999, 1.0])
    np.testing.assert_array_equal(times.position(shares, 100), [1, 1, 1, 2, 51, 100, 100, 100])
    ends = times.logit_normal(jnp.array([0.0, 1.0]))
    np.testing.assert_array_equal(times.position(ends, 100), [1, 100])


def test_a_stratified_batch_has_one_example_in_each_part():
    """As many examples as steps: every step once, whatever the seed; of a law, one in each of its quantiles."""
    strata = times.Strata(jnp.arange(100), 100)
    for even in batches(None, strata, 100, range(3)):
        np.testing.assert_array_equal(np.sort(even), np.arange(1, 101))
    for law in batches(times.logit_normal, strata, 100, range(3)):
        u = ndtr(logit(np.clip((law - 0.5) / 100, 0.005, 0.995)))
        assert np.abs(np.sort(u) - (np.arange(100) + 0.5) / 100).max() < 0.03


def test_strata_make_the_mean_over_a_batch_steadier_and_leave_it_where_it_is():
    def means(strata):
        return batches(None, strata, 32, range(200)).mean(1)

    even, free = means(times.Strata(jnp.arange(32), 32)), means(None)
    np.testing.assert_allclose(even.mean(), 50.5, atol=0.3)
    assert even.std() < free.std() / 10


def test_an_example_keeps_its_own_noise():
    """The step alone depends on the part: the eps of a key is the same with and without."""
    keys, x_0 = jax.random.split(jax.random.key(0), 8), jnp.zeros((8, 3))
    plain = losses.corrupt(keys, x_0, LEVELS)
    for law, strata in ((times.logit_normal, None), (None, times.Strata(jnp.arange(8), 8))):
        np.testing.assert_array_equal(losses.corrupt(keys, x_0, LEVELS, law, strata).truth.eps, plain.truth.eps)
