"""A network that is told its last x_0: what it is told in training, and what a sampler carries."""

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import forward, guidance, losses, reverse, sampler, schedule
from guided_jax.prediction import from_x_0
from tests.oracle import MIXTURE

LEVELS = schedule.respace(schedule.cosine(1000), 5)
KEY, X_T = jax.random.key(0), jnp.array([0.5, -1.5])


def denoiser_of(estimate, pull=0.3):
    """The mixture's denoiser, pulled towards an estimate."""

    def denoise(x_t, level):
        x_0 = MIXTURE.denoiser()(x_t, level).x_0
        return from_x_0((1 - pull) * x_0 + pull * estimate, x_t, level)

    return denoise


def by_hand(predict):
    """DDIM in a Python loop; predict: (estimate, x_t, level) -> Prediction."""

    @jax.jit
    def once(estimate, x, now, then):
        prediction = predict(estimate, x, now)
        return forward.diffuse(prediction.x_0, prediction.eps, then), jnp.clip(prediction.x_0, -1, 1)

    x, estimate = X_T, jnp.zeros(2)
    for position in range(len(LEVELS.t) - 1, 0, -1):
        x, estimate = once(estimate, x, schedule.at(LEVELS, position), schedule.at(LEVELS, position - 1))
    return x


def sample(stateful):
    step = reverse.with_state(stateful, reverse.ddim())
    return jax.jit(lambda x: sampler.sample(KEY, guidance.first_state(stateful), step, x, LEVELS))(X_T)


def test_a_run_carries_the_last_clipped_x_0_and_begins_with_zeros():
    want = by_hand(lambda estimate, x, level: denoiser_of(estimate)(x, level))
    np.testing.assert_allclose(sample(guidance.self_conditioned(denoiser_of)), want, rtol=1e-4, atol=1e-5)
    forgetful = by_hand(lambda estimate, x, level: denoiser_of(jnp.zeros(2))(x, level))
    assert np.abs(want - forgetful).max() > 0.01


def test_the_estimate_is_clipped_as_in_training():
    beyond = guidance.self_conditioned(lambda estimate: lambda x_t, level: from_x_0(3 + estimate, x_t, level))
    level = schedule.at(LEVELS, 1)
    first, state = beyond.denoise(beyond.init(X_T), X_T, level)
    second, _ = beyond.denoise(state, X_T, level)
    np.testing.assert_allclose(first.x_0, 3.0)
    np.testing.assert_allclose(second.x_0, 4.0)


def test_both_of_a_classifier_free_pair_take_the_x_0_of_the_pair():
    def pair(estimate):
        return guidance.classifier_free(denoiser_of(estimate), denoiser_of(estimate, 0.5), 2.0)

    want = by_hand(lambda estimate, x, level: pair(estimate)(x, level))
    np.testing.assert_allclose(sample(guidance.self_conditioned(pair)), want, rtol=1e-4, atol=1e-5)


def test_guidance_with_a_memory_keeps_it():
    """`projected` without momentum is a denoiser; with it, it goes another way."""

    def pair(momentum):
        return lambda estimate: guidance.projected(
            denoiser_of(estimate), denoiser_of(estimate, 0.5), 2.0, parallel=1.0, momentum=momentum
        )

    free = lambda estimate: guidance.classifier_free(denoiser_of(estimate), denoiser_of(estimate, 0.5), 2.0)  # noqa: E731
    plain, with_memory = sample(guidance.self_conditioned(pair(0.0))), sample(guidance.self_conditioned(pair(-0.9)))
    np.testing.assert_allclose(plain, sample(guidance.self_conditioned(free)), rtol=1e-3, atol=1e-4)
    assert np.abs(plain - with_memory).max() > 1e-3


@jax.jit
def first(scale, keys):
    x_0 = 0.5 * jnp.ones((len(keys), 3))
    noisy = losses.corrupt(keys, x_0, schedule.cosine(100))
    network = lambda x, t, condition, keys: scale * x  # noqa: E731
    return losses.first_estimate(network, keys, noisy, None, "v"), noisy


def test_half_of_the_examples_get_a_first_estimate_by_their_own_keys():
    keys = jax.random.split(jax.random.key(2), 4000)
    found, noisy = first(0.4, keys)
    given = np.any(np.asarray(found) != 0, axis=1)
    np.testing.assert_allclose(given.mean(), 0.5, atol=0.03)
    alpha, sigma = np.asarray(noisy.level.alpha)[:, None], np.asarray(noisy.level.sigma)[:, None]
    want = np.clip((alpha - 0.4 * sigma) * np.asarray(noisy.x_t), -1, 1)  # x_0 = alpha x_t - sigma v
    np.testing.assert_allclose(found, np.where(given[:, None], want, 0), atol=1e-5)
    order = jax.random.permutation(jax.random.key(3), 4000)
    np.testing.assert_allclose(first(0.4, keys[order])[0], np.asarray(found)[order], atol=1e-6)


def test_the_half_is_independent_of_noise_step_and_label():
    keys = jax.random.split(jax.random.key(4), 4000)
    found, noisy = first(0.4, keys)
    given = np.any(np.asarray(found) != 0, axis=1)
    dropped = losses.drop(keys, jnp.zeros(4000, jnp.int32), jnp.int32(1), 0.5) == 1
    for value, spread in ((noisy.level.t, 29), (noisy.truth.eps.mean(1), 0.6), (dropped.astype(jnp.float32), 0.5)):
        value = np.asarray(value)
        assert abs(value[given].mean() - value[~given].mean()) < 5 * spread / np.sqrt(1000)


def test_no_gradient_goes_through_the_first_estimate():
    keys = jax.random.split(jax.random.key(2), 8)
    assert float(jax.grad(lambda scale: first(scale, keys)[0].sum())(0.4)) == 0


def test_both_passes_drop_by_keys_of_their_own():
    """Dropout of the first pass is independent of that of the second."""
    noisy, given = first(0.4, jax.random.split(jax.random.key(2), 8))[1], []
    network = lambda x, t, condition, keys: given.append(keys) or x  # noqa: E731
    losses.first_estimate(network, jax.random.split(jax.random.key(2), 8), noisy, None, "v")
    losses.denoising(network, noisy, None, schedule.cosine(100), "v")
    one, other = (np.asarray(jax.random.key_data(keys)) for keys in given)
    assert len(np.unique(np.concatenate([one, other]), axis=0)) == 16
