"""The steps that examples are noised to: their law, and how evenly a batch covers it."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import logit, ndtr

from configs import objective, schema
from guided_jax import data, losses, parallel, schedule, times, training

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
    """[SD3] eq. 19 integrated over each tenth of the steps: Phi((logit(t / T) - mean) / std)."""
    for mean, std in ((0.0, 1.0), (-0.6, 0.8)):
        drawn = positions(functools.partial(times.logit_normal, mean=mean, std=std))
        edges = np.linspace(0, 1, 11)
        with np.errstate(divide="ignore"):
            want = np.diff(ndtr((logit(edges) - mean) / std))
        got = np.histogram(drawn, 100 * edges + 0.5)[0] / len(drawn)
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


NETWORK = nn.Dense(64)
OPTIMIZER = training.optimizer(3e-3, 100)
SETTINGS = schema.Diffusion(batch_size=16, times=schema.Times(stratified=True))


def loss(params, keys, batch):
    """Of one layer, at the steps of the whole batch's strata."""
    strata = times.Strata(batch["index"], SETTINGS.batch_size)
    x_0 = batch["image"].reshape(len(keys), -1)
    noisy = losses.corrupt(keys, x_0, LEVELS, times.logit_normal, strata)
    each = losses.denoising(lambda x, t, label, keys: NETWORK.apply(params, x), noisy, None, LEVELS)
    return each.mean(), {"t": noisy.level.t.mean()}


@pytest.mark.parametrize(("devices", "microbatches"), [(2, 1), (4, 1), (1, 4), (2, 2)])
def test_the_loss_does_not_depend_on_devices_or_microbatches(devices, microbatches):
    rng = np.random.default_rng(0)
    source = data.in_memory(rng.integers(0, 256, (64, 8, 8, 1)), rng.integers(0, 10, 64), num_classes=10)
    batch = next(data.loader(source, 16, seed=0))

    def made(devices, microbatches):
        step = functools.partial(
            training.train_step, loss=loss, optimizer=OPTIMIZER, ema_decay=0.9, microbatches=microbatches
        )
        compiled = parallel.data_parallel(objective.numbered(step, SETTINGS), jax.devices()[:devices])
        params = NETWORK.init(jax.random.key(0), jnp.zeros(64))
        state = training.init(jax.random.key(1), params, OPTIMIZER)
        state, metrics = compiled(parallel.place(state, jax.devices()[:devices]), batch)
        return jax.device_get((state.params, metrics))

    jax.tree.map(
        functools.partial(np.testing.assert_allclose, rtol=1e-5, atol=1e-7), made(devices, microbatches), made(1, 1)
    )
