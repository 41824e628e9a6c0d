"""The oracle itself, against float64 SciPy and against autodiff, before anything else leans on it."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import special, stats

from guided_jax import prediction, schedule
from guided_jax.analytic import GaussianMixture
from tests.oracle import MIXTURE, SCHEDULES, points

LEVELS = {f"{name}-{i}": schedule.at(levels, i) for name, levels in SCHEDULES.items() for i in (0, 1, 15, 35, -1)}


def log_joint(x_t, level):
    """log p(k, x_t) in float64, term by term."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    weights, means, stds = (np.asarray(part, np.float64) for part in MIXTURE[:3])
    spread = np.sqrt(alpha**2 * stds**2 + sigma**2)
    return np.log(weights / weights.sum()) + stats.norm.logpdf(
        np.asarray(x_t, np.float64), alpha * means, spread[:, None]
    ).sum(1)


def bayes(x_t, level, label=None):
    """(E[x_0 | x_t], E[eps | x_t]) from the posterior in float64, component by component."""
    alpha, sigma = float(level.alpha), float(level.sigma)
    _, means, stds = (np.asarray(part, np.float64) for part in MIXTURE[:3])
    variances = alpha**2 * stds**2 + sigma**2
    member = np.full(4, True) if label is None else np.asarray(MIXTURE.labels) == label
    share = special.softmax(np.where(member, log_joint(x_t, level), -np.inf))
    offset = np.asarray(x_t, np.float64) - alpha * means
    return share @ (means + alpha * (stds**2 / variances)[:, None] * offset), share @ (
        sigma / variances[:, None] * offset
    )


@jax.jit
def oracle(points, level):
    """The densities, the score that is their gradient, log p(label | x_t), and the denoisers of all and of each label."""
    density, log_probs = MIXTURE.log_density(), [MIXTURE.log_prob(label) for label in (0, 1)]
    denoisers = [MIXTURE.denoiser(label) for label in (None, 0, 1)]

    def of_one(x):
        return (
            *jax.value_and_grad(density)(x, level),
            [log_prob(x, level) for log_prob in log_probs],
            [denoise(x, level)[:2] for denoise in denoisers],
            prediction.score(denoisers[0](x, level), level),
        )

    return jax.vmap(of_one)(points)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_densities_are_scipys(level):
    x = points(jax.random.key(0), level, 8)
    density, _, log_probs, *_ = oracle(x, level)
    for i, x_t in enumerate(x):
        joint = log_joint(x_t, level)
        np.testing.assert_allclose(density[i], special.logsumexp(joint), rtol=1e-5, atol=1e-4)
        posterior = special.log_softmax(joint)
        for label in (0, 1):
            want = special.logsumexp(posterior[np.asarray(MIXTURE.labels) == label])
            np.testing.assert_allclose(log_probs[label][i], want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_denoisers_are_bayes_rule(level):
    x = points(jax.random.key(1), level, 8)
    *_, views, _ = oracle(x, level)
    for i, x_t in enumerate(x):
        for label, found in zip((None, 0, 1), views, strict=True):
            for view, want in zip(found, bayes(x_t, level, label), strict=True):
                np.testing.assert_allclose(view[i], want, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize("position", [1, 300, -1])
def test_in_float64_it_is_exact_to_1e_10(position):
    """At a float32 level of a table: what it is evaluated at, not what the table rounds."""
    level = schedule.at(SCHEDULES["cosine"], position)
    x_t = np.float64(level.alpha) * np.array([-0.6, 0.9]) + np.float64(level.sigma) * np.array([0.3, -0.8])
    joint = log_joint(x_t, level)
    with jax.enable_x64(True):
        mixture, x = MIXTURE._replace(means=np.asarray(MIXTURE.means, np.float64)), jnp.asarray(x_t)
        found = mixture.denoiser(1)(x, level)
        log_density, log_prob = mixture.log_density()(x, level), mixture.log_prob(1)(x, level)
    np.testing.assert_allclose(found[:2], bayes(x_t, level, 1), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_density, special.logsumexp(joint), rtol=1e-10, atol=1e-10)
    np.testing.assert_allclose(log_prob, special.logsumexp(special.log_softmax(joint)[2:]), rtol=1e-9, atol=1e-10)


@pytest.mark.parametrize("name", SCHEDULES)
def test_score_is_the_gradient_of_the_log_density(name):
    for position in (3, 15, 35, -1):
        level = schedule.at(SCHEDULES[name], position)
        _, gradient, *_, found = oracle(points(jax.random.key(2), level, 8), level)
        np.testing.assert_allclose(found, gradient, rtol=1e-3, atol=2e-4 / float(level.sigma))


def test_at_the_clean_level_x_0_is_x_t():
    level, x = schedule.at(SCHEDULES["cosine"], 0), jnp.array([0.9, 0.5])
    found = MIXTURE.denoiser()(x, level)
    np.testing.assert_allclose(found.x_0, x, rtol=1e-6)
    np.testing.assert_array_equal(found.eps, 0)


def test_components_of_zero_width():
    """Zero width is data in a list; nothing is lost at either end."""
    data = GaussianMixture(jnp.ones(3), jnp.array([[0.0], [1.0], [2.0]]), jnp.zeros(3))
    for position in (0, 1, -1):
        level = schedule.at(SCHEDULES["cosine"], position)
        found = data.denoiser()(level.alpha * jnp.ones(1), level)
        np.testing.assert_allclose(found.x_0, 1, atol=1e-3)
        assert jnp.all(jnp.isfinite(found.eps))


def test_samples_follow_weights_means_and_stds():
    x = jax.vmap(MIXTURE.sample)(jax.random.split(jax.random.key(0), 20_000))
    mean = np.asarray(MIXTURE.weights @ MIXTURE.means)
    second = MIXTURE.weights @ (MIXTURE.means**2 + MIXTURE.stds[:, None] ** 2)
    np.testing.assert_allclose(x.mean(0), mean, atol=0.03)
    np.testing.assert_allclose((x**2).mean(0), second, atol=0.03)
    of_class = jax.vmap(lambda key: MIXTURE.sample(key, 1))(jax.random.split(jax.random.key(0), 20_000))
    np.testing.assert_allclose(of_class.mean(0), (0.3 * MIXTURE.means[2] + 0.2 * MIXTURE.means[3]) / 0.5, atol=0.03)


def test_labels_may_be_traced_and_unknown_ones_raise():
    level, x = schedule.at(SCHEDULES["cosine"], 300), jnp.array([0.2, 0.1])
    by_label = jax.jit(jax.vmap(lambda label: MIXTURE.denoiser(label)(x, level).x_0))(jnp.arange(2))
    np.testing.assert_allclose(by_label[1], MIXTURE.denoiser(1)(x, level).x_0, rtol=1e-5)
    for mixture in (MIXTURE, MIXTURE._replace(labels=None)):
        predict = lambda m=mixture: m.denoiser(7)(x, level).x_0  # noqa: E731
        for call in (predict, jax.jit(predict)):
            with pytest.raises(ValueError, match="has the label 7"):
                call()


def test_a_mixture_of_ints_is_that_of_the_floats():
    parts = np.ones(2, int), np.array([[-1, 0], [2, 1]]), np.array([1, 2])
    ints, floats = GaussianMixture(*parts), GaussianMixture(*(np.float32(part) for part in parts))
    level, x, key = schedule.at(SCHEDULES["cosine"], 300), jnp.array([0.2, 0.1]), jax.random.key(0)
    np.testing.assert_array_equal(ints.sample(key), floats.sample(key))
    np.testing.assert_array_equal(ints.denoiser(1)(x, level).x_0, floats.denoiser(1)(x, level).x_0)


def test_any_shape():
    means = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    mixture = GaussianMixture(jnp.ones(3), means, jnp.full(3, 0.1))
    flat = GaussianMixture(jnp.ones(3), means.reshape(3, -1), jnp.full(3, 0.1))
    level = schedule.at(SCHEDULES["cosine"], 500)
    x = level.alpha * means[1] + level.sigma
    np.testing.assert_allclose(
        mixture.denoiser()(x, level).x_0.ravel(), flat.denoiser()(x.ravel(), level).x_0, rtol=1e-6
    )
