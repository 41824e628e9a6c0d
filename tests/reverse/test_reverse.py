"""Samplers: one step against OpenAI's recorded ones, then whole runs against the exact laws."""

import functools
import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, forward, guidance, reverse, sampler, schedule
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE, noise_like

RECORDED = np.load(pathlib.Path(__file__).parents[1] / "golden" / "sampling_steps.npz", allow_pickle=False)
CASES = [
    case for case in json.loads(str(RECORDED["meta"]))["cases"] if case["mean"] != "previous_x"
]  # no flag reaches it
VARIANCES = {"learned_range": "learned", "fixed_small": "small", "fixed_large": "large"}


def nhwc(array):
    return jnp.asarray(np.moveaxis(array, -3, -1))


class Recorded:
    """One item of a recorded batch: its levels, its model, its classifier, and what ADM made of them."""

    def __init__(self, case, item):
        self.case, self.key, self.item = case, case["key"], item
        levels = {"linear": schedule.linear, "cosine": schedule.cosine}[case["schedule"]](case["steps"])
        levels = schedule.respace(levels, case["respacing"]) if "respacing" in case else levels
        self.levels, t = levels, int(self.of("t"))
        self.now, self.then = schedule.at(levels, t + 1), schedule.at(levels, t)
        self.x = self.image("x")
        # What the step before left in memory: the posterior variance of the neighbouring interval.
        before = forward.posterior(self.x, self.x, schedule.at(levels, min(t + 2, case["num_timesteps"])), self.now)
        self.memory = before.variance

    def of(self, name):
        return RECORDED[f"{self.key}/{name}"][self.item]

    def image(self, name):
        return nhwc(self.of(name))

    def denoise(self):
        output = self.image("model_output")
        view = {"epsilon": "eps", "start_x": "x_0"}[self.case["mean"]]
        learned = self.case["var"] == "learned_range"
        base = denoiser.from_network(lambda x, t: output, view, learned_variance=learned)
        return guidance.clip(base) if self.case["clip_denoised"] else base

    def log_prob(self, x_t, level):
        return jnp.sum(self.image("cond_grad") * x_t)

    def run(self, monkeypatch, step, denoise, name):
        noise = self.image(f"{name}/noise")
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: noise)
        return step.step(jax.random.key(0), denoise, self.x, self.memory, self.now, self.then)[0]


def items(case):
    return [Recorded(case, item) for item in range(len(RECORDED[f"{case['key']}/t"]))]


def close(got, want, tolerance=1e-4):
    np.testing.assert_allclose(got, want, atol=tolerance * float(np.sqrt(np.mean(np.square(want)))))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['key']}-{case['mean']}-{case['var']}")
def test_ddpm_is_adms_p_sample(case, monkeypatch):
    """Algorithm 1 of [ADM]: the mean shifted by scale * variance * gradient; and the plain step."""
    variance = VARIANCES[case["var"]]
    for one in items(case):
        guided = reverse.classifier_ddpm(one.log_prob, 1.0, variance=variance)
        for step, name in ((reverse.ddpm(variance), "p_sample_plain"), (guided, "p_sample_guided")):
            close(one.run(monkeypatch, step, one.denoise(), name), one.image(f"{name}/sample"))


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['key']}-{case['mean']}-{case['var']}")
@pytest.mark.parametrize("eta", ["0.0", "0.5", "1.0"])
def test_ddim_is_adms_ddim_sample(case, eta, monkeypatch):
    """Algorithm 2 of [ADM]: eps shifted by -scale sigma gradient, then DDIM; and the plain step."""
    for one in items(case):
        guided = guidance.classifier(one.denoise(), one.log_prob, 1.0)
        for denoise, name in ((one.denoise(), f"ddim_plain_eta{eta}"), (guided, f"ddim_guided_eta{eta}")):
            # ADM takes 1 - alpha_bar of a float32 alpha_bar, which at t = 2 is right to 3e-4 only; ours keeps sigma.
            close(one.run(monkeypatch, reverse.ddim(float(eta)), denoise, name), one.image(f"{name}/sample"), 3e-4)


@pytest.mark.parametrize("case", CASES, ids=lambda case: f"{case['key']}-{case['mean']}-{case['var']}")
def test_ddim_up_the_levels_is_adms_reverse_ddim(case):
    """What `sampler.encode` makes of ddim(): the next level up, pure noise after the last."""
    for one in items(case):
        up = schedule.NoiseLevel(one.now.t + 1, jnp.float32(0), jnp.float32(1))
        if int(one.of("t")) + 2 < len(one.levels.t):
            up = schedule.at(one.levels, int(one.of("t")) + 2)
        got = reverse.ddim().step(jax.random.key(0), one.denoise(), one.x, (), one.now, up)[0]
        close(got, one.image("ddim_reverse/sample"), 3e-4)


LOOPS = np.load(pathlib.Path(__file__).parents[1] / "golden" / "analytic_loops.npz", allow_pickle=False)


@pytest.mark.parametrize("case", json.loads(str(LOOPS["meta"]))["cases"], ids=lambda case: case["key"])
def test_whole_runs_are_adms_loops(case, monkeypatch):
    """From x_T to x_0 with a network and a classifier in closed form, ADM's noise, clipping, respacing and times."""
    key, learned = case["key"], case["var"] == "learned_range"
    levels = {"linear": schedule.linear, "cosine": schedule.cosine}[case["schedule"]](case["steps"])
    levels = schedule.respace(levels, case["respacing"])
    stretch = 1000 / case["steps"] if case.get("rescale_timesteps") else 1.0
    time = lambda level: (level.t - 1) * stretch  # noqa: E731
    got = []
    for item, y in enumerate(LOOPS[f"{key}/y"]):
        denoise = denoiser.from_network(
            lambda x, ts, y=float(y): closed_form(x, ts, y, case["mean"], learned),
            {"epsilon": "eps", "start_x": "x_0"}[case["mean"]],
            learned_variance=learned,
            time=time,
        )
        if case.get("denoised_fn"):
            denoise = shrunk(denoise)
        denoise = guidance.clip(denoise) if case.get("clip", True) else denoise

        def log_prob(x, level, y=float(y)):
            return jnp.sum((y - 1) * 0.2 * jnp.sin(x) - 0.05 * x**2 + 0.0002 * time(level) * x)

        scale = case["scale"]
        step = reverse.ddim(case.get("eta", 0.0))
        if case["sampler"] == "ddpm":
            step = reverse.classifier_ddpm(log_prob, scale, variance=VARIANCES[case["var"]])
        elif scale:
            denoise = guidance.classifier(denoise, log_prob, scale)
        x, memory = nhwc(LOOPS[f"{key}/x_T"][item]), None
        for i, position in enumerate(range(len(levels.t) - 1, 0, -1)):
            noise = nhwc(LOOPS[f"{key}/noises"][i][item])
            monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype, noise=noise: noise)
            memory = step.init(x) if memory is None else memory
            now, then = schedule.at(levels, position), schedule.at(levels, position - 1)
            x, memory = step.step(jax.random.key(0), denoise, x, memory, now, then)
            close(x, nhwc(LOOPS[f"{key}/samples"][i][item]))
        got.append(x)
    assert len(got) == 2


def closed_form(x, ts, y, mean, learned):
    first = {
        "epsilon": 0.9 * x + 0.3 * jnp.sin(3 * x + ts / 250) + 0.05 * y,
        "start_x": 0.99 * x + 0.004 * jnp.sin(3 * x + ts / 250) + 0.002 * y,
    }[mean]
    return jnp.concatenate([first, 0.6 * jnp.cos(2 * x - ts / 100)], -1) if learned else first


def shrunk(denoise):
    """ADM's denoised_fn of the recorded run: x_0 -> 0.9 x_0, before the clip."""

    def wrapped(x_t, level):
        prediction = denoise(x_t, level)
        return prediction._replace(x_0=0.9 * prediction.x_0)

    return wrapped


@pytest.mark.parametrize("levels", [schedule.cosine(30), schedule.linear(40), schedule.karras(30, 0.01, 10.0)])
def test_ddim_eta_1_is_ddpm_small(levels):
    """The same keys draw the same noise, so the two runs must be the same run."""
    x_T = noise_like(levels, jax.random.key(0), (64, 2))
    keys = jax.random.split(jax.random.key(1), 64)
    run = lambda step: jax.vmap(lambda key, x: sampler.sample(key, MIXTURE.denoiser(), step, x, levels))  # noqa: E731
    runs = [jax.jit(run(step))(keys, x_T) for step in (reverse.ddim(1.0), reverse.ddpm("small"))]
    np.testing.assert_allclose(*runs, atol=2e-4)


def of_fraction(fraction):
    """The mixture's denoiser, with a learned variance that is the same everywhere."""
    return lambda x, level: MIXTURE.denoiser()(x, level)._replace(variance_fraction=jnp.full(2, fraction))


@functools.cache
def compiled_ddpm(variance):
    """(a whole run of a fraction, one step): one program for every fraction."""
    ddpm = reverse.ddpm(variance)

    def run(fraction, x, levels):
        return sampler.sample(jax.random.key(0), of_fraction(fraction), ddpm, x, levels)

    def step(fraction, key, x, memory, now, then):
        return ddpm.step(key, of_fraction(fraction), x, memory, now, then)[0]

    return jax.jit(run), jax.jit(step)


@pytest.mark.parametrize("variance", ["large", "learned", "small"])
@pytest.mark.parametrize("fraction", [-20.0, 0.0, 1.0, 30.0])
def test_one_step_runs_and_any_fraction_stay_finite_and_the_last_step_has_no_noise(variance, fraction):
    levels, memory = schedule.respace(schedule.cosine(1000), "2"), reverse.ddpm(variance).init(jnp.zeros(2))
    run, step = compiled_ddpm(variance)
    for kept in (levels, schedule.respace(schedule.cosine(1000), "1")):
        x = jnp.array([0.3, 0.4])
        if fraction in (0.0, 1.0):
            assert jnp.all(jnp.isfinite(run(fraction, x, kept)))
        for position in range(1, len(kept.t)):
            now, then = schedule.at(kept, position), schedule.at(kept, position - 1)
            assert jnp.all(jnp.isfinite(step(fraction, jax.random.key(0), x, memory, now, then)))
    ends = schedule.at(levels, 1), schedule.at(levels, 0)
    runs = [step(fraction, jax.random.key(i), jnp.ones(2), jnp.float32(1e-3), *ends) for i in range(2)]
    np.testing.assert_array_equal(*runs)


@pytest.mark.parametrize("variance", ["small", "large", "learned"])
def test_the_memory_is_the_steps_own_posterior_variance(variance):
    """What the next step borrows, if it goes to the clean level."""
    levels, x = schedule.cosine(100), jnp.zeros(2)
    now, then = schedule.at(levels, 60), schedule.at(levels, 55)
    denoise = lambda x, level: MIXTURE.denoiser()(x, level)._replace(variance_fraction=jnp.full(2, 0.5))  # noqa: E731
    memory = reverse.ddpm(variance).step(jax.random.key(0), denoise, x, jnp.float32(0.7), now, then)[1]
    np.testing.assert_allclose(memory, forward.posterior(x, x, now, then).variance, rtol=1e-6)


def test_learned_variance_is_between_the_two_in_the_logarithm():
    levels = schedule.cosine(100)
    now, then, x = schedule.at(levels, 60), schedule.at(levels, 55), jnp.zeros(2)
    beta, small = forward.step_beta(now, then), forward.posterior(x, x, now, then).variance
    for fraction, want in ((0.0, small), (1.0, beta), (0.5, jnp.sqrt(small * beta))):
        denoise = lambda x, level, f=fraction: MIXTURE.denoiser()(x, level)._replace(variance_fraction=jnp.full(2, f))  # noqa: E731
        steps = [reverse.ddpm("learned"), reverse.ddpm(lambda *_, want=want: want)]
        got = [step.step(jax.random.key(0), denoise, x, step.init(x), now, then)[0] for step in steps]
        np.testing.assert_allclose(*got, rtol=1e-5)


def test_unknown_options_raise():
    levels, x = schedule.cosine(10), jnp.zeros(2)
    with pytest.raises(ValueError, match="'middling'"):
        reverse.ddpm("middling")
    with pytest.raises(ValueError, match="'start'"):
        reverse.classifier_ddpm(MIXTURE.log_prob(0), 1.0, at="start")
    with pytest.raises(ValueError, match="learned_variance=True"):
        sampler.sample(jax.random.key(0), MIXTURE.denoiser(), reverse.ddpm("learned"), x, levels)


@pytest.mark.parametrize("at", ["x_t", "mean"])
def test_algorithm_1_shifts_the_mean_by_scale_variance_gradient(at):
    """With the gradient taken by hand, at the place and the level that each form names."""
    levels = schedule.cosine(50)
    now, then, x_t = schedule.at(levels, 30), schedule.at(levels, 29), jnp.array([0.4, -0.1])
    key = jax.random.key(0)
    plain = reverse.ddpm().step(key, MIXTURE.denoiser(), x_t, jnp.float32(0), now, then)[0]
    step = reverse.classifier_ddpm(MIXTURE.log_prob(1), 2.0, at=at)
    shifted = step.step(key, MIXTURE.denoiser(), x_t, jnp.float32(0), now, then)[0]
    mean, variance = forward.posterior(x_t, MIXTURE.denoiser()(x_t, now).x_0, now, then)
    place, level = (x_t, now) if at == "x_t" else (mean, then)
    np.testing.assert_allclose(
        shifted - plain, 2.0 * variance * jax.grad(MIXTURE.log_prob(1))(place, level), rtol=1e-3, atol=1e-6
    )


def test_at_mean_shifts_nothing_on_the_last_step_and_passes_no_negative_time():
    levels, times = schedule.respace(schedule.cosine(100), 5), []

    def log_prob(x, level):
        jax.debug.callback(lambda t: times.append(float(t)), level.t - 1)
        return 100 * jnp.sum(x)

    step = reverse.classifier_ddpm(log_prob, 1.0, at="mean")
    now, then, x = schedule.at(levels, 1), schedule.at(levels, 0), jnp.array([0.2, 0.1])
    got = step.step(jax.random.key(0), MIXTURE.denoiser(), x, step.init(x), now, then)[0]
    np.testing.assert_allclose(got, MIXTURE.denoiser()(x, now).x_0, rtol=1e-6)
    sampler.sample(jax.random.key(0), MIXTURE.denoiser(), step, x, levels)
    jax.effects_barrier()
    assert len(times) >= 5
    assert min(times) >= 0


@pytest.mark.parametrize("levels", [schedule.cosine(50), schedule.karras(50, 0.05, 5.0)], ids=["VP", "VE"])
def test_the_shift_of_algorithm_2_is_that_of_algorithm_1_times_alpha_s_over_alpha_t(levels):
    """With the variance beta; the factor is 1 for VE, and in the limit of small steps for VP."""
    now, then, x, key = schedule.at(levels, 40), schedule.at(levels, 36), jnp.array([0.3, 0.2]), jax.random.key(0)
    log_prob, plain = MIXTURE.log_prob(1), reverse.ddpm("large")
    by_mean = reverse.classifier_ddpm(log_prob, 3.0, variance="large")
    by_eps = guidance.classifier(MIXTURE.denoiser(), log_prob, 3.0)
    go = lambda step, denoise: step.step(key, denoise, x, step.init(x), now, then)[0]  # noqa: E731
    unguided = go(plain, MIXTURE.denoiser())
    shift = go(by_mean, MIXTURE.denoiser()) - unguided
    assert jnp.abs(shift).min() > 0.01
    np.testing.assert_allclose(go(plain, by_eps) - unguided, shift * then.alpha / now.alpha, rtol=1e-4)


def test_a_step_to_the_level_where_it_is_adds_no_noise():
    """However XLA rounds: a variance of 0 that it computes twice, and finds positive once, once made the noise's std 1."""
    levels, x_t = schedule.respace(schedule.cosine(1000), 40), jnp.array([0.5, -1.0, 2.0])

    def normal(x_t, level):
        power = level.alpha**2 + level.sigma**2
        return Prediction(level.alpha / power * x_t, level.sigma / power * x_t)

    def stay(key, level):
        return reverse.ddim(1.0).step(key, normal, x_t, (), level, level)[0]

    keys, each = jax.random.split(jax.random.key(0), 10), jax.jit(jax.vmap(stay, (0, None)))
    for position in range(1, 41):
        found = each(keys, schedule.at(levels, position))
        np.testing.assert_allclose(found, np.broadcast_to(x_t, (10, 3)), atol=2e-3)
