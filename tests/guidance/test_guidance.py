"""Guidance by the densities alone, and at both ends: what the laws of `test_guidance_algebra.py` leave out."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, prediction, schedule
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE, SCHEDULES, points, reparameterized

PLACES = [(name, position) for name in SCHEDULES for position in (1, 12, 30, -1)]


@pytest.mark.parametrize("method", ["classifier", "classifier_free"])
def test_the_noisy_end_keeps_its_digits_in_both_views(method):
    """alpha is 5e-5 there: a shift of eps turned into x_0, or the reverse, would be off by 5e-3."""
    level = schedule.at(SCHEDULES["cosine"], -1)
    x_t = points(jax.random.key(2), level)
    denoise = guidance.classifier_free(MIXTURE.denoiser(1), MIXTURE.denoiser(), 3.0)
    if method == "classifier":
        denoise = guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(1), 3.0)
    all_three = (MIXTURE.denoiser(), MIXTURE.denoiser(1), denoise)
    exact, to, got = jax.jit(lambda x_t: [jax.vmap(each, (0, None))(x_t, level) for each in all_three])(x_t)
    np.testing.assert_allclose(got.x_0, exact.x_0 + 3 * (to.x_0 - exact.x_0), atol=1e-5)
    np.testing.assert_allclose(got.eps, exact.eps + 3 * (to.eps - exact.eps), atol=1e-6)


def test_the_guided_score_is_the_score_plus_the_scaled_gradient():
    """The derivation itself, by autodiff of the densities alone: no formula of the guidance is used."""
    density, log_prob = MIXTURE.log_density(), MIXTURE.log_prob(0)
    eps = lambda label: reparameterized(MIXTURE.denoiser(label), "eps")  # noqa: E731
    guided = (
        guidance.classifier(eps(None), log_prob, 2.5),
        guidance.classifier(eps(0), log_prob, 1.5),
        guidance.classifier_free(eps(0), eps(None), 2.5),
    )

    @jax.jit
    def scores(x_t, level):
        tilted = jax.vmap(jax.grad(lambda x: density(x, level) + 2.5 * log_prob(x, level)))(x_t)
        found = [jax.vmap(denoise, (0, None))(x_t, level) for denoise in guided]
        return tilted, [jax.vmap(prediction.score, (0, None))(each, level) for each in found]

    for name, position in PLACES:
        level = schedule.at(SCHEDULES[name], position)
        tilted, found = scores(points(jax.random.key(3), level), level)
        for i, got in enumerate(found):
            atol = 1e-3 / float(level.sigma)
            np.testing.assert_allclose(got, tilted, rtol=2e-3, atol=atol, err_msg=f"{name} {position} {i}")


def test_the_scale_of_a_classifier_may_be_a_function_of_the_level():
    level, x_t = schedule.at(SCHEDULES["cosine"], 400), jnp.array([0.3, -0.2])
    want = guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(1), 2.0)(x_t, level)
    found = guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(1), lambda level: 2 * level.t / 400)(x_t, level)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5), found[:2], want[:2])


def test_at_pure_noise_the_classifier_shifts_nothing():
    pure_noise = schedule.NoiseLevel(*(jnp.float32(value) for value in (9, 0.0, 1.0)))
    x_t = jnp.array([0.3, -0.2])
    got = guidance.classifier(MIXTURE.denoiser(), lambda x, level: x.sum(), 5.0)(x_t, pure_noise)
    want = MIXTURE.denoiser()(x_t, pure_noise)
    np.testing.assert_array_equal(got.x_0, want.x_0)
    np.testing.assert_array_equal(got.eps, want.eps)


@pytest.mark.parametrize("position", [0, 1, 400, -1])
def test_clip_keeps_x_0_in_range_and_both_views_consistent(position):
    level = schedule.at(SCHEDULES["cosine"], position)
    wild = lambda x_t, level: Prediction(jnp.array([-3.0, 0.5, 2.0]), jnp.zeros(3))  # noqa: E731
    x_t = jnp.array([0.4, 0.5, 0.6])
    found = guidance.clip(wild)(x_t, level)
    np.testing.assert_array_equal(found.x_0, [-1, 0.5, 1])
    if position:
        np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(guidance.clip(wild, low=0.0, high=0.25)(x_t, level).x_0, [0, 0.25, 0.25])


def test_guidance_after_a_clip_is_not_clipped_again():
    """ADM's order: the base prediction is clipped, the classifier's shift on top of it is not."""
    level, x_t = schedule.at(SCHEDULES["cosine"], 600), jnp.array([2.0, 2.0])
    found = guidance.classifier(guidance.clip(MIXTURE.denoiser()), lambda x, level: 50 * x.sum(), 1.0)(x_t, level)
    assert jnp.all(found.x_0 > 1)
