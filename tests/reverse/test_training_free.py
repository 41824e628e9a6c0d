"""Training-free guidance: each method that it contains against that method's own formula, and what is its own."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import guidance, operators, reverse, sampler, schedule
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE

TABLE = schedule.cosine(1000)
LEVELS = schedule.respace(TABLE, 20)
NOW, THEN = schedule.at(TABLE, 600), schedule.at(TABLE, 560)
X_T, KEY = jnp.array([0.7, -0.4]), jax.random.key(0)
SOFT = schedule.at(TABLE, 150)  # of the criterion, so that it is smooth


def criterion(x_0, level):
    """log p(class 0 | x_0), of slightly blurred examples."""
    return MIXTURE.log_prob(0)(SOFT.alpha * x_0, SOFT)


def drawn(step, x_T, levels, denoise=None):
    """A whole run, compiled."""
    return jax.jit(lambda x: sampler.sample(KEY, denoise or MIXTURE.denoiser(), step, x, levels))(x_T)


def stepped(made, x_t=X_T, now=NOW, then=THEN, denoise=None):
    step = jax.jit(lambda x: made.step(KEY, denoise or MIXTURE.denoiser(), x, made.init(x), now, then)[0])
    return np.asarray(step(x_t), np.float64)


@jax.jit
def exact(x, level):
    """x_0, eps and the Jacobian of x_0."""
    found = MIXTURE.denoiser()(x, level)
    return found.x_0, found.eps, jax.jacrev(lambda x: MIXTURE.denoiser()(x, level).x_0)(x)


@jax.jit
def liked(x_0):
    """The criterion, and its gradient."""
    return jax.value_and_grad(criterion)(x_0, NOW)


class Exact:
    """What the formulas of the papers are made of, at one x_t, in float64; eps is the network's output."""

    def __init__(self, x_t, now=NOW, then=THEN):
        self.x_t = np.asarray(x_t, np.float64)
        self.a_t, self.s_t, self.a_s, self.s_s = (float(v) for v in (now.alpha, now.sigma, then.alpha, then.sigma))
        found = exact(jnp.asarray(x_t, jnp.float32), now)
        self.x_0, self.eps, self.jacobian = (np.asarray(value, np.float64) for value in found)

    def grad(self, x_0):
        return np.asarray(liked(jnp.asarray(x_0, jnp.float32))[1], np.float64)

    def ddim(self, x_0, eps):
        return self.a_s * x_0 + self.s_s * eps

    def ddpm(self, noise):
        """[DDPM] eq. 7 with beta = 1 - (alpha_t / alpha_s)^2."""
        kept = self.a_t / self.a_s
        beta = 1 - kept**2
        mean = (kept * self.s_s**2 * self.x_t + self.a_s * beta * self.x_0) / self.s_t**2
        return mean + np.sqrt(beta) * self.s_s / self.s_t * noise


close = {"rtol": 2e-4, "atol": 2e-5}


def test_dps():
    """x_s - zeta grad |y - A x_0|, of the library's own step: mu = smoothing = 0, rho_t = zeta alpha_t / alpha_s."""
    operator, y = operators.mask(jnp.array([1.0, 0.0])), jnp.array([-0.9, 0.0])
    distance = lambda x_0, level: -jnp.linalg.norm(y - operator.forward(x_0))  # noqa: E731
    rho = 0.7 * NOW.alpha / THEN.alpha
    own = stepped(reverse.training_free(reverse.ddpm(), distance, rho, 0.0, 0.0))
    np.testing.assert_allclose(own, stepped(reverse.dps(reverse.ddpm(), operator, y, 0.7)), **close)


def test_lgd(monkeypatch):
    """[LGD] eq. 8 with DDIM: the mean of n likelihoods at x_0 + r_t z_i, r_t = smoothing sigma_t, divided by n once."""
    noise = np.array([[0.3, -0.2], [1.1, 0.6], [-0.7, 1.9]])
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.asarray(noise, dtype))
    found = stepped(reverse.training_free(reverse.ddim(), criterion, 1.3, 0.0, 0.8, samples=3))
    of = Exact(X_T)
    points = of.x_0 + 0.8 * of.s_t * noise
    p = np.exp([float(liked(jnp.asarray(x, jnp.float32))[0]) for x in points])
    slope = sum(p_i * of.grad(x) for p_i, x in zip(p, points, strict=True)) / p.sum()
    want = of.ddim(of.x_0, of.eps) + of.a_s / of.a_t * 1.3 * of.jacobian.T @ slope
    np.testing.assert_allclose(found, want, **close)


def test_the_smoothed_criterion_is_the_logarithm_of_a_mean():
    """One value for all samples is that value, whatever their number: a division by n once more would show."""
    ones, many = (
        stepped(reverse.training_free(reverse.ddim(), criterion, 0.5, 0.5, jnp.float32(0.0), samples=n)) for n in (1, 5)
    )
    plain = stepped(reverse.training_free(reverse.ddim(), criterion, 0.5, 0.5, 0.0))
    np.testing.assert_allclose([ones, many], [plain, plain], rtol=1e-5)


def test_freedom(monkeypatch):
    """[FreeDoM] algorithm 1: x_s of DDPM minus rho grad of the energy, and r - 1 times back to x_t."""
    noise, a = np.array([0.4, -1.3]), float(NOW.alpha / THEN.alpha)
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.asarray(noise, dtype))
    found = stepped(reverse.training_free(reverse.ddpm(), criterion, 0.6 * a, 0.0, 0.0, recurrence=3))
    x_t = X_T
    for _ in range(3):
        of = Exact(x_t)
        x_s = of.ddpm(noise) + 0.6 * of.jacobian.T @ of.grad(of.x_0)
        x_t = a * x_s + np.sqrt(1 - a**2) * noise
    np.testing.assert_allclose(found, x_s, rtol=1e-3, atol=1e-4)


def test_mpgd():
    """[MPGD] algorithm 1: x_0 - c grad of the energy, then DDIM with the network's eps."""
    found = stepped(reverse.training_free(reverse.ddim(), criterion, 0.0, 0.4, 0.0, iterations=1))
    of = Exact(X_T)
    want = of.ddim(of.x_0 + 0.4 * of.grad(of.x_0), of.eps)
    np.testing.assert_allclose(found, want, **close)


def universal_rho(scale):
    """rho_t of universal guidance: s sigma_t (sigma_t - sigma_s alpha_t / alpha_s)."""

    def rho(now):
        then = schedule.at(LEVELS, jnp.searchsorted(LEVELS.t, now.t) - 1)
        return scale * now.sigma * (now.sigma - then.sigma * now.alpha / then.alpha)

    return rho


def test_universal_guidance_forward_and_backward():
    """[UG] algorithm 2 with DDIM: eps - s sigma_t grad of log p, then Delta of 3 gradient steps off eps."""
    of, scale, size = Exact(X_T), 1.5, 0.2
    rho = scale * of.s_t * (of.s_t - of.s_s * of.a_t / of.a_s)
    found = stepped(reverse.training_free(reverse.ddim(), criterion, rho, size, 0.0, iterations=3, keeps="x_t"))
    eps, delta = of.eps - scale * of.s_t * of.jacobian.T @ of.grad(of.x_0), 0.0
    for _ in range(3):
        delta = delta + size * of.grad(of.x_0 + delta)
    eps = eps - of.a_t / of.s_t * delta
    want = of.ddim((of.x_t - of.s_t * eps) / of.a_t, eps)
    np.testing.assert_allclose(found, want, **close)


def test_a_run_of_universal_guidance_is_that_of_the_denoiser():
    """Its forward part, from noise to x_0, beside `guidance.universal`."""
    step = reverse.training_free(reverse.ddim(), criterion, universal_rho(0.8), 0.0, 0.0)
    run = lambda step, denoise: drawn(step, X_T, LEVELS, denoise)  # noqa: E731
    want = run(reverse.ddim(), guidance.universal(MIXTURE.denoiser(), criterion, 0.8))
    np.testing.assert_allclose(run(step, MIXTURE.denoiser()), want, rtol=1e-3, atol=1e-4)


def test_all_of_it_together_is_algorithm_1(monkeypatch):
    """[TFG] algorithm 1 with DDIM of eta 0, weights "decrease", two recurrences, two samples and iterations, clipped."""
    noise = {(2,): np.array([0.4, -1.3]), (2, 2): np.array([[0.3, -0.2], [1.1, 0.6]])}
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.asarray(noise[shape], dtype))
    settings = {
        "samples": 2,
        "iterations": 2,
        "recurrence": 2,
        "levels": LEVELS,
        "weights": "decrease",
        "clip": (-1, 1),
    }
    now, then = schedule.at(LEVELS, 12), schedule.at(LEVELS, 11)
    found = stepped(reverse.training_free(reverse.ddim(), criterion, 0.9, 0.3, 0.5, **settings), now=now, then=then)
    alpha = np.asarray(LEVELS.alpha, np.float64)
    beta = 1 - (alpha[1:] / alpha[:-1]) ** 2
    weight, x_t, a = beta[11] / beta.mean(), X_T, alpha[12] / alpha[11]

    def slope(of, x_0):
        points = x_0 + 0.5 * of.s_t * noise[2, 2]
        p = np.exp([float(liked(jnp.asarray(x, jnp.float32))[0]) for x in points])
        return sum(p_i * of.grad(x) for p_i, x in zip(p, points, strict=True)) / p.sum()

    for _ in range(2):
        of, delta = Exact(x_t, now, then), 0.0
        x_0 = np.clip(of.x_0, -1, 1)
        eps = (of.x_t - of.a_t * x_0) / of.s_t
        delta_t = 0.9 * weight * of.jacobian.T @ slope(of, x_0)
        for _ in range(2):
            delta = delta + 0.3 * weight * slope(of, x_0 + delta)
        x_s = of.ddim(x_0, eps) + of.a_s / of.a_t * delta_t + of.a_s * delta
        x_t = a * x_s + np.sqrt(1 - a**2) * noise[2,]
    np.testing.assert_allclose(found, x_s, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("weights", ["increase", "decrease", "constant"])
def test_the_weights_have_the_mean_1_over_a_run(weights):
    """Seen in d of one gradient step on a criterion with gradient 1, behind a network that says 0."""
    made = reverse.training_free(
        reverse.ddim(), lambda x_0, level: x_0.sum(), 0.0, 0.5, 0.0, iterations=1, levels=LEVELS, weights=weights
    )
    nothing = lambda x_t, level: Prediction(0 * x_t, 0 * x_t)  # noqa: E731
    now, then = (schedule.NoiseLevel(*(column[part] for column in LEVELS)) for part in (slice(1, None), slice(-1)))
    move = lambda now, then: made.step(KEY, nothing, X_T, (), now, then)[0][0] / then.alpha  # noqa: E731
    moves = np.asarray(jax.jit(jax.vmap(move))(now, then))
    np.testing.assert_allclose(moves.mean(), 0.5, rtol=1e-5)
    order = np.sign(moves[1] - moves[-2])  # the last entry is the noisiest step
    assert order == {"increase": 1, "decrease": -1, "constant": 0}[weights]


def test_a_process_of_exploding_variance_is_guided_as_the_same_process_of_variance_1():
    """x / sqrt(1 + sigma^2) of a run on the VE table is the run on the VP table of the same sigma / alpha."""
    exploding = schedule.karras(12, 0.02, 20.0)
    alpha = 1 / jnp.sqrt(1 + jnp.square(exploding.sigma))
    preserving = schedule.NoiseLevel(exploding.t, alpha, alpha * exploding.sigma)

    def run(levels):
        made = reverse.training_free(reverse.ddim(), criterion, 0.4, 0.2, 0.0, iterations=2, levels=levels)
        x_T = X_T * levels.sigma[-1] / preserving.sigma[-1]
        return drawn(made, x_T, levels)

    found = run(preserving)
    assert np.abs(found - drawn(reverse.ddim(), X_T, preserving)).max() > 0.1
    np.testing.assert_allclose(run(exploding), found, rtol=2e-3, atol=2e-3)


def test_elements_out_of_range_are_guided_too():
    """The criterion sees the clipped x_0; its gradient goes through a clip that a clipped denoiser would stop it at."""
    outside = lambda x_t, level: Prediction(jnp.array([1.5, 0.2]) * x_t / X_T, x_t)  # noqa: E731
    wanted = lambda x_0, level: -jnp.sum(jnp.square(x_0 + 0.5)) / 2  # noqa: E731
    made = lambda rho, clip: reverse.training_free(reverse.ddim(), wanted, rho, 0.0, 0.0, clip=clip)  # noqa: E731
    plain, moved = (stepped(made(rho, (-1.0, 1.0)), denoise=outside) for rho in (0.0, 1.0))
    slope = -np.array([1.0 + 0.5, 0.2 + 0.5]) * np.array([1.5, 0.2]) / np.asarray(X_T)
    np.testing.assert_allclose(moved - plain, float(THEN.alpha / NOW.alpha) * slope, rtol=1e-4)
    np.testing.assert_allclose(plain, stepped(reverse.ddim(), denoise=guidance.clip(outside)), rtol=1e-6)
    stopped = [stepped(made(rho, None), denoise=guidance.clip(outside)) for rho in (0.0, 1.0)]
    assert stopped[1][0] == stopped[0][0]


def test_without_rho_no_gradient_of_the_network_is_made():
    @jax.custom_vjp
    def network(x):
        return 0.3 * x

    def backward(residual, gradient):
        raise AssertionError("the network was differentiated")

    network.defvjp(lambda x: (network(x), None), backward)
    denoise = lambda x_t, level: Prediction(network(x_t), x_t)  # noqa: E731
    make = lambda rho: reverse.training_free(reverse.ddim(), criterion, rho, 0.2, 0.1)  # noqa: E731
    assert np.isfinite(stepped(make(0), denoise=denoise)).all()
    with pytest.raises(AssertionError, match="was differentiated"):
        stepped(make(jnp.float32(0)), denoise=denoise)


def test_one_program_for_all_strengths_and_each_example_its_own():
    def draw(x_T, rho, mu, smoothing):
        made = reverse.training_free(
            reverse.ddim(), criterion, rho, mu, smoothing, samples=2, levels=schedule.respace(TABLE, 4)
        )
        return sampler.sample(KEY, MIXTURE.denoiser(), made, x_T, schedule.respace(TABLE, 4))

    strengths = jnp.array([0.0, 0.5, 0.5]), jnp.array([0.0, 0.2, 0.2]), jnp.array([0.1, 0.1, 0.1])
    each = jax.jit(jax.vmap(draw))(jnp.stack([X_T, X_T, -X_T]), *strengths)
    plain = drawn(reverse.ddim(), X_T, schedule.respace(TABLE, 4))
    np.testing.assert_allclose(each[0], plain, rtol=1e-5, atol=1e-6)
    np.testing.assert_allclose(each[1], jax.jit(lambda x: draw(x, 0.5, 0.2, 0.1))(X_T), rtol=1e-4, atol=1e-5)
    assert np.abs(each[1] - plain).max() > 0.05


def test_it_draws_the_class_from_a_classifier_of_clean_examples_alone():
    """Half of the unguided samples are of the class; of the guided ones nearly all, though not by the class's own law."""
    levels = schedule.respace(TABLE, 30)
    clean = MIXTURE.log_prob(0)

    def draw(key, strengths):
        made = reverse.training_free(reverse.ddim(1.0), lambda x, level: clean(x, SOFT), *strengths, levels=levels)
        return sampler.sample(key, MIXTURE.denoiser(), made, jax.random.normal(key, (2,)), levels)

    every = jax.jit(jax.vmap(draw, (0, None)))
    chance = jax.jit(jax.vmap(lambda x: jnp.exp(clean(x, schedule.at(TABLE, 0)))))
    share = lambda strengths: float(chance(every(jax.random.split(KEY, 400), strengths)).mean())  # noqa: E731
    unguided, guided = (
        share((0.0 * jnp.ones(()), jnp.zeros(()), jnp.zeros(()))),
        share((jnp.ones(()), 0.25 * jnp.ones(()), 0.1 * jnp.ones(()))),
    )
    assert 0.4 < unguided < 0.6
    assert guided > 0.9


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"samples": 0}, "samples is 0; give at least 1"),
        ({"iterations": -1}, "iterations is -1; give at least 0"),
        ({"recurrence": 0}, "recurrence is 0; give at least 1"),
        ({"weights": "up"}, "weights is 'up'; choose one of increase, decrease, constant"),
        ({"keeps": "x_0"}, "keeps is 'x_0'; choose one of eps, x_t"),
    ],
)
def test_settings_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        reverse.training_free(reverse.ddim(), criterion, **settings)
