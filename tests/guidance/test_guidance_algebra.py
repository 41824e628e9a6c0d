"""The laws that every guidance obeys, over the table of `tests/members.py`, and the number of calls each one costs."""

import re

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, reverse, sampler, schedule
from guided_jax.guidance import Stateful
from guided_jax.prediction import Prediction
from tests.members import MEMBERS, NULL, PICTURES, SHAPE, as_denoiser, exact_net
from tests.oracle import BROAD, NARROW, ODE, SCHEDULES, SDE, points, reparameterized, variance_reached

SCALES = jnp.array([0.0, 1.0, -0.5, 0.3, 2.0, 7.5])
# t = 1 and t = T of each schedule, and between.
PLACES = [[np.asarray(column)[[1, 12, 30, -1]] for column in levels] for levels in SCHEDULES.values()]
LEVELS = schedule.NoiseLevel(*(jnp.concatenate(columns) for columns in zip(*PLACES, strict=True)))
X_T = jax.jit(jax.vmap(lambda level: points(jax.random.key(0), level, 8).reshape(8, *SHAPE)))(LEVELS)
# A guidance sees predictions, not networks: one view for all, the other four for those with formulas of their own.
EVERY_VIEW = (
    "classifier",
    "classifier on a conditional",
    "classifier-free",
    "composition of two",
    "rescale",
    "projected",
)
# Rows that are others with another setting: their laws are in the fast suite, their programs are measured in the slow one.
VARIANTS = {
    *("classifier, any of one", "classifier-free, by level", "cosine ramp", "composition of one"),
    *("independent of a null", "rescale of x_0", "projected, clipped"),
}
ROWS = [pytest.param(name, marks=pytest.mark.slow if name in VARIANTS else ()) for name in MEMBERS]
CASES = [(name, "x_0") for name in MEMBERS]
CASES += [
    pytest.param(name, view, marks=pytest.mark.slow if view in ("score", "flow") else ())
    for name in EVERY_VIEW
    for view in ("eps", "v", "score", "flow")
]
# Both very ends: nothing is noise, or nothing of the label is left in x_t.
ENDS = schedule.NoiseLevel(jnp.array([0.0, 1000.0]), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))


def everywhere(make, scales, levels, x_t):
    """Predictions of a row at each scale, level and x_t, in one batch: each vmap within another is traced anew."""
    (count, points), times = x_t.shape[:2], len(scales)
    every_level = jax.tree.map(lambda column: np.tile(np.repeat(column, points), times), levels)
    every_x = np.tile(np.reshape(x_t, (-1, *SHAPE)), (times, 1, 1, 1))
    found = jax.jit(jax.vmap(lambda scale, level, x: make(scale)(x, level)))(
        np.repeat(scales, count * points), every_level, every_x
    )
    return jax.tree.map(lambda leaf: leaf.reshape(times, count, points, *leaf.shape[1:]), found)


def made(name, net, scale, knob=None):
    member = MEMBERS[name]
    return as_denoiser(member.make(net, PICTURES.log_prob, jnp.int32(1), scale, member.knob if knob is None else knob))


@pytest.fixture(scope="module")
def exact():
    """The conditional, the unconditional and every guided prediction between them, by the oracle's own formulas."""
    c, u = (
        everywhere(lambda scale, y=y: exact_net()(y), jnp.zeros(1), LEVELS, X_T)._replace(variance_fraction=None)
        for y in (1, NULL)
    )
    weight = SCALES.reshape(-1, *[1] * (c.x_0.ndim - 1))
    return jax.tree.map(lambda c, u: np.asarray(u + weight * (c - u)), c, u)


def rounding(view, scale):
    """Of both views at each level: x_0 read from eps or a score is divided by alpha, eps read from x_0 by sigma."""
    alpha, sigma = np.asarray(LEVELS.alpha), np.asarray(LEVELS.sigma)
    of_x_0 = (1 + sigma) / (alpha if view in ("eps", "score") else 1)
    of_eps = 1 + 1 / sigma if view == "x_0" else 1 + sigma
    unit = 4e-5 * (1 + abs(scale))
    return [(unit * tolerance).reshape(-1, 1, 1, 1, 1) for tolerance in (of_x_0, of_eps)]


@pytest.mark.parametrize(("name", "view"), CASES)
def test_what_scale_0_and_1_are_and_that_linear_guidance_is_linear(name, view, exact):
    """At 0 and 1 what the row says; for the linear ones every scale is u + s (c - u), whatever the network says.

    At sigma = 0 and at alpha = 0 everything stays finite.
    """
    member = MEMBERS[name]
    net = exact_net(lambda denoise: reparameterized(denoise, view))
    levels = schedule.NoiseLevel(*map(np.concatenate, zip(LEVELS, ENDS, strict=True)))
    everything = everywhere(lambda scale: made(name, net, scale), SCALES, levels, np.concatenate([X_T, X_T[:2]]))
    everything = jax.tree.map(np.asarray, everything)
    if view not in ("eps", "score"):  # which say nothing at alpha = 0
        assert np.all(np.isfinite(everything.x_0))
        assert np.all(np.isfinite(everything.eps))
    found = jax.tree.map(lambda view: view[:, :-2], everything)
    fraction = {"c": 0.25, "u": 0.75}[member.first]
    np.testing.assert_array_equal(found.variance_fraction, np.full_like(found.variance_fraction, fraction))
    for i, scale in enumerate(SCALES):
        promised = member.bayes or (member.at_0 if scale == 0 else member.at_1 if scale == 1 else None)
        if not promised:
            continue
        # The value at scale 0 is the unconditional's, at 1 the conditional's.
        want = i if member.bayes else ["u", "c"].index(promised)
        for got, of, atol in zip(found[:2], exact[:2], rounding(view, float(scale)), strict=True):
            assert np.all(np.abs(got[i] - of[want]) <= atol + 2e-4 * np.abs(of[want])), (scale, atol)


# --- runs: one compilation, no neighbours ----------------------------------------------------------------------------

RUN = schedule.respace(schedule.cosine(1000), 5)


def small_net(y):
    """A network and, below, a classifier of a few operations: they take part in every guided call of a program."""
    return denoiser.from_network(lambda x, t: jnp.tanh(x + 0.3 * y) + 1e-3 * t, "x_0")


def small_log_prob(y):
    return lambda x, level: -jnp.sum(jnp.square(x - 0.4 * y))


def draw(name, key, x_T, y, scale, knob):
    """One guided example, by a sampler that reads both views and draws noise."""
    member = MEMBERS[name].make(small_net, small_log_prob, y, scale, knob)
    step = reverse.ddim(0.5)
    if isinstance(member, Stateful):
        return sampler.sample(key, as_denoiser(member), reverse.with_state(member, step), x_T, RUN)
    return sampler.sample(key, member, step, x_T, RUN)


@pytest.mark.parametrize("name", ROWS)
def test_one_compilation_for_all_and_no_dependence_on_the_batch(name):
    """Labels, scales and knobs are traced and per example; whoever sits beside an example, its bits are the same."""

    def one(*arguments):
        return draw(name, *arguments)

    chex.clear_trace_counter()  # it counts by name, and every row is called `one`
    run = jax.jit(jax.vmap(chex.assert_max_traces(one, n=1)))
    keys, x_T = jax.random.split(jax.random.key(0), 3), jax.random.normal(jax.random.key(1), (3, *SHAPE))
    first = run(keys, x_T, jnp.array([1, 0, 1]), jnp.array([2.0, 0.0, 5.0]), jnp.array([0.3, 0.1, 0.9]))
    assert jnp.all(jnp.isfinite(first))
    again = run(
        keys.at[1:].set(keys[0]),
        x_T.at[1:].set(50.0),
        jnp.array([1, 1, 0]),
        jnp.array([2.0, 9.0, -1.0]),
        jnp.array([0.3, 0.7, 0.2]),
    )
    np.testing.assert_array_equal(again[0], first[0])
    moved = run(keys[::-1], x_T[::-1], jnp.array([1, 0, 1]), jnp.array([5.0, 0.0, 2.0]), jnp.array([0.9, 0.1, 0.3]))
    np.testing.assert_array_equal(moved[::-1], first)


SAMPLERS = {
    "ddim": reverse.ddim(),
    "ddim-half": reverse.ddim(0.5),
    "ddpm-small": reverse.ddpm("small"),
    "ddpm-large": reverse.ddpm("large"),
    "ddpm-learned": reverse.ddpm("learned"),
}


# Of the fast suite those that read everything that a prediction has: both views, the noise and the learned variance.
SAMPLERS = [
    pytest.param(step, id=name, marks=() if name in ("ddim-half", "ddpm-learned") else pytest.mark.slow)
    for name, step in SAMPLERS.items()
]


@pytest.mark.parametrize("step", SAMPLERS)
def test_classifier_guidance_and_classifier_free_guidance_are_the_same_run(step):
    """From t = T down to the clean level, for several scales, on the same noise, VP and VE."""
    tables = [schedule.respace(schedule.cosine(1000), 8), schedule.karras(8, 0.01, 20.0)]
    levels = schedule.NoiseLevel(*(jnp.stack(columns) for columns in zip(*tables, strict=True)))

    def run(levels, scale, kind):
        guided = made(kind, exact_net(), scale)
        denoise = lambda x, level: guided(x, level)._replace(variance_fraction=jnp.full(SHAPE, 0.4))  # noqa: E731
        x_T = levels.sigma[-1] * jax.random.normal(jax.random.key(2), SHAPE)
        return sampler.sample(jax.random.key(3), denoise, step, x_T, levels)

    @jax.jit
    def runs(levels, scales):
        kinds = ("classifier-free", "classifier", "classifier on a conditional")
        each = [lambda levels, scale, kind=kind: run(levels, scale, kind) for kind in kinds]
        return [jax.vmap(jax.vmap(one, (None, 0)), (0, None))(levels, scales) for one in each]

    want, *others = runs(levels, jnp.array([0.0, 1.0, 3.0]))
    for got in others:
        np.testing.assert_allclose(got, want, rtol=2e-3, atol=2e-3)


# --- cost: calls in the compiled program -----------------------------------------------------------------------------


def fourier_net(params):
    """A network that is one Fourier transform, as its backward pass is: easy to count."""

    def net(y):
        def network(x, t):
            return jnp.fft.rfft(params * x.reshape(-1) + y + t, 3).real.reshape(SHAPE)

        return denoiser.from_network(network, "x_0")

    return net


def dense_log_prob(params):
    """A classifier that is one matrix product, as its backward pass is."""

    def log_prob(y):
        return lambda x, level: jax.nn.log_softmax(x.reshape(-1) @ params)[y]

    return log_prob


def compiled(name, observe=None):
    member = MEMBERS[name]

    def run(net_params, classifier_params, key, x_T, y, scale):
        made = member.make(fourier_net(net_params), dense_log_prob(classifier_params), y, scale, member.knob)
        step, denoise = reverse.ddim(0.5), as_denoiser(made)
        step = reverse.with_state(made, step) if isinstance(made, Stateful) else step
        return sampler.sample(key, denoise, step, x_T, RUN, observe and observe(net_params))

    batched = jax.vmap(run, (None, None, 0, 0, 0, 0))
    arguments = (jnp.ones(2), jnp.ones((2, 5)), jax.random.split(jax.random.key(0), 32), jnp.ones((32, *SHAPE)))
    return jax.jit(batched).lower(*arguments, jnp.ones(32, int), jnp.ones(32)).compile().as_text()


def count(operation, text):
    return len(re.findall(rf"[ ]{operation}\(", text))


@pytest.mark.parametrize("name", ROWS)
def test_the_compiled_program_calls_what_the_formula_needs(name):
    member, text = MEMBERS[name], compiled(name)
    assert count("fft", text) == member.networks
    if name not in ("self-attention", "frequency-decoupled"):  # whose blurs are matrix products too
        assert count("dot", text) == member.classifiers
    assert count("conditional", text) == member.conditionals


def test_diagnostics_add_no_network_calls():
    def observe(params):
        clean = guidance.observe.log_prob(lambda x_0, level: -jnp.sum(x_0), clean=True)
        return guidance.observe.together(guidance.observe.clipped(), clean)

    for name in ("classifier", "classifier-free", "interval", "rescale"):
        assert count("fft", compiled(name, observe)) == MEMBERS[name].networks


def test_an_interval_with_bounds_per_example_is_right():
    levels = schedule.NoiseLevel(jnp.float32(3), jnp.float32(1.0), jnp.float32(0.7))

    def limited(x, high):
        guided = lambda c: guidance.classifier_free(c, exact_net()(NULL), 3.0)  # noqa: E731
        return guidance.interval(guided, exact_net()(1), 0.1, high)(x, levels)

    x, highs = X_T[0], jnp.linspace(0.1, 1.4, 8)
    text = jax.jit(jax.vmap(limited)).lower(x, highs).compile().as_text()
    assert count("conditional", text) == 0
    got, alone = jax.jit(jax.vmap(limited))(x, highs), jax.jit(limited)
    for i, each in enumerate(alone(one, high) for one, high in zip(x, highs, strict=True)):
        np.testing.assert_allclose(got.x_0[i], each.x_0, atol=1e-5)
        np.testing.assert_allclose(got.eps[i], each.eps, atol=1e-5)


@pytest.mark.parametrize("x_0_of", ["classifier_free", "classifier"])
def test_an_interval_skips_the_calls_outside_it(x_0_of):
    """The second network, or the classifier, is run at the levels inside and at no other; low is outside, high inside."""
    levels, times = schedule.karras(8, 0.05, 10.0), []
    low, high = levels.sigma[3], levels.sigma[6]

    def spy(level):
        jax.debug.callback(lambda t: times.append(float(t)), level.t)

    def unconditional(x, level):
        spy(level)
        return PICTURES.denoiser()(x, level)

    def log_prob(x, level):
        spy(level)
        return PICTURES.log_prob(1)(x, level)

    def run(key, x_T, scale):
        guide = lambda c: guidance.classifier_free(c, unconditional, scale)  # noqa: E731
        if x_0_of == "classifier":
            guide = lambda d: guidance.classifier(d, log_prob, scale)  # noqa: E731
        denoise = guidance.interval(guide, PICTURES.denoiser(1), low, high)
        return sampler.sample(key, denoise, reverse.ddim(), x_T, levels)

    jax.jit(jax.vmap(run))(jax.random.split(jax.random.key(0), 4), jnp.ones((4, *SHAPE)), jnp.full(4, 2.0))
    jax.effects_barrier()
    assert set(times) == {4.0, 5.0, 6.0}
    assert len(times) in (3, 3 * 4)  # of an unbatched t the callback may speak once for the batch


@pytest.mark.parametrize("name", SCHEDULES)
def test_interval_bounds_are_in_units_of_sigma_over_alpha(name):
    """EDM's sigma, for VP tables too, where sigma itself never reaches 1."""
    levels, low, high = SCHEDULES[name], 0.19, 1.61
    wild = lambda plain: lambda x, level: plain(x, level)._replace(x_0=x + 100)  # noqa: E731
    limited = guidance.interval(wild, lambda x, level: Prediction(x, x), low, high)
    moved = jax.jit(jax.vmap(lambda level: limited(jnp.zeros(()), level).x_0 == 100))(levels)
    ratio = np.asarray(levels.sigma, np.float64) / np.asarray(levels.alpha, np.float64)
    np.testing.assert_array_equal(moved, (low < ratio) & (ratio <= high))
    assert 0 < moved.sum() < len(moved) - 2


def test_an_interval_differentiates_through_the_network_it_was_given():
    """A guide that takes a derivative of the denoiser gets the denoiser, not the answer that is already known."""
    level, x, plain = schedule.at(SCHEDULES["cosine"], 300), X_T[1, 0], PICTURES.denoiser()
    guide = lambda denoise: guidance.universal(denoise, lambda x_0, level: -jnp.sum(jnp.square(x_0 - 1)), 2.0)  # noqa: E731
    got, want = (jax.jit(d)(x, level).x_0 for d in (guidance.interval(guide, plain, 0.0, jnp.inf), guide(plain)))
    np.testing.assert_allclose(got, want, atol=1e-6)
    assert jnp.abs(want - jax.jit(plain)(x, level).x_0).max() > 0.01


# --- closed forms ----------------------------------------------------------------------------------------------------


def log_ratio(x_t, level):
    """log p(c | x_t) up to a constant: the classifier of the two laws."""
    return NARROW.log_density()(x_t, level) - BROAD.log_density()(x_t, level)


# Of classifier-free guidance: tests/reverse/test_steppers.py, for every sampler.
KINDS = {
    "classifier": lambda scale: guidance.classifier(BROAD.denoiser(), log_ratio, scale),
    "classifier on a conditional": lambda scale: guidance.classifier(NARROW.denoiser(), log_ratio, scale - 1),
}
RUNS = {f"{kind}, ddim": (lambda s, g=g: (reverse.ddim(), g(s)), ODE) for kind, g in KINDS.items()}
RUNS |= {f"{kind}, ddpm": (lambda s, g=g: (reverse.ddpm(), g(s)), SDE) for kind, g in KINDS.items()}
RUNS |= {
    f"algorithm 1, {variance}": (
        lambda s, v=variance: (reverse.classifier_ddpm(log_ratio, s, variance=v), BROAD.denoiser()),
        SDE,
    )
    for variance in ("small", "large")
}


@pytest.mark.parametrize(("make", "law"), RUNS.values(), ids=RUNS)
def test_guided_samplers_reach_their_own_closed_forms(make, law, monkeypatch):
    """The ODE reaches 2^(1 - g), the SDE (2 - 2^(2 - 2g)) / (2g - 1), and neither the tilted law's 2 / (1 + g)."""
    scales = np.array([0.0, 1.0, 2.0, 3.0])
    reached = variance_reached(make, scales, schedule.karras(1000, 0.002, 80.0), monkeypatch)
    np.testing.assert_allclose(reached, law(scales), rtol=0.015)
    assert np.all(np.abs(reached - 2 / (1 + scales))[2:] > 0.05)


def test_the_table_names_every_guidance():
    """A newcomer that takes a denoiser is a row, or this test says which is missing."""
    import inspect

    sources = "".join(inspect.getsource(member.make) for member in MEMBERS.values()) + inspect.getsource(made)
    helpers = {
        "blurred",
        "AdaptiveState",
        "LogProb",
        "Pair",
        "ReusedState",
        "Scale",
        "Stateful",
        "first_state",
        "lift",
        "likelihood",
        "observe",
        "of_pair",  # of a network with two heads, as `two_heads`: tests/models/test_internal_head.py
        "saved_calls",
        "self_conditioned",  # of networks that take their own last answer: tests/guidance/test_self_conditioning.py
        "stateless",
        "strength",
        "two_heads",
    }
    for name in set(guidance.__all__) - helpers:
        assert f"guidance.{name}(" in sources or f"guidance.{name}," in sources, name
