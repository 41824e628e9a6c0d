"""Guidance on the oracle, where both kinds have the same exact answer: Bayes' rule says they are one and the same.

A newcomer is one row of GUIDANCES.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, prediction, schedule
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE, SCHEDULES, points, reparameterized

# name -> (label, scale, parameterization) -> denoiser that at scale 1 is the conditional and at 0 the unconditional
GUIDANCES = {
    "classifier": lambda label, scale, view: guidance.classifier(
        reparameterized(MIXTURE.denoiser(), view), MIXTURE.log_prob(label), scale
    ),
    "classifier_free": lambda label, scale, view: guidance.classifier_free(
        reparameterized(MIXTURE.denoiser(label), view), reparameterized(MIXTURE.denoiser(), view), scale
    ),
    "conditional base and classifier": lambda label, scale, view: guidance.classifier(
        reparameterized(MIXTURE.denoiser(label), view), MIXTURE.log_prob(label), scale - 1
    ),
}
VIEWS = list(denoiser.PARAMETERIZATIONS)
PLACES = [(name, position) for name in SCHEDULES for position in (1, 12, 30, -1)]


def both_views(denoise, x_t, level):
    found = jax.vmap(denoise, (0, None))(x_t, level)
    return found.x_0, found.eps


def tolerances(view, level):
    """Rounding of each view: x_0 read from eps or a score is divided by alpha, eps read from x_0 by sigma."""
    alpha, sigma = np.asarray(level.alpha), np.asarray(level.sigma)
    through_eps = view in ("eps", "score")
    return 1e-5 * (1 + sigma) / (alpha if through_eps else 1), 1e-5 * (1 + 1 / sigma if view == "x_0" else 1 + sigma)


@pytest.mark.parametrize("name", SCHEDULES)
@pytest.mark.parametrize("view", VIEWS)
@pytest.mark.parametrize("method", GUIDANCES)
@pytest.mark.parametrize(("scale", "label"), [(0.0, None), (1.0, 1)])
def test_scale_0_is_unconditional_and_scale_1_conditional(method, view, name, scale, label):
    """At every place of the schedule, the two ends among them."""
    levels = schedule.at(SCHEDULES[name], jnp.array([position for of, position in PLACES if of == name]))
    x_t = jax.vmap(points, (None, 0))(jax.random.key(0), levels)
    got = jax.vmap(functools.partial(both_views, GUIDANCES[method](1, scale, view)))(x_t, levels)
    want = jax.vmap(functools.partial(both_views, MIXTURE.denoiser(label)))(x_t, levels)
    for found, exact, atol in zip(got, want, tolerances(view, levels), strict=True):
        assert np.all(np.abs(found - exact) <= 2e-4 * np.abs(exact) + 4 * np.reshape(atol, (-1, 1, 1)))


@pytest.mark.parametrize(("name", "position"), PLACES)
@pytest.mark.parametrize("scale", [-0.5, 0.3, 2.0, 7.5])
@pytest.mark.parametrize("method", [method for method in GUIDANCES if method != "classifier_free"])
def test_classifier_guidance_is_classifier_free_guidance(method, scale, name, position):
    level = schedule.at(SCHEDULES[name], position)
    x_t = points(jax.random.key(1), level)
    got = both_views(GUIDANCES[method](0, scale, "x_0"), x_t, level)
    want = both_views(GUIDANCES["classifier_free"](0, scale, "x_0"), x_t, level)
    for found, exact, atol in zip(got, want, tolerances("x_0", level), strict=True):
        np.testing.assert_allclose(found, exact, rtol=2e-4, atol=atol * (1 + abs(scale)) * 4)


@pytest.mark.parametrize("method", ["classifier", "classifier_free"])
def test_the_noisy_end_keeps_its_digits_in_both_views(method):
    """alpha is 5e-5 there: a shift of eps turned into x_0, or the reverse, would be off by 5e-3."""
    level = schedule.at(SCHEDULES["cosine"], -1)
    x_t = points(jax.random.key(2), level)
    exact = jax.vmap(MIXTURE.denoiser(), (0, None))(x_t, level)
    to = jax.vmap(MIXTURE.denoiser(1), (0, None))(x_t, level)
    denoise = guidance.classifier_free(MIXTURE.denoiser(1), MIXTURE.denoiser(), 3.0)
    if method == "classifier":
        denoise = guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(1), 3.0)
    got = jax.vmap(denoise, (0, None))(x_t, level)
    np.testing.assert_allclose(got.x_0, exact.x_0 + 3 * (to.x_0 - exact.x_0), atol=1e-5)
    np.testing.assert_allclose(got.eps, exact.eps + 3 * (to.eps - exact.eps), atol=1e-6)


def test_the_guided_score_is_the_score_plus_the_scaled_gradient():
    """The derivation itself, by autodiff of the densities alone: no formula of the guidance is used."""
    for name, position in PLACES:
        level = schedule.at(SCHEDULES[name], position)
        x_t = points(jax.random.key(3), level)
        density, log_prob = MIXTURE.log_density(), MIXTURE.log_prob(0)
        tilted = jax.vmap(jax.grad(lambda x: density(x, level) + 2.5 * log_prob(x, level)))(x_t)  # noqa: B023
        for method in GUIDANCES:
            found = jax.vmap(GUIDANCES[method](0, 2.5, "eps"), (0, None))(x_t, level)
            got = jax.vmap(prediction.score, (0, None))(found, level)
            np.testing.assert_allclose(got, tilted, rtol=2e-3, atol=1e-3 / float(level.sigma))


@pytest.mark.parametrize("method", GUIDANCES)
def test_the_scale_may_be_a_function_of_the_level_and_traced(method):
    level = schedule.at(SCHEDULES["cosine"], 400)
    x_t = points(jax.random.key(4), level)
    want = both_views(GUIDANCES[method](1, 2.0, "eps"), x_t, level)
    if method != "conditional base and classifier":
        by_level = GUIDANCES[method](1, lambda level: 2 * level.t / 400, "eps")
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-5), both_views(by_level, x_t, level), want
        )
    each = jax.vmap(lambda x, scale: GUIDANCES[method](1, scale, "eps")(x, level))(x_t, jnp.full(len(x_t), 2.0))
    np.testing.assert_allclose(each.x_0, want[0], rtol=1e-5, atol=1e-5)


def test_at_pure_noise_the_classifier_shifts_nothing():
    pure_noise = schedule.NoiseLevel(*(jnp.float32(value) for value in (9, 0.0, 1.0)))
    x_t = jnp.array([0.3, -0.2])
    got = guidance.classifier(MIXTURE.denoiser(), lambda x, level: x.sum(), 5.0)(x_t, pure_noise)
    want = MIXTURE.denoiser()(x_t, pure_noise)
    np.testing.assert_array_equal(got.x_0, want.x_0)
    np.testing.assert_array_equal(got.eps, want.eps)


def test_variance_fraction_is_the_first_denoisers():
    level, x = schedule.at(SCHEDULES["cosine"], 400), jnp.array([0.3, -0.2])

    def learned(value):
        return lambda x_t, level: MIXTURE.denoiser()(x_t, level)._replace(variance_fraction=jnp.full(2, value))

    for denoise in (
        guidance.classifier_free(learned(0.25), learned(0.75), 3.0),
        guidance.classifier(learned(0.25), MIXTURE.log_prob(0), 3.0),
        guidance.clip(learned(0.25)),
    ):
        np.testing.assert_array_equal(denoise(x, level).variance_fraction, 0.25)


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
