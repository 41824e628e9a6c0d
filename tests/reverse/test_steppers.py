"""The laws of every sampler, over the table of `tests/steppers.py`: its order, its calls, what it samples."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, grid, guidance, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from guided_jax.prediction import Prediction
from tests import oracle
from tests.oracle import MIXTURE, ODE, SDE, noise_like, variance_reached
from tests.steppers import ALIKE, STEPPERS, of_each_kind

TABLES = {"VP": schedule.cosine(1000), "VE": schedule.karras(1000, 0.005, 30.0)}
FLOWS = [name for name, stepper in STEPPERS.items() if stepper.order]

every = pytest.mark.parametrize("name", of_each_kind(STEPPERS))


def spread(table, num_steps):
    """A grid on which all of them do well."""
    return grid.karras(table, num_steps, sigma_max=80.0 if table.sigma[-1] > 80 or table.alpha[-1] < 0.01 else 30.0)


# --- order of the global error ---------------------------------------------------------------------------------------

NARROW, BROAD = (GaussianMixture(jnp.ones(1), jnp.zeros((1, 1)), jnp.array([std])) for std in (0.5, 0.8))
START = 1.5


def solution(x_T, rho_T, rho_0, scale):
    """x / alpha at rho_0: the flow of a normal law, guided or not, has a closed solution.

    d x / d rho = rho x (g / (n^2 + rho^2) + (1 - g) / (b^2 + rho^2)).
    """
    narrow, broad = 0.5**2, 0.8**2
    return (
        x_T
        * ((narrow + rho_0**2) / (narrow + rho_T**2)) ** (scale / 2)
        * ((broad + rho_0**2) / (broad + rho_T**2)) ** ((1 - scale) / 2)
    )


@functools.cache
def compiled(name):
    """(the full table, levels, scale) -> x at the end of a run: one program for both kinds."""

    def run(table, levels, scale):
        denoise = guidance.classifier_free(NARROW.denoiser(), BROAD.denoiser(), scale)
        x_T = START * levels.alpha[-1:]
        return sampler.sample(jax.random.key(0), denoise, STEPPERS[name].make(table), x_T, levels)

    return jax.jit(run)


def error(name, num_steps, kind, scale):
    """Of a run from rho = 8 to rho = 0.05 in even steps of log rho, VP or VE; of x / alpha."""
    rho = np.append(0.0, np.geomspace(0.05, 8.0, num_steps + 1))
    alpha = 1 / np.sqrt(1 + rho**2) if kind == "VP" else np.ones_like(rho)
    levels = schedule.NoiseLevel(jnp.arange(num_steps + 1.0), jnp.asarray(alpha[1:]), jnp.asarray((alpha * rho)[1:]))
    table = schedule.NoiseLevel(*(jnp.asarray(np.asarray(column), jnp.float64) for column in fine_table(kind)))
    return abs(float(compiled(name)(table, levels, scale)[0]) / alpha[1] - solution(START, 8.0, 0.05, scale))


@pytest.mark.parametrize(("kind", "scale"), [("VE", 1.0), ("VP", 3.0)])
@pytest.mark.parametrize("name", of_each_kind(FLOWS))
def test_the_order_is_that_of_its_row(name, kind, scale):
    """From the first step to the last, with guidance and without; any start-up of a lower order would show."""
    with jax.enable_x64(True):
        coarse, fine = (error(name, count, kind, scale) for count in (60, 120))
    assert fine < 0.02
    assert np.log2(coarse / fine) > STEPPERS[name].order - 0.35


def fine_table(kind):
    """For the methods that ask between the levels of a run."""
    rho = np.append(0.0, np.geomspace(0.01, 30.0, 2000))
    alpha = 1 / np.sqrt(1 + rho**2) if kind == "VP" else np.ones_like(rho)
    return np.arange(2001.0), alpha, alpha * rho


# --- laws ------------------------------------------------------------------------------------------------------------


# The longest runs, and those whose order on an exact flow says as much.
LONG = (*ALIKE, "reverse-sde", "annealed-langevin", "dpm-2m", "dpm-3m", "unipc-3")
RECOVERED = [
    pytest.param(name, kind, marks=pytest.mark.slow if name in LONG or kind == "VE" else ())
    for name in STEPPERS
    for kind in TABLES
    if kind == "VP" or STEPPERS[name].noisy
]


@pytest.mark.parametrize(("name", "kind"), RECOVERED)
def test_the_mixture_is_recovered(name, kind, truth):
    """Every component's weight, mean and std, from pure noise, whatever the sampler and the kind of schedule."""
    stepper, table, count = STEPPERS[name], TABLES[kind], 4000
    levels = spread(table, stepper.steps)
    step, x_T = stepper.make(table), noise_like(levels, jax.random.key(0), (count, 2))
    draw = lambda key, x: sampler.sample(key, MIXTURE.denoiser(), step, x, levels)  # noqa: E731
    x_0 = jax.jit(jax.vmap(draw))(jax.random.split(jax.random.key(1), count), x_T)
    for (share, mean, std), (true_share, true_mean, true_std) in zip(clusters(x_0), truth, strict=True):
        # four standard errors; a biased sampler misses by far more
        np.testing.assert_allclose(share, true_share, atol=4 * (true_share * (1 - true_share) / count) ** 0.5)
        np.testing.assert_allclose(mean, true_mean, atol=float(4 * true_std.max() / (true_share * count) ** 0.5))
        np.testing.assert_allclose(std, true_std, rtol=0.12)


def clusters(x_0):
    """Share, mean and std of what lies nearest to each component's mean."""
    x_0 = np.asarray(x_0)
    nearest = np.argmin(np.sum((x_0[:, None] - np.asarray(MIXTURE.means)) ** 2, -1), 1)
    return [(np.mean(nearest == k), x_0[nearest == k].mean(0), x_0[nearest == k].std(0)) for k in range(4)]


@pytest.fixture(scope="module")
def truth():
    return clusters(jax.jit(jax.vmap(MIXTURE.sample))(jax.random.split(jax.random.key(2), 40_000)))


@pytest.mark.parametrize("steps", [3, 10])
@pytest.mark.parametrize("kind", TABLES)
def test_the_optimal_variance_reproduces_normal_data_whatever_the_steps(kind, steps, monkeypatch):
    """The variance of the samples, step by step without drawing any; the posterior's own falls short, beta overshoots."""
    levels, std = spread(TABLES[kind], steps), 0.5
    reached = {
        name: float(
            variance_reached(lambda _, v=variance: (reverse.ddpm(v), NARROW.denoiser()), [0.0], levels, monkeypatch)[0]
        )
        for name, variance in {
            "optimal": reverse.optimal_variance(reverse.normal_spread(std)),
            "small": "small",
        }.items()
    }
    first = float(levels.sigma[-1]) ** 2 / (float(levels.alpha[-1]) ** 2 * std**2 + float(levels.sigma[-1]) ** 2)
    assert abs(reached["optimal"] / std**2 - 1) < 2 * (1 - first) + 2e-3
    assert reached["small"] < 0.97 * std**2


def test_the_spread_estimated_on_data_is_that_of_its_law():
    levels = schedule.respace(schedule.cosine(1000), 20)
    x_0 = jax.vmap(lambda key: 0.5 * jax.random.normal(key, (64,)))(jax.random.split(jax.random.key(0), 256))
    wide = GaussianMixture(jnp.ones(1), jnp.zeros((1, 64)), jnp.array([0.5]))
    estimated = reverse.estimated_spread(jax.random.key(1), wide.denoiser(), x_0, levels)
    both = jax.jit(lambda level: (estimated(level), reverse.normal_spread(0.5)(level)))
    for position in (3, 8, 14, 20):
        np.testing.assert_allclose(*both(schedule.at(levels, position)), rtol=0.05)
    assert float(estimated(schedule.at(levels, 0))) == 0


LINEAR = [name for name, stepper in STEPPERS.items() if stepper.tilted and "3" not in name and "2m" not in name]
LINEAR = [n for n in LINEAR if not n.startswith(("unipc", "deis-2", "deis-4", "plms")) and n != "ddpm-optimal"]


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name in ALIKE or "2s" in name else ()) for name in LINEAR]
)
def test_guided_samplers_reach_the_closed_form_of_their_kind(name, monkeypatch):
    """p = N(0, 2), p(. | c) = N(0, 1): every flow ends at 2^(1 - g), every SDE at (2 - 2^(2 - 2g)) / (2g - 1)."""
    levels, law, scales = schedule.karras(800, 0.002, 80.0), ODE if STEPPERS[name].order else SDE, np.array([2.0, 3.0])
    step = STEPPERS[name].make(levels)
    guided = lambda g: guidance.classifier_free(oracle.NARROW.denoiser(), oracle.BROAD.denoiser(), g)  # noqa: E731
    reached = variance_reached(lambda g: (step, guided(g)), scales, levels, monkeypatch)
    np.testing.assert_allclose(reached, law(scales), rtol=0.02)


# --- calls, ends, programs -------------------------------------------------------------------------------------------


@every
def test_the_number_of_network_calls_is_that_of_its_row(name):
    """Counted while it runs: the last step, into the clean level, is never made with a call at the clean level."""
    stepper, times, steps = STEPPERS[name], [], 6
    levels = spread(TABLES["VP"], steps)

    def network(x, t):
        jax.debug.callback(lambda t: times.append(float(t)), t)
        return 0.1 * x

    run = jax.jit(lambda x: sampler.sample(jax.random.key(0), denoiser.from_network(network), step, x, levels))
    step = stepper.make(TABLES["VP"])
    run(jnp.ones(2)).block_until_ready()
    jax.effects_barrier()
    assert len(times) == stepper.calls(steps)
    assert min(times) >= 0
    assert max(times) <= 999.5


@every
@pytest.mark.parametrize("steps", [pytest.param(1, marks=pytest.mark.slow), 3])
def test_from_pure_noise_in_few_steps_all_is_finite_and_ends_in_a_prediction(name, steps):
    """A table that begins at alpha = 0, and a run of one step, of two: no infinite lambda or rho gets through."""
    table = schedule.zero_terminal_snr(schedule.linear(1000))
    levels, step = grid.uniform(table, steps), STEPPERS[name].make(table)
    x_T = noise_like(levels, jax.random.key(0), (2,))
    x_0, seen = jax.jit(
        lambda x: sampler.sample(
            jax.random.key(0), MIXTURE.denoiser(), step, x, levels, observe=lambda x, prediction, level: prediction.x_0
        )
    )(x_T)
    assert jnp.all(jnp.isfinite(x_0))
    if not any(word in name for word in ("langevin", "corrector", "churn", "unipc", "plms", "deis-4", "training-free")):
        np.testing.assert_allclose(x_0, seen[-1], rtol=1e-5, atol=1e-6)


def test_the_program_does_not_grow_with_the_steps():
    step = reverse.dpm_solver(2)

    def size(steps):
        levels = spread(TABLES["VP"], steps)
        x = jax.ShapeDtypeStruct((2,), jnp.float32)
        run = lambda x, levels: sampler.sample(jax.random.key(0), MIXTURE.denoiser(), step, x, levels)  # noqa: E731
        text = jax.jit(run).lower(x, levels).as_text()
        return len(text.splitlines())

    assert size(5) == size(500)


@pytest.mark.parametrize("make", [reverse.ddim, lambda eta: reverse.dpm_solver(2, eta), reverse.reverse_sde])
def test_one_program_for_every_eta_and_each_example_its_own(make):
    levels = spread(TABLES["VP"], 8)

    def draw(key, x, eta):
        return sampler.sample(key, MIXTURE.denoiser(), make(eta), x, levels)

    keys, x_T = jax.random.split(jax.random.key(0), 3), noise_like(levels, jax.random.key(1), (3, 2))
    etas = jnp.array([0.0, 0.5, 1.0])
    together = jax.jit(jax.vmap(draw))(keys, x_T, etas)
    for i in (0, 2):
        alone = jax.jit(lambda key, x, eta=float(etas[i]): draw(key, x, eta))
        np.testing.assert_allclose(together[i], alone(keys[i], x_T[i]), atol=2e-5)


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(name, marks=() if name in ("ddim", "dpm-2m", "unipc-2") else pytest.mark.slow)
        for name in FLOWS
        if name != "reverse-sde-0"  # which steps down only
    ],
)
def test_encoded_examples_decode_to_themselves(name):
    """Up and down again, to the solver's order: order 1 within some percent, the others within some thousandths."""
    stepper, table = STEPPERS[name], TABLES["VP"]
    levels, step = spread(table, 80), STEPPERS[name].make(table)
    x_0 = jax.jit(jax.vmap(MIXTURE.sample))(jax.random.split(jax.random.key(3), 16))

    def there_and_back(x):
        noise = sampler.encode(MIXTURE.denoiser(), step, x, levels)
        return noise, sampler.sample(jax.random.key(0), MIXTURE.denoiser(), step, noise, levels)

    noise, back = jax.jit(jax.vmap(there_and_back))(x_0)
    assert 0.5 < float(noise.std()) < 1.5
    np.testing.assert_allclose(back, x_0, atol=0.3 if stepper.order == 1 else 0.05)


def test_encoding_ends_at_the_last_level():
    """Of a predictor that always says x_0 = 0 all is noise, and grows as sigma does from the first level to the last."""
    levels, x = spread(TABLES["VP"], 6), jnp.array([0.3, -0.2])
    all_noise = lambda x_t, level: Prediction(jnp.zeros_like(x_t), x_t / level.sigma)  # noqa: E731
    found = sampler.encode(all_noise, reverse.ddim(), x, levels)
    np.testing.assert_allclose(found, x * levels.sigma[-1] / levels.sigma[1], rtol=1e-5)


# --- the papers' own forms -------------------------------------------------------------------------------------------


@jax.jit
def exact_x_0(x, level):
    return MIXTURE.denoiser()(x, level).x_0


def edm_algorithm_2(denoise, sigmas, x, noises, churn, low, high, inflate):
    """[EDM] algorithm 2 in its own variables, float64: D(x; sigma), t_i = sigma_i."""
    x, count = np.asarray(x, np.float64), len(sigmas) - 1
    for i in range(count):
        t, t_next = sigmas[i], sigmas[i + 1]
        gamma = min(churn / count, np.sqrt(2) - 1) if low <= t <= high else 0.0
        t_hat = t + gamma * t
        x_hat = x + np.sqrt(t_hat**2 - t**2) * inflate * noises[i]
        d = (x_hat - denoise(x_hat, t_hat)) / t_hat
        x = x_hat + (t_next - t_hat) * d
        if t_next:
            x = x_hat + (t_next - t_hat) * (d + (x - denoise(x, t_next)) / t_next) / 2
    return x


def test_churned_heun_is_edms_algorithm_2(monkeypatch):
    table = schedule.karras(10, 0.02, 20.0)
    noises = np.random.default_rng(0).normal(size=(10, 2))
    exact = lambda x, t: np.asarray(exact_x_0(jnp.asarray(x, jnp.float32), ve(t)))  # noqa: E731
    sigmas = np.asarray(table.sigma, np.float64)[::-1]
    want = edm_algorithm_2(exact, sigmas, [3.0, -9.0], noises, 4.0, 0.05, 10.0, 1.1)
    step, x = reverse.churned(reverse.heun(), table, 4.0 / 10, 0.05, 10.0, 1.1), jnp.array([3.0, -9.0])

    def once(x, noise, position):
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: noise)
        now, then = schedule.at(table, position), schedule.at(table, position - 1)
        return step.step(jax.random.key(0), MIXTURE.denoiser(), x, (), now, then)[0]

    once = jax.jit(once)
    for i, position in enumerate(range(10, 0, -1)):
        x = once(x, jnp.asarray(noises[i], jnp.float32), position)
    np.testing.assert_allclose(x, want, rtol=2e-3, atol=2e-4)


def ve(sigma):
    return schedule.NoiseLevel(jnp.float32(0), jnp.float32(1), jnp.asarray(sigma, jnp.float32))


def test_2m_is_the_papers_algorithm_2():
    """[DPM++] algorithm 2 in its own variables: D = (1 + 1 / 2r) x_0 - 1 / 2r x_0', then the step of order 1 with D."""
    levels = schedule.respace(schedule.cosine(1000), 12)
    alpha, sigma = (np.asarray(column, np.float64) for column in levels[1:])
    x, before, h_before = np.array([0.7, -1.1]), None, None
    for i in range(12, 0, -1):
        x_0 = np.asarray(exact_x_0(jnp.asarray(x, jnp.float32), schedule.at(levels, i)), np.float64)
        if i == 1:
            x = x_0
            break
        h = np.log(alpha[i - 1] / sigma[i - 1]) - np.log(alpha[i] / sigma[i])
        slope = 0 if before is None else (x_0 - before) * h / (2 * h_before)
        x = sigma[i - 1] / sigma[i] * x - alpha[i - 1] * np.expm1(-h) * (x_0 + slope)
        before, h_before = x_0, h
    run = lambda x: sampler.sample(jax.random.key(0), MIXTURE.denoiser(), reverse.dpm_solver(2), x, levels)  # noqa: E731
    np.testing.assert_allclose(jax.jit(run)(jnp.array([0.7, -1.1])), x, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize(
    ("eta", "step"),
    [(0.0, reverse.euler()), *((eta, reverse.euler_ancestral(eta)) for eta in (0.3, 1.0))],
)
def test_euler_and_euler_ancestral_go_down_and_up_by_the_published_sigmas(eta, step, monkeypatch):
    noise = jnp.array([0.4, -1.3])
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: noise)
    x_t, s_t, s_s = jnp.array([1.5, -2.0]), 2.0, 1.2
    x_0 = exact_x_0(x_t, ve(s_t))
    up = min(s_s, eta * np.sqrt(s_s**2 * (s_t**2 - s_s**2) / s_t**2))
    down = np.sqrt(s_s**2 - up**2)
    want = x_t + (x_t - x_0) / s_t * (down - s_t) + up * noise
    go = jax.jit(lambda x, now, then: step.step(jax.random.key(0), MIXTURE.denoiser(), x, (), now, then)[0])
    np.testing.assert_allclose(go(x_t, ve(s_t), ve(s_s)), want, rtol=1e-5)


def test_first_order_methods_are_one_method():
    """DDIM is DPM-Solver++ 1 and DEIS 1; with eta 1, SDE-DPM-Solver++ 1 is DDPM."""
    levels = spread(TABLES["VP"], 12)
    x_T, key = jnp.array([0.7, -1.1]), jax.random.key(0)
    run = lambda step: jax.jit(lambda x: sampler.sample(key, MIXTURE.denoiser(), step, x, levels))(x_T)  # noqa: E731
    for other in (reverse.dpm_solver(1), reverse.deis(1)):
        np.testing.assert_allclose(run(other), run(reverse.ddim()), atol=2e-5)
    np.testing.assert_allclose(run(reverse.dpm_solver(1, 1.0)), run(reverse.ddim(1.0)), atol=2e-4)


@pytest.mark.parametrize("make", [reverse.dpm_solver, reverse.deis])
def test_the_first_step_of_order_3_is_one_of_order_2(make):
    """Its two calls in the right places: the error of that step alone falls with the third power of its length."""
    with jax.enable_x64(True):
        step, x, key = make(3), jnp.array([START]), jax.random.key(0)
        level = lambda rho: schedule.NoiseLevel(jnp.float64(0), jnp.float64(1), jnp.asarray(rho))  # noqa: E731
        go = jax.jit(lambda rho: step.step(key, NARROW.denoiser(), x, step.init(x), level(1.0), level(rho))[0])

        def error(h):
            return abs(float(go(jnp.float64(np.exp(-h)))[0]) - solution(START, 1.0, np.exp(-h), 1.0))

        assert np.log2(error(0.1) / error(0.05)) > 2.7


def test_deis_starts_well_where_rho_is_2e4():
    """From t = 1000 of the cosine schedule in even steps of t; by Heun's first step in rho the error would be 5."""
    table = TABLES["VP"]
    x_T = noise_like(table, jax.random.key(0), (200, 2))

    def draw(step, levels):
        run = jax.vmap(lambda x: sampler.sample(jax.random.key(0), MIXTURE.denoiser(), step, x, levels))
        return jax.jit(run)(x_T)

    exact = draw(reverse.ddim(), table)
    assert jnp.sqrt(jnp.mean((draw(reverse.deis(3), schedule.respace(table, 14)) - exact) ** 2)) < 0.1


def test_unipc_keeps_changes_made_after_its_step():
    """A shift between two steps, as of `dps`, is not corrected away: here all of it arrives, times what the step keeps."""
    nothing = lambda x_t, level: Prediction(x_0=0 * x_t, eps=x_t / level.sigma)  # noqa: E731
    step, (high, now, then) = reverse.unipc(2), (schedule.at(TABLES["VP"], t) for t in (800, 600, 400))
    x, go = jnp.array([0.7, -1.1]), jax.jit(functools.partial(step.step, jax.random.key(0), nothing))
    x, memory = go(x, step.init(x), high, now)
    ends = [go(x + shift, memory, now, then)[0] for shift in (0.0, 1.0)]
    np.testing.assert_allclose(ends[1] - ends[0], then.sigma / now.sigma, rtol=1e-5)


@pytest.mark.parametrize("make", [reverse.dpm_solver, reverse.unipc, reverse.deis])
def test_other_orders_raise(make):
    with pytest.raises(ValueError, match="order 4"):
        make(4)


# --- Langevin --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [0.05, 0.5])
@pytest.mark.parametrize("kind", TABLES)
def test_langevin_keeps_its_own_stationary_law(kind, size):
    """At one level, from anywhere: the variance V / (1 - e / 2V), of which V alone is the limit of small steps."""
    level = schedule.at(TABLES[kind], 500)
    broad = GaussianMixture(jnp.ones(1), jnp.full((1, 1), 0.6), jnp.array([0.8]))
    power = float(level.alpha**2 * 0.64 + level.sigma**2)
    e = size * float(level.sigma) ** 2
    step = reverse.langevin(size, repeats=int(6 * power / e))
    keys = jax.random.split(jax.random.key(0), 20_000)
    x, memory = jax.jit(jax.vmap(lambda key: step.step(key, broad.denoiser(), jnp.zeros(1), (), level, level)))(keys)
    assert memory == ()
    np.testing.assert_allclose(x.mean(), 0.6 * level.alpha, atol=4 * (power / 20_000) ** 0.5 + 0.005)
    np.testing.assert_allclose(x.var(), power / (1 - e / (2 * power)), rtol=0.04)


def test_a_chain_corrects_at_the_level_and_then_predicts():
    levels, keys = [], set()

    def spy(name):
        def step(key, denoise, x_t, memory, now, then):
            keys.add(tuple(jax.random.key_data(key).tolist()))
            levels.append((name, float(now.t), float(then.t)))
            return x_t + 1, memory + 1

        return reverse.ReverseStep(lambda x: jnp.zeros(()), step)

    both = reverse.chain(spy("a"), spy("b"), spy("c"))
    now, then = schedule.at(TABLES["VP"], 30), schedule.at(TABLES["VP"], 20)
    x, memory = both.step(jax.random.key(0), MIXTURE.denoiser(), jnp.zeros(2), both.init(jnp.zeros(2)), now, then)
    assert len(keys) == 3
    assert levels == [("a", 30, 30), ("b", 30, 30), ("c", 30, 20)]
    np.testing.assert_array_equal(x, 3)
    assert [float(own) for own in memory] == [1, 1, 1]
    with pytest.raises(ValueError, match="at least one"):
        reverse.chain()
    with pytest.raises(ValueError, match="repeats is 0"):
        reverse.langevin(repeats=0)


@pytest.mark.parametrize("name", ["heun", "heun-churned", "dpm-2m", "dpm-2s", "unipc-2", "deis-3", "annealed-langevin"])
def test_stateful_guidance_works_with_every_sampler(name):
    """`with_state` around every sampler: the state moves once a step, whatever number of calls the step makes."""
    levels = spread(TABLES["VP"], 4)

    def remembering(count, x_t, level):
        return MIXTURE.denoiser()(x_t, level), count + 1

    stateful = guidance.Stateful(lambda x: jnp.zeros((), jnp.int32), remembering)
    step = reverse.with_state(stateful, STEPPERS[name].make(TABLES["VP"]))
    x_0, (_, count), _ = jax.jit(
        lambda x: sampler.run(jax.random.key(0), guidance.first_state(stateful), step, x, levels)
    )(jnp.array([0.7, -1.1]))
    assert int(count) == 4
    assert jnp.all(jnp.isfinite(x_0))


def test_a_users_own_prediction_is_enough():
    """A denoiser of no library: the solvers read x_0 and eps, and nothing else."""
    mine = lambda x_t, level: Prediction(x_0=jnp.zeros_like(x_t), eps=x_t / jnp.maximum(level.sigma, 1e-6))  # noqa: E731
    levels = spread(TABLES["VP"], 5)
    for step in (reverse.dpm_solver(3), reverse.unipc(2), reverse.deis(2)):
        draw = jax.jit(lambda x, step=step: sampler.sample(jax.random.key(0), mine, step, x, levels))
        np.testing.assert_allclose(draw(jnp.ones(3)), 0, atol=1e-6)


# --- what the multistep methods are made of --------------------------------------------------------------------------


@pytest.mark.parametrize("h", [-3.0, 1e-3, 0.3, 0.999, 1.001, 4.0, 90.0])
def test_moments_are_their_integrals(h):
    u = np.linspace(0, 1, 400_001)
    for j, moment in enumerate(reverse.multistep.exponential_moments(jnp.float32(h), 4)):
        np.testing.assert_allclose(moment, np.trapezoid(h * np.exp(-h * (1 - u)) * u**j, u), rtol=2e-3)


@pytest.mark.parametrize("make", [reverse.dpm_solver, reverse.unipc, reverse.deis])
def test_the_first_step_is_of_order_1_whatever_the_memory(make):
    """What was never said weighs nothing, not even a little."""
    now, then, x = schedule.at(TABLES["VP"], 600), schedule.at(TABLES["VP"], 500), jnp.array([0.7, -1.1])

    def first(step):
        memory = jax.tree.map(lambda leaf: 1e6 * jnp.ones_like(leaf) if leaf.ndim > 1 else leaf, step.init(x))
        return jax.jit(functools.partial(step.step, jax.random.key(0), MIXTURE.denoiser()))(x, memory, now, then)[0]

    np.testing.assert_allclose(first(make(2)), first(reverse.ddim()), rtol=1e-5)


@pytest.mark.parametrize("eta", [0.4, 1.0])
def test_the_two_noises_of_2s_are_one_of_the_whole_step(eta, monkeypatch):
    """Of a predictor that always says 0: what is left is noise, of the reverse SDE's own variance over the step."""
    now, then, x = schedule.at(TABLES["VP"], 600), schedule.at(TABLES["VP"], 400), jnp.zeros(1)
    step = reverse.dpm_solver_2s(TABLES["VP"], eta)

    def noise_of(*noises):
        left = iter(noises)
        monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: jnp.full(shape, next(left), dtype))
        denoise = lambda x_t, level: Prediction(jnp.zeros_like(x_t), jnp.zeros_like(x_t))  # noqa: E731
        go = jax.jit(lambda x, now, then: step.step(jax.random.key(0), denoise, x, (), now, then)[0][0])
        return float(go(x, now, then))

    h = float(jnp.log(then.alpha / then.sigma) - jnp.log(now.alpha / now.sigma))
    want = float(then.sigma) ** 2 * -np.expm1(-2 * eta * h)
    np.testing.assert_allclose(noise_of(1.0, 0.0) ** 2 + noise_of(0.0, 1.0) ** 2, want, rtol=1e-4)
