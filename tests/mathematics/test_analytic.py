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
        say = (mixture.denoiser(1), mixture.log_density(), mixture.log_prob(1))
        found, log_density, log_prob = jax.jit(lambda x: [each(x, level) for each in say])(x)
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
    x = jax.jit(jax.vmap(MIXTURE.sample))(jax.random.split(jax.random.key(0), 20_000))
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
    both = jax.jit(lambda key, x: [(m.sample(key), m.denoiser(1)(x, level).x_0) for m in (ints, floats)])(key, x)
    for of_ints, of_floats in zip(*both, strict=True):
        np.testing.assert_array_equal(of_ints, of_floats)


def test_any_shape():
    means = jax.random.normal(jax.random.key(0), (3, 4, 4, 2))
    mixture = GaussianMixture(jnp.ones(3), means, jnp.full(3, 0.1))
    flat = GaussianMixture(jnp.ones(3), means.reshape(3, -1), jnp.full(3, 0.1))
    level = schedule.at(SCHEDULES["cosine"], 500)
    x = level.alpha * means[1] + level.sigma
    np.testing.assert_allclose(
        mixture.denoiser()(x, level).x_0.ravel(), flat.denoiser()(x.ravel(), level).x_0, rtol=1e-6
    )


# --- covariances, and the mixture given a measurement -----------------------------------------------------------------

RNG = np.random.default_rng(0)
ROOTS = 0.6 * RNG.standard_normal((3, 3, 3))
CORRELATED = GaussianMixture(
    weights=np.array([0.5, 0.2, 0.4]),
    means=RNG.standard_normal((3, 3, 1)),
    labels=np.array([0, 1, 1]),
    covariances=ROOTS @ ROOTS.transpose(0, 2, 1),
)
MATRIX, Y, NOISE = RNG.standard_normal((2, 3)), np.array([0.4, -1.1]), 0.3
CLEAN = schedule.at(SCHEDULES["cosine"], 0)


@jax.jit
def correlated(points, level):
    """The density of all labels, log p(1 | x_t), and the predictions of all labels and of label 1."""
    density, log_prob = CORRELATED.log_density(), CORRELATED.log_prob(1)
    both = [CORRELATED.denoiser(label) for label in (None, 1)]
    return jax.vmap(lambda x: (density(x, level), log_prob(x, level), [denoise(x, level)[:2] for denoise in both]))(
        points
    )


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
def test_with_covariances_densities_and_denoisers_are_those_of_the_normal_equations(level):
    alpha, sigma = float(level.alpha), float(level.sigma)
    means = CORRELATED.means.reshape(3, 3)
    totals = alpha**2 * CORRELATED.covariances + sigma**2 * np.eye(3)
    x = alpha * means[[0, 1, 2, 0]] + sigma * RNG.standard_normal((4, 3)) + 0.1 * alpha
    density, log_prob, views = correlated(jnp.asarray(x.reshape(4, 3, 1), jnp.float32), level)
    for i, x_t in enumerate(x):
        joint = np.log(CORRELATED.weights / CORRELATED.weights.sum()) + [
            stats.multivariate_normal.logpdf(x_t, alpha * mean, total)
            for mean, total in zip(means, totals, strict=True)
        ]
        np.testing.assert_allclose(density[i], special.logsumexp(joint), rtol=2e-4, atol=2e-4)
        np.testing.assert_allclose(log_prob[i], special.logsumexp(special.log_softmax(joint)[1:]), rtol=2e-3, atol=2e-3)
        for member, found in zip((np.full(3, True), CORRELATED.labels == 1), views, strict=True):
            share = special.softmax(np.where(member, joint, -np.inf))
            white = np.stack([np.linalg.solve(t, x_t - alpha * m) for t, m in zip(totals, means, strict=True)])
            x_0 = share @ (means + alpha * np.einsum("kde,ke->kd", CORRELATED.covariances, white))
            np.testing.assert_allclose(found[0][i].reshape(3), x_0, rtol=2e-3, atol=1e-3)
            np.testing.assert_allclose(found[1][i].reshape(3), share @ (sigma * white), rtol=2e-3, atol=1e-3)


def test_covariances_of_a_variance_times_the_identity_are_stds():
    covariances = jnp.square(MIXTURE.stds)[:, None, None] * jnp.eye(2)[None]
    dense = MIXTURE._replace(stds=None, covariances=covariances)
    level, x = schedule.at(SCHEDULES["cosine"], 400), jnp.array([0.3, -0.6])
    for one, other in zip(MIXTURE.denoiser(1)(x, level)[:2], dense.denoiser(1)(x, level)[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(MIXTURE.log_density()(x, level), dense.log_density()(x, level), rtol=1e-4)
    both = [mixture.posterior(MATRIX[:, :2], Y, NOISE) for mixture in (MIXTURE, dense)]
    for one, other in zip(*map(jax.tree.leaves, both), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_samples_of_a_class_follow_its_covariances():
    x = jax.jit(jax.vmap(lambda key: CORRELATED.sample(key, 1)))(jax.random.split(jax.random.key(3), 20_000))
    x = np.asarray(x, np.float64).reshape(-1, 3)
    share, means = CORRELATED.weights[1:] / CORRELATED.weights[1:].sum(), CORRELATED.means[1:].reshape(2, 3)
    second = np.einsum("k,kde->de", share, CORRELATED.covariances[1:] + means[:, :, None] * means[:, None, :])
    np.testing.assert_allclose(x.mean(0), share @ means, atol=0.04)
    np.testing.assert_allclose(x.T @ x / len(x), second, atol=0.06)


@pytest.mark.parametrize("mixture", [CORRELATED, CORRELATED._replace(stds=np.array([0.5, 0.8, 0.3]), covariances=None)])
def test_posterior_and_evidence_are_bayes_rule(mixture):
    """log p(x) + log p(y | x) = log p(y) + log p(x | y) everywhere, for all labels and for one, in float64."""
    with jax.enable_x64(True):

        @jax.jit
        def compute(places):
            posterior, evidence = mixture.posterior(MATRIX, Y, NOISE), mixture.evidence(MATRIX, Y, NOISE)
            assert posterior.means.shape == mixture.means.shape
            densities = [jax.vmap(lambda x, p=p: p.log_density()(x, CLEAN))(places) for p in (mixture, posterior)]
            labels = [jax.vmap(lambda x, p=p: p.log_prob(1)(x, CLEAN))(places) for p in (mixture, posterior)]
            return evidence, densities, labels

        places = RNG.standard_normal((4, 3, 1))
        evidence, (prior, posterior), (label, same) = compute(places)
        likelihood = stats.norm.logpdf(Y, places.reshape(4, 3) @ np.asarray(MATRIX).T, NOISE).sum(1)
        np.testing.assert_allclose(posterior, np.asarray(prior) + likelihood - evidence, rtol=1e-8)
        # p(label | x, y) = p(label | x): y says nothing about the label that x does not
        np.testing.assert_allclose(same, label, atol=5e-9)


def test_measured_twice_is_measured_once_with_both():

    @jax.jit
    def compute():
        first, second = (CORRELATED.posterior(MATRIX[i : i + 1], Y[i : i + 1], NOISE) for i in (0, 1))
        both, in_turn = CORRELATED.posterior(MATRIX, Y, NOISE), first.posterior(MATRIX[1:], Y[1:], NOISE)
        total = CORRELATED.evidence(MATRIX[:1], Y[:1], NOISE) + first.evidence(MATRIX[1:], Y[1:], NOISE)
        parts = [(each.weights, each.means, each.covariances) for each in (in_turn, both)]
        return parts, (first.means, second.means), (total, CORRELATED.evidence(MATRIX, Y, NOISE))

    with jax.enable_x64(True):
        (in_turn, both), (first, second), evidence = jax.device_get(compute())
    for one, other in zip(in_turn[:2], both[:2], strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-9)
    np.testing.assert_allclose(in_turn[2], both[2], rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(*evidence, rtol=1e-10)
    assert np.abs(second - first).max() > 0.01


def test_without_noise_the_posterior_agrees_with_the_measurement():
    posterior = CORRELATED.posterior(MATRIX, Y, 0.0)
    x = np.asarray(jax.jit(jax.vmap(posterior.sample))(jax.random.split(jax.random.key(0), 50))).reshape(50, 3)
    np.testing.assert_allclose(x @ np.asarray(MATRIX).T, np.broadcast_to(Y, (50, 2)), atol=5e-3)
    assert x.std(0).max() > 0.05


def test_problems_are_vmapped():
    """Weights, matrix, measurement and noise of each problem its own; the samples and the score of each posterior."""
    weights, matrices = RNG.uniform(0.1, 1, (3, 4)), RNG.standard_normal((3, 1, 2))
    y, noise, keys = RNG.standard_normal((3, 1)), RNG.uniform(0.1, 1, 3), jax.random.split(jax.random.key(0), 3)
    level = schedule.at(SCHEDULES["cosine"], 300)

    def solve(weights, matrix, y, noise, key):
        prior = MIXTURE._replace(weights=weights)
        posterior = prior.posterior(matrix, y, noise)
        x = posterior.sample(key)
        return prior.evidence(matrix, y, noise), x, posterior.denoiser(0)(x, level).x_0

    given = (*(jnp.asarray(each, jnp.float32) for each in (weights, matrices, y, noise)), keys)
    together, alone = jax.jit(jax.vmap(solve))(*given), jax.jit(solve)
    for i in range(3):
        for one, all_of_them in zip(alone(*(each[i] for each in given)), together, strict=True):
            np.testing.assert_allclose(one, all_of_them[i], rtol=2e-4, atol=2e-4)


def test_a_mixture_has_stds_or_covariances():
    for mixture, problem in (
        (CORRELATED._replace(covariances=None), "neither stds nor covariances"),
        (CORRELATED._replace(stds=np.ones(3)), "stds and covariances"),
    ):
        for call in (mixture.denoiser, mixture.log_density, lambda m=mixture: m.posterior(MATRIX, Y, NOISE)):
            with pytest.raises(ValueError, match=problem):
                call()
