"""What is particular to each guidance: its own identity, its own law, its own optimum."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, forward, guidance, prediction, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.guidance import observe
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE, SCHEDULES, noise_like, points

COSINE = SCHEDULES["cosine"]
LEVEL = schedule.at(COSINE, 400)
PLACES = [(name, position) for name in SCHEDULES for position in (1, 20, -1)]


def on(denoise, level, key=0):
    """Both views on points of the mixture at a level."""
    return jax.jit(jax.vmap(denoise, (0, None)))(points(jax.random.key(key), level), level)


def same(got, want, tolerance=1e-5):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-4, atol=tolerance), got, want)


# --- several conditions ----------------------------------------------------------------------------------------------

# Two coordinates, each a mixture of four modes; label a groups the modes of the first in two, label b those of the second.
MODES = jnp.array([-1.5, -0.4, 0.5, 1.2])
A = jnp.repeat(jnp.array([0, 1, 0, 1]), 4)
B = jnp.tile(jnp.array([0, 0, 1, 1]), 4)
GRID = jnp.stack([jnp.repeat(MODES, 4), jnp.tile(MODES, 4)], 1)
WEIGHTS = jnp.repeat(jnp.array([1.0, 2.0, 3.0, 1.5]), 4) * jnp.tile(jnp.array([1.0, 0.5, 1.0, 2.0]), 4)
BY_A = GaussianMixture(WEIGHTS, GRID, jnp.full(16, 0.2), A)
BY_B, BY_BOTH = BY_A._replace(labels=B), BY_A._replace(labels=2 * A + B)


@jax.jit
def of_both(x_t, level):
    """Two conditions by the formula, by the mixture itself, and by two classifiers: one program for every level."""
    composed = guidance.compose([BY_A.denoiser(1), BY_B.denoiser(0)], BY_A.denoiser(), [1.0, 1.0])
    two = guidance.classifier(BY_A.denoiser(), guidance.all_of([BY_A.log_prob(1), BY_B.log_prob(0)]), 1.0)
    return [jax.vmap(each, (0, None))(x_t, level) for each in (composed, BY_BOTH.denoiser(2), two)]


@pytest.mark.parametrize(("name", "position"), PLACES)
def test_and_of_independent_conditions_is_exact_at_every_level(name, position):
    """a speaks of one coordinate and b of the other, so the product of their laws stays one under diffusion."""
    level = schedule.at(SCHEDULES[name], position)
    x_t = level.alpha * GRID + level.sigma * jax.random.normal(jax.random.key(0), GRID.shape)
    got, want, two = of_both(x_t, level)
    np.testing.assert_allclose(got.x_0, want.x_0, rtol=1e-3, atol=1e-4)
    np.testing.assert_allclose(got.eps, want.eps, rtol=1e-3, atol=1e-4 * (1 + 1 / float(level.sigma)) ** 0.5)
    np.testing.assert_allclose(two.x_0, want.x_0, rtol=1e-3, atol=1e-4)


def test_not_is_a_negative_scale():
    """The score of p(x) p(a | x) / p(b | x)^(1/2), by autodiff of the densities alone."""
    denoise = guidance.compose([BY_A.denoiser(1), BY_B.denoiser(0)], BY_A.denoiser(), [1.0, -0.5])
    x_t = LEVEL.alpha * GRID + LEVEL.sigma * jax.random.normal(jax.random.key(1), GRID.shape)

    def log_tilted(x):
        return BY_A.log_density()(x, LEVEL) + BY_A.log_prob(1)(x, LEVEL) - BY_B.log_prob(0)(x, LEVEL) / 2

    weighed = guidance.all_of([BY_A.log_prob(1), BY_B.log_prob(0)], [1.0, -0.5])
    for guided in (denoise, guidance.classifier(BY_A.denoiser(), weighed, 1.0)):
        found = jax.jit(jax.vmap(lambda x, guided=guided: prediction.score(guided(x, LEVEL), LEVEL)))(x_t)
        np.testing.assert_allclose(found, jax.jit(jax.vmap(jax.grad(log_tilted)))(x_t), rtol=1e-3, atol=1e-3)


def test_and_of_dependent_conditions_is_exact_at_t_0_only():
    """Where both labels speak of the same coordinate, the composed score is the product's near t = 0, and not above."""
    line = GaussianMixture(jnp.ones(4) / 4, MODES[:, None], jnp.full(4, 0.3), jnp.array([0, 0, 1, 1]))
    parity = line._replace(labels=jnp.array([0, 1, 0, 1]))
    both = guidance.compose([line.denoiser(1), parity.denoiser(1)], line.denoiser(), [1.0, 1.0])
    x_t, gaps = jnp.linspace(-2, 2, 41)[:, None], []
    # The product p(x | a) p(x | b) / p(x), normalised and diffused on a fine grid.
    grid = jnp.linspace(-8, 8, 8001)[:, None]
    clean = schedule.at(COSINE, 0)._replace(sigma=jnp.float32(1e-6))
    log_product = jax.jit(
        jax.vmap(lambda x: line.log_density()(x, clean) + line.log_prob(1)(x, clean) + parity.log_prob(1)(x, clean))
    )(grid)
    for sigma in (0.02, 1.0):
        level = schedule.NoiseLevel(jnp.float32(1), jnp.float32(1), jnp.float32(sigma))

        def log_diffused(x, sigma=sigma):
            return jax.nn.logsumexp(log_product - jnp.square(x - grid[:, 0]) / (2 * sigma**2))

        exact = jax.jit(jax.vmap(jax.grad(log_diffused)))(x_t[:, 0])
        found = jax.jit(jax.vmap(lambda x, level=level: prediction.score(both(x, level), level)))(x_t)[:, 0]
        gaps.append(float(jnp.abs(found - exact).max() / jnp.abs(exact).max()))
    assert gaps[0] < 0.02
    assert gaps[1] > 0.05


def test_compose_raises_for_another_number_of_scales():
    with pytest.raises(ValueError, match="1 conditional denoisers and 2 scales"):
        guidance.compose([MIXTURE.denoiser(0)], MIXTURE.denoiser(), [1.0, 2.0])
    with pytest.raises(ValueError, match="2 log probabilities and 1 weights"):
        guidance.all_of([MIXTURE.log_prob(0)] * 2, [1.0])


def test_push_adds_a_direction_to_any_guidance():
    c, u, bad = MIXTURE.denoiser(1), MIXTURE.denoiser(), MIXTURE.denoiser(0)
    pushed = guidance.push(guidance.classifier_free(c, u, 3.0), c, bad, 2.0)
    same(on(pushed, LEVEL), on(guidance.compose([c, bad], u, [5.0, -2.0]), LEVEL))


# --- classifiers -----------------------------------------------------------------------------------------------------

EACH = MIXTURE._replace(labels=None)  # every component its own class


def logits(x_t, level):
    """Of the four components, up to a constant that no softmax sees."""
    return jnp.stack([EACH.log_prob(k)(x_t, level) for k in range(4)]) + 7.0


@pytest.mark.parametrize("label", [0, 1])
def test_any_of_several_labels_is_their_union(label):
    """The components of a class, given as labels, are the class: by logits, by probabilities, and as the mixture says."""
    of_class = jnp.array([[0, 1], [2, 3]])[label]
    want = on(guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(label), 2.0), LEVEL)
    for log_prob in (guidance.from_logits(logits, of_class), guidance.any_of([EACH.log_prob(k) for k in of_class])):
        same(on(guidance.classifier(MIXTURE.denoiser(), log_prob, 2.0), LEVEL), want)


def test_temperatures():
    """joint = marginal = 1 / T is the classifier at temperature T; apart they are numerator and denominator."""
    x = jnp.array([0.3, -0.4])
    f = logits(x, LEVEL)
    at = lambda *args: guidance.from_logits(logits, 2, *args)(x, LEVEL)  # noqa: E731
    np.testing.assert_allclose(at(0.5, 0.5), jax.nn.log_softmax(f / 2)[2], rtol=1e-5)
    np.testing.assert_allclose(at(1.0, 0.5), f[2] - jax.nn.logsumexp(0.5 * f), rtol=1e-5)
    np.testing.assert_allclose(at(2.0, 0.0), 2 * f[2] - jnp.log(4.0), rtol=1e-5)
    np.testing.assert_allclose(at(), EACH.log_prob(2)(x, LEVEL), rtol=1e-4)


def gaussian(std, mean=(0.5, -1.0)):
    return GaussianMixture(jnp.ones(1), jnp.array([mean]), jnp.array([std]))


@jax.jit
def tilted(x_t, level):
    """The denoiser of the tilted law, and both forms of guidance by a linear criterion: one program for every level."""
    criterion = lambda x_0, level: jnp.sum(jnp.array([0.7, -0.2]) * x_0)  # noqa: E731
    moved = gaussian(0.4, tuple(np.array([0.5, -1.0]) + 3.0 * 0.4**2 * np.array([0.7, -0.2]))).denoiser()
    off_the_shelf = guidance.off_the_shelf(gaussian(0.4).denoiser(), criterion, 3.0, data_std=0.4)
    universal = guidance.universal(gaussian(0.4).denoiser(), criterion, 3.0)
    return [jax.vmap(each, (0, None))(x_t, level) for each in (moved, off_the_shelf, universal)]


@pytest.mark.parametrize(("name", "position"), PLACES)
def test_on_the_clean_example_both_forms_are_exact_for_normal_data(name, position):
    """A linear criterion a . x_0 tilts N(m, s^2) to N(m + scale s^2 a, s^2): every level's denoiser is known."""
    level = schedule.at(SCHEDULES[name], position)
    want, *both = tilted(points(jax.random.key(0), level), level)
    for got in both:
        np.testing.assert_allclose(got.x_0, want.x_0, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(got.eps, want.eps, rtol=1e-4, atol=1e-5 * (1 + 1 / float(level.sigma)))


def test_off_the_shelf_takes_the_gradient_at_the_predicted_x_0():
    """A criterion that bends: its gradient is taken at x_0, not at x_t, and weighed by Var(x_0 | x_t) of normal data."""
    x = jnp.array([0.4, -0.3])
    x_0 = MIXTURE.denoiser()(x, LEVEL).x_0
    found = guidance.off_the_shelf(MIXTURE.denoiser(), lambda x, level: jnp.sum(jnp.sin(3 * x)), 2.0, 0.7)(x, LEVEL)
    variance = 0.49 * LEVEL.sigma**2 / (0.49 * LEVEL.alpha**2 + LEVEL.sigma**2)
    np.testing.assert_allclose(found.x_0 - x_0, 2 * variance * 3 * jnp.cos(3 * x_0), rtol=1e-3)


@pytest.mark.parametrize("mask", [None, lambda x_t, level: jnp.array([[1.0, 0.0], [0.0, 1.0]])])
def test_blurred_predicts_from_its_own_blurred_x_0(mask):
    square = MIXTURE._replace(means=jax.random.normal(jax.random.key(5), (4, 2, 2, 1)))
    x_t = jax.random.normal(jax.random.key(6), (2, 2, 1))
    first = square.denoiser()(x_t, LEVEL)
    near = np.exp(-1 / (2 * 0.8**2))
    rows = np.array([[1, near], [near, 1]]) / (1 + near)
    smooth = np.einsum("ij,jwc,vw->ivc", rows, first.x_0, rows)
    if mask is not None:
        smooth = np.where(np.eye(2)[..., None] > 0, smooth, first.x_0)
    second = square.denoiser()(LEVEL.alpha * smooth + LEVEL.sigma * first.eps, LEVEL)
    found = guidance.blurred(square.denoiser(), 0.8, mask)(x_t, LEVEL)
    np.testing.assert_allclose(found.eps, second.eps, rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(LEVEL.alpha * found.x_0 + LEVEL.sigma * found.eps, x_t, rtol=1e-4, atol=1e-5)
    whole = guidance.self_attention(square.denoiser(), 1.5, 0.8, mask)(x_t, LEVEL)
    np.testing.assert_allclose(whole.eps, second.eps + 1.5 * (first.eps - second.eps), rtol=1e-3, atol=1e-4)


def test_elucd_shifts_the_mean_by_variance_and_sine():
    levels = schedule.respace(COSINE, 50)
    now, then, x_t, key = schedule.at(levels, 30), schedule.at(levels, 29), jnp.array([0.4, -0.1]), jax.random.key(0)
    criterion = lambda x_0, level: jnp.sum(jnp.sin(x_0))  # noqa: E731
    plain, guided = reverse.ddpm(), reverse.off_the_shelf_ddpm(criterion, 2.0, levels, gamma=0.3)
    before, after = (step.step(key, MIXTURE.denoiser(), x_t, step.init(x_t), now, then)[0] for step in (plain, guided))
    pairs = [(schedule.at(levels, i), schedule.at(levels, i - 1)) for i in range(1, 51)]
    peak = max(float(forward.posterior(x_t, x_t, *pair).variance) for pair in pairs)
    variance = float(forward.posterior(x_t, x_t, now, then).variance)
    weight = 2.0 * (variance + 0.3 * peak * np.sin(np.pi * float(now.t) / float(levels.t[-1])))
    np.testing.assert_allclose(after - before, weight * jnp.cos(MIXTURE.denoiser()(x_t, now).x_0), rtol=1e-3, atol=1e-6)


# --- classifier-free -------------------------------------------------------------------------------------------------


def test_autoguidance_is_the_tilted_score_and_sharpens_towards_the_modes():
    """good^2 / bad on classes of two modes each; samples come nearer to their modes and both modes stay."""
    blur = lambda extra: MIXTURE._replace(stds=jnp.sqrt(jnp.square(MIXTURE.stds) + extra))  # noqa: E731
    good, bad = blur(0.04), blur(0.10)
    guided = guidance.autoguidance(good.denoiser(0), bad.denoiser(0), 2.0)

    def log_tilted(x):
        own = lambda m: m.log_density()(x, LEVEL) + m.log_prob(0)(x, LEVEL)  # noqa: E731
        return 2 * own(good) - own(bad)

    x_t = points(jax.random.key(0), LEVEL)
    both = lambda x: (prediction.score(guided(x, LEVEL), LEVEL), jax.grad(log_tilted)(x))  # noqa: E731
    found, want = jax.jit(jax.vmap(both))(x_t)
    np.testing.assert_allclose(found, want, rtol=1e-3, atol=2e-3)

    levels = schedule.respace(COSINE, 60)
    x_T = noise_like(levels, jax.random.key(1), (1000, 2))
    spread, share = {}, {}
    for name, denoise in {"good": good.denoiser(0), "guided": guided}.items():
        run = lambda x, d=denoise: sampler.sample(jax.random.key(0), d, reverse.ddim(), x, levels)  # noqa: E731
        distance = jnp.linalg.norm(jax.jit(jax.vmap(run))(x_T)[:, None] - MIXTURE.means[None, :2], axis=-1)
        spread[name], share[name] = float(distance.min(1).mean()), float(jnp.mean(distance[:, 0] < distance[:, 1]))
    assert spread["guided"] < 0.85 * spread["good"]
    assert abs(share["guided"] - 0.7) < 0.1  # 0.35 against 0.15


def test_rescale_gives_the_guided_view_the_conditionals_deviation():
    c, u = MIXTURE.denoiser(1), MIXTURE.denoiser()
    guide = lambda c: guidance.classifier_free(c, u, 6.0)  # noqa: E731
    plain, guided = on(c, LEVEL), on(guide(c), LEVEL)
    for view, read in {"v": lambda p: prediction.v(p, LEVEL), "x_0": lambda p: p.x_0}.items():
        for mix in (0.0, 0.7, 1.0):
            got = on(guidance.rescale(guide, c, mix, view), LEVEL)
            want = mix * read(plain).std(1) + (1 - mix) * read(guided).std(1)
            np.testing.assert_allclose(read(got).std(1), want, rtol=1e-3)
    with pytest.raises(ValueError, match="'score'"):
        guidance.rescale(guide, c, view="score")


@jax.jit
def not_linear(x_t, level):
    """What has a view made from the other, by name: one program for every level."""
    c, u = MIXTURE.denoiser(1), MIXTURE.denoiser()
    guide = lambda c: guidance.classifier_free(c, u, 3.0)  # noqa: E731
    made = {
        "rescale": guidance.rescale(guide, c),
        "rescale of x_0": guidance.rescale(guide, c, view="x_0"),
        "projected": guidance.first_state(guidance.projected(c, u, 3.0, radius=0.2)),
        "tangential": guidance.tangential(c, u, 3.0),
        "zero_star": guidance.zero_star(c, u, 3.0),
        "dynamic_threshold": guidance.dynamic_threshold(guide(c), 0.9, 0.5),
        "off_the_shelf": guidance.off_the_shelf(u, lambda x, level: -jnp.sum(x**2), 1.0),
        "universal": guidance.universal(u, lambda x, level: -jnp.sum(x**2), 1.0),
    }
    return {name: jax.vmap(each, (0, None))(x_t, level) for name, each in made.items()}


@pytest.mark.parametrize(("name", "position"), PLACES)
def test_both_views_explain_x_t(name, position):
    """alpha x_0 + sigma eps = x_t, for what is not linear and so has a view made from the other."""
    level = schedule.at(SCHEDULES[name], position)
    x_t = points(jax.random.key(0), level)
    for which, got in not_linear(x_t, level).items():
        explained = level.alpha * got.x_0 + level.sigma * got.eps
        np.testing.assert_allclose(explained, x_t, rtol=1e-4, atol=1e-4, err_msg=which)


def test_projected_guidance_by_hand():
    """Orthogonal to the conditional, no longer than the radius, with the direction of the steps before in it."""
    c, u, x = MIXTURE.denoiser(1), MIXTURE.denoiser(), jnp.array([0.4, -0.3])
    d = c(x, LEVEL).x_0 - u(x, LEVEL).x_0
    moved = lambda **knobs: guidance.projected(c, u, 4.0, **knobs)  # noqa: E731
    shift, _ = moved().denoise(jnp.zeros(2), x, LEVEL)
    np.testing.assert_allclose(jnp.dot(shift.x_0 - c(x, LEVEL).x_0, c(x, LEVEL).x_0), 0, atol=1e-6)
    assert jnp.linalg.norm(shift.x_0 - c(x, LEVEL).x_0) > 0.01
    short, state = moved(parallel=1.0, radius=0.01).denoise(jnp.zeros(2), x, LEVEL)
    np.testing.assert_allclose(state, d, rtol=1e-5)  # what is remembered has its whole length
    np.testing.assert_allclose(short.x_0 - c(x, LEVEL).x_0, 3 * 0.01 * d / jnp.linalg.norm(d), rtol=1e-4)
    before = jnp.array([1.0, 2.0])
    kept, state = moved(parallel=1.0, momentum=-0.5).denoise(before, x, LEVEL)
    np.testing.assert_allclose(state, d - 0.5 * before, rtol=1e-5)
    np.testing.assert_allclose(kept.x_0, c(x, LEVEL).x_0 + 3 * (d - 0.5 * before), rtol=1e-4)
    half, _ = moved(parallel=0.5).denoise(jnp.zeros(2), x, LEVEL)
    whole, _ = moved(parallel=1.0).denoise(jnp.zeros(2), x, LEVEL)
    np.testing.assert_allclose(half.x_0, (shift.x_0 + whole.x_0) / 2, rtol=1e-5)


def test_cfg_plus_plus_is_a_ddim_step_of_classifier_free_guidance_at_another_scale():
    """lambda there is lambda / (1 - alpha_t sigma_s / (alpha_s sigma_t)) here, or lambda for DDPM."""
    c, u, x = MIXTURE.denoiser(1), MIXTURE.denoiser(), jnp.array([0.4, -0.3])
    now, then = schedule.at(COSINE, 400), schedule.at(COSINE, 380)
    scale = 0.6 / (1 - now.alpha * then.sigma / (then.alpha * now.sigma))
    assert scale > 3
    step = lambda step, denoise: step.step(jax.random.key(0), denoise, x, step.init(x), now, then)[0]  # noqa: E731
    plus_plus = guidance.cfg_plus_plus(c, u, 0.6)
    np.testing.assert_allclose(
        step(reverse.ddim(), plus_plus), step(reverse.ddim(), guidance.classifier_free(c, u, scale)), rtol=1e-4
    )
    np.testing.assert_array_equal(
        step(reverse.ddpm(), plus_plus), step(reverse.ddpm(), guidance.classifier_free(c, u, 0.6))
    )


def test_zero_star_fits_the_unconditional_velocity_first():
    """What is left of c after the fit is orthogonal to u; it is added scale times; late enough in t it is all zero."""
    c, u, x = MIXTURE.denoiser(1), MIXTURE.denoiser(), jnp.array([0.4, -0.3])
    velocity = lambda p: np.asarray(p.eps - p.x_0, np.float64)  # noqa: E731
    of_c, of_u = velocity(c(x, LEVEL)), velocity(u(x, LEVEL))
    fitted = of_c @ of_u / (of_u @ of_u) * of_u
    found = velocity(guidance.zero_star(c, u, 3.0)(x, LEVEL))
    np.testing.assert_allclose(found, fitted + 3 * (of_c - fitted), rtol=1e-3)
    np.testing.assert_allclose(velocity(guidance.zero_star(c, u, 3.0, zero_from=400)(x, LEVEL)), 0, atol=1e-6)
    np.testing.assert_allclose(velocity(guidance.zero_star(c, u, 3.0, zero_from=401)(x, LEVEL)), found, rtol=1e-6)


def test_an_independent_condition_is_drawn_from_the_key_and_the_level():
    net, draw = (lambda y: MIXTURE.denoiser(y)), (lambda key: jax.random.randint(key, (), 0, 2))
    x = jnp.array([0.4, -0.3])

    def is_other(key, level):
        """1 if the other label was drawn: only then does the scale matter."""
        guided = guidance.independent(net, 1, draw, key, 3.0)
        return jnp.abs(guided(x, level).x_0 - net(1)(x, level).x_0).max() > 1e-4

    others = jax.jit(jax.vmap(lambda key: is_other(key, LEVEL)))(jax.random.split(jax.random.key(0), 200))
    assert 0.35 < float(others.mean()) < 0.65
    levels = schedule.NoiseLevel(*(column[100:300] for column in COSINE))
    at = jax.jit(jax.vmap(lambda level: is_other(jax.random.key(0), level)))
    along = at(levels)
    assert 0.35 < float(along.mean()) < 0.65
    halves = at(jax.tree.map(lambda part: jnp.full(200, part), LEVEL)._replace(t=400 + jnp.arange(200) / 256))
    assert 0.3 < float(halves.mean()) < 0.7  # off the grid each level draws too


@pytest.mark.parametrize("ramp", [guidance.linear_ramp, guidance.cosine_ramp])
def test_ramps_rise_from_1_to_the_scale(ramp):
    values = jax.vmap(ramp(5.0, 1000))(COSINE)
    np.testing.assert_allclose(values[jnp.array([0, 500, 1000])], [5.0, 3.0, 1.0], atol=1e-5)
    assert jnp.all(jnp.diff(values) <= 1e-6)
    late = jax.vmap(guidance.cosine_ramp(5.0, 1000, 4.0))(COSINE)
    assert jnp.all(late <= jax.vmap(guidance.cosine_ramp(5.0, 1000))(COSINE) + 1e-6)
    np.testing.assert_allclose(late[200], 1 + 4 * (1 - np.cos(np.pi * 0.8**4)) / 2, rtol=1e-5)


def test_shared_and_fused_denoisers_are_the_same_functions():
    net = lambda y: lambda x, level: MIXTURE.denoiser(y)(x, level)  # noqa: E731
    guide = lambda a, b: guidance.push(guidance.classifier_free(a, MIXTURE.denoiser(), 3.0), a, b, 2.0)  # noqa: E731
    want = on(guide(net(1), net(0)), LEVEL)
    same(on(guidance.call_once(guide, net(1), net(0)), LEVEL), want)
    same(on(guidance.batched(net, jnp.array([1, 0]), guide), LEVEL), want)


# --- thresholds ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("position", [0, 1, 400, -1])
def test_dynamic_threshold_is_the_quantile_of_this_example(position):
    level = schedule.at(COSINE, position)
    x_0 = jax.random.normal(jax.random.key(0), (3, 50)) * jnp.array([[0.2], [2.0], [9.0]])
    x_t = jax.random.normal(jax.random.key(1), (3, 50))
    denoise = lambda x_0: lambda x_t, level: Prediction(x_0, x_t)  # noqa: E731
    found = jax.vmap(lambda x_0, x_t: guidance.dynamic_threshold(denoise(x_0), 0.9)(x_t, level))(x_0, x_t)
    reach = np.maximum(np.quantile(np.abs(x_0), 0.9, axis=1, keepdims=True), 1.0)
    np.testing.assert_allclose(found.x_0, np.clip(x_0, -reach, reach) / reach, rtol=1e-5)
    assert reach[2] > 5  # no cap: with one of 1 this would be a clip
    np.testing.assert_allclose(found.x_0[0], x_0[0], rtol=1e-6)
    if position:
        np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, rtol=1e-4, atol=1e-5)
    wide = guidance.dynamic_threshold(denoise(x_0[2]), 0.9, limit=3.0)(x_t[2], level)
    np.testing.assert_allclose(jnp.abs(wide.x_0).max(), 3.0, rtol=1e-5)


# --- diagnostics -----------------------------------------------------------------------------------------------------


def test_observers_return_the_named_quantities():
    scale, x = 3.0, jnp.array([0.4, -0.3])
    base, log_prob = MIXTURE.denoiser(), MIXTURE.log_prob(1)
    guided = guidance.classifier(base, log_prob, scale)(x, LEVEL)
    seen = observe.together(observe.guidance(base), observe.log_prob(log_prob), observe.clipped(-0.1, 0.1))(
        x, guided, LEVEL
    )
    gradient, score = scale * jax.grad(log_prob)(x, LEVEL), prediction.score(base(x, LEVEL), LEVEL)
    np.testing.assert_allclose(seen["guidance"], jnp.linalg.norm(gradient), rtol=1e-3)
    np.testing.assert_allclose(seen["score"], jnp.linalg.norm(score), rtol=1e-5)
    cosine = jnp.dot(gradient, score) / jnp.linalg.norm(gradient) / jnp.linalg.norm(score)
    np.testing.assert_allclose(seen["cosine"], cosine, rtol=1e-3)
    np.testing.assert_allclose(seen["log_prob"], log_prob(x, LEVEL))
    assert seen["clipped"] == jnp.mean(jnp.abs(guided.x_0) >= 0.1)
    clean = observe.log_prob(lambda x_0, level: jnp.sum(x_0), clean=True)(x, guided, LEVEL)
    np.testing.assert_allclose(clean["log_prob"], guided.x_0.sum())
    clipped = guidance.clip(lambda x, level: Prediction(jnp.array([2.0, 0.5, -1.5, 0.0]), jnp.zeros(4)))
    still = observe.clipped()(jnp.zeros(4), clipped(jnp.zeros(4), LEVEL), LEVEL)
    assert still["clipped"] == 0.5  # what a clip has moved to the border counts
    none = observe.guidance(base)(x, base(x, LEVEL), LEVEL)
    assert none["guidance"] == 0
    assert none["cosine"] == 0


def test_observers_run_along_a_sample():
    levels = schedule.respace(COSINE, 8)
    denoise = guidance.classifier_free(MIXTURE.denoiser(1), MIXTURE.denoiser(), 2.0)
    watch = observe.together(observe.guidance(MIXTURE.denoiser()), observe.log_prob(MIXTURE.log_prob(1)))
    run = lambda x: sampler.sample(jax.random.key(0), denoise, reverse.ddim(), x, levels, watch)  # noqa: E731
    x_0, seen = jax.jit(jax.vmap(run))(noise_like(levels, jax.random.key(0), (16, 2)))
    assert {name: value.shape for name, value in seen.items()} == dict.fromkeys(
        ("guidance", "score", "cosine", "log_prob"), (16, 8)
    )
    assert seen["log_prob"][:, -1].mean() > seen["log_prob"][:, 0].mean()
    plain = jax.jit(jax.vmap(lambda x: sampler.sample(jax.random.key(0), denoise, reverse.ddim(), x, levels)))
    np.testing.assert_allclose(plain(noise_like(levels, jax.random.key(0), (16, 2))), x_0, atol=1e-4)


def test_cached_returns_the_prediction_for_the_same_objects_only():
    calls = []

    def denoise(x_t, level):
        calls.append(x_t)
        return MIXTURE.denoiser()(x_t, level)

    x = jnp.array([0.4, -0.3])
    first = denoise(x, LEVEL)
    answer = denoiser.cached(first, x, LEVEL, denoise)
    assert answer(x, LEVEL) is first
    assert len(calls) == 1
    same(answer(x + 0, LEVEL), first)
    same(answer(x, schedule.at(COSINE, 400)), first)
    jacobian = jax.jacrev(lambda x: answer(x, LEVEL).x_0)(x)
    assert len(calls) == 4
    np.testing.assert_allclose(jacobian, jax.jacrev(lambda x: MIXTURE.denoiser()(x, LEVEL).x_0)(x), rtol=1e-5)
