"""Grids: even in their variable, with the ends of the table, for every kind of schedule."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import forward, grid, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture
from tests.oracle import SCHEDULES

TABLES = {  # of one length, for which they share their programs
    **SCHEDULES,
    "karras": schedule.karras(1000, 0.01, 20.0),
    "sigmoid": schedule.sigmoid(1000),
    "flow": schedule.flow(1000),
    "zero terminal": schedule.zero_terminal_snr(schedule.linear(1000)),
}
MEASURES = {
    "uniform": (grid.uniform, lambda levels: levels.t),
    "quadratic": (grid.quadratic, lambda levels: np.sqrt(levels.t)),
    "log_snr": (grid.log_snr, lambda levels: np.log(levels.alpha) - np.log(levels.sigma)),
    "karras": (grid.karras, lambda levels: (levels.sigma / levels.alpha) ** (1 / 7)),
}


def noisy(levels, first=1, last=None):
    return schedule.NoiseLevel(*(np.asarray(column, np.float64)[first:last] for column in levels))


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kind", MEASURES)
def test_a_grid_is_even_in_its_measure_and_ends_where_the_table_ends(kind, name):
    table, (make, measure) = TABLES[name], MEASURES[kind]
    levels = make(table, 12)
    assert len(levels.t) == 13
    np.testing.assert_array_equal([levels.t[0], levels.alpha[0], levels.sigma[0]], [0, 1, 0])
    pure = table.alpha[-1] == 0 and kind in ("log_snr", "karras")  # then the rest is spread beside that level
    for place in (1, -1, *((-2,) if pure else ())):
        np.testing.assert_allclose([c[place] for c in levels], [c[place] for c in table], rtol=3e-4, atol=1e-7)
    steps = np.diff(measure(noisy(levels, last=-1 if pure else None)))
    np.testing.assert_allclose(steps, steps.mean(), rtol=0.02)


@pytest.mark.parametrize("name", TABLES)
@pytest.mark.parametrize("kind", MEASURES)
def test_levels_between_those_of_a_table_are_of_its_kind(kind, name):
    levels = noisy(MEASURES[kind][0](TABLES[name], 9), first=0)
    constant = {
        "karras": levels.alpha,
        "flow": levels.alpha + levels.sigma,
    }.get(name, levels.alpha**2 + levels.sigma**2)
    np.testing.assert_allclose(constant, 1, atol=1e-6)
    assert np.all(np.diff(levels.t) > 0)


@pytest.mark.parametrize("x64", [False, True])
def test_pure_noise_stays_pure_noise(x64):
    with jax.enable_x64(x64):
        table = schedule.NoiseLevel(*(np.asarray(column, np.float64) for column in TABLES["flow"]))
        assert [float(grid.log_snr(table, n).alpha[-1]) for n in (1, 5)] == [0, 0]
        for log_snr in (-np.inf, jnp.float32(-np.inf)):
            assert float(schedule.interpolate(table, log_snr).alpha) == 0
        # The square of the float32 root of 1000 is below 1000.
        assert float(jax.jit(lambda table: grid.quadratic(table, 4))(schedule.flow(1000)).alpha[-1]) == 0
        assert float(schedule.interpolate(table, np.inf).sigma) == 0


@pytest.mark.parametrize("name", TABLES)
def test_a_traced_level_off_the_grid_is_the_concrete_one(name):
    log_snr = np.linspace(-9, 9, 7, dtype=np.float32)
    traced = jax.jit(schedule.interpolate)(TABLES[name], log_snr)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-5, atol=1e-6),
        traced,
        schedule.interpolate(TABLES[name], log_snr),
    )


def test_a_respaced_table_is_a_custom_grid():
    table = schedule.cosine(1000)
    want = schedule.respace(table, 7)
    for found in (
        grid.by_time(table, np.asarray(want.t)[1:]),
        grid.custom(table, 2 * np.log(np.asarray(want.alpha[1:]) / np.asarray(want.sigma[1:]))),
    ):
        np.testing.assert_allclose(np.stack(found), np.stack(want), rtol=2e-4, atol=1e-6)


@pytest.mark.parametrize("make", [grid.log_snr, grid.karras])
def test_sigma_max_cuts_the_noisy_end(make):
    levels = make(schedule.cosine(1000), 6, sigma_max=80.0)
    np.testing.assert_allclose(levels.sigma[-1] / levels.alpha[-1], 80, rtol=1e-4)
    assert 980 < float(levels.t[-1]) < 1000
    np.testing.assert_allclose(make(schedule.cosine(1000), 1, sigma_max=80.0).t, [0, levels.t[-1]], rtol=1e-6)


@pytest.mark.parametrize(
    "call",
    [
        lambda table: grid.uniform(table, 0),
        lambda table: grid.karras(table, 5, rho=0.0),
        lambda table: grid.karras(table, 5, sigma_max=1e-4),
        lambda table: grid.by_time(table, [1001.5]),
        lambda table: grid.by_time(table, np.full((1, 1), 5.0)),
        lambda table: grid.by_time(table, []),
    ],
)
def test_impossible_grids_raise(call):
    with pytest.raises(ValueError, match=r"\d|noisy steps"):
        call(schedule.cosine(1000))


OF_A_TABLE = {
    **{name: lambda table, end, rho, make=make: make(table, 9) for name, (make, _) in MEASURES.items()},
    "log_snr to the end": lambda table, end, rho: grid.log_snr(table, 9, end),
    "karras to the end": lambda table, end, rho: grid.karras(table, 9, rho, end),
    "by_time": lambda table, end, rho: grid.by_time(table, table.t[jnp.array([90, 3, 40, 7, 5, 99, 12, 13, 14])]),
    "custom": lambda table, end, rho: grid.custom(table, [1.0, 5.0, -2.0, 0.0, 0.5, 0.7, 2.0, 2.5, 3.0]),
    "respace": lambda table, end, rho: schedule.respace(table, "4,5"),
}


def test_a_grid_of_a_traced_table_is_that_of_the_table():
    """In a compiled program, for a batch of tables of all kinds, and with numbers that are traced."""
    zero = schedule.zero_terminal_snr(schedule.linear(100))
    tables = [schedule.cosine(100), schedule.flow(100), zero, schedule.karras(100, 0.01, 20.0)]
    stacked = jax.tree.map(lambda *columns: jnp.stack(columns), *tables)
    of_all = jax.vmap(
        lambda table, *ends: {name: make(table, *ends) for name, make in OF_A_TABLE.items()}, (0, None, None)
    )
    found, rescaled = jax.jit(lambda table, *given: (of_all(*given), schedule.zero_terminal_snr(table)))(
        tables[0], stacked, 5.0, 3.0
    )
    for name, make in OF_A_TABLE.items():
        for row, table in enumerate(tables):
            got = np.stack(jax.tree.map(lambda column, row=row: column[row], found[name]))
            np.testing.assert_allclose(
                got, np.stack(make(table, 5.0, 3.0)), rtol=3e-4, atol=1e-6, err_msg=f"{name} {row}"
            )
    np.testing.assert_allclose(np.stack(rescaled), np.stack(schedule.zero_terminal_snr(tables[0])), rtol=3e-3)


def test_interpolation_is_exact_between_the_levels_of_a_flow():
    table = schedule.flow(50)
    s = jnp.linspace(0.002, 0.998, 61)
    found = schedule.interpolate(table, 2 * jnp.log((1 - s) / s))
    np.testing.assert_allclose(found.sigma, s, rtol=1e-5)
    np.testing.assert_allclose(found.alpha, 1 - s, rtol=1e-5)


def test_zero_terminal_snr_ends_in_noise_and_keeps_the_first_level():
    table = schedule.linear(1000)
    found = schedule.zero_terminal_snr(table)
    assert float(found.alpha[-1]) == 0
    assert float(found.sigma[-1]) == 1
    np.testing.assert_allclose([c[1] for c in found], [c[1] for c in table], rtol=1e-4)
    # [ZTSNR] algorithm 1: what is taken off alpha is the same share of alpha_1 - alpha everywhere
    lost = (np.asarray(table.alpha) - np.asarray(found.alpha))[2:-1]
    share = lost / (float(table.alpha[1]) - np.asarray(table.alpha)[2:-1])
    np.testing.assert_allclose(share[20:], share[-1], rtol=3e-3)
    with pytest.raises(ValueError, match="VP"):
        schedule.zero_terminal_snr(schedule.karras(5, 0.1, 1.0))


def test_the_sigmoid_schedule_is_symmetric_and_the_flow_is_straight():
    table = schedule.sigmoid(100)
    alpha_bar = np.asarray(table.alpha, np.float64) ** 2
    np.testing.assert_allclose(alpha_bar + alpha_bar[::-1], 1, atol=1e-6)
    # by hand at t = T / 4: s(u) = 1 / (1 + e^-u) at -1.5
    s = lambda u: 1 / (1 + np.exp(-u))  # noqa: E731
    np.testing.assert_allclose(alpha_bar[25], (s(3) - s(-1.5)) / (s(3) - s(-3)), rtol=1e-5)
    straight = schedule.flow(4)
    np.testing.assert_allclose(straight.alpha, [1, 0.75, 0.5, 0.25, 0])
    np.testing.assert_allclose(straight.sigma, [0, 0.25, 0.5, 0.75, 1])
    for call in (lambda: schedule.sigmoid(10, 3.0, -3.0), lambda: schedule.sigmoid(0), lambda: schedule.flow(0)):
        with pytest.raises(ValueError, match=r"\d"):
            call()


MEAN, STD = jnp.array([1.0, -0.5]), 0.4
NORMAL = GaussianMixture((1.0,), MEAN[None], (STD,))
IMAGE = jnp.array([-0.8, 0.3])


def start_from(image, eps, levels, strength):
    """The level that a run starts at, and (eps) -> x_0 along the flow from there."""
    part = grid.truncate(levels, strength)
    return schedule.at(part, -1), drawn_from(image, eps, part)


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0, None))
def drawn_from(image, eps, levels):
    x_t = forward.diffuse(image, eps, schedule.at(levels, -1))
    return sampler.sample(jax.random.key(0), NORMAL.denoiser(), reverse.dpm_solver(2), x_t, levels)


@pytest.mark.parametrize("name", ["cosine", "karras", "zero terminal"])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_the_law_of_normal_data_after_starting_from_an_image(name, strength):
    """x_0 = m + s (x_t - a m) / sqrt(a^2 s^2 + sigma^2) along the flow, and x_t = a image + sigma eps: a normal law."""
    levels = grid.uniform(TABLES[name], 200)
    level, found = start_from(IMAGE, jnp.array([[0.0, 0.0], [1.0, -2.0]]), levels, strength)
    spread = STD / np.sqrt(level.alpha**2 * STD**2 + level.sigma**2)
    mean = MEAN + spread * level.alpha * (IMAGE - MEAN)
    expected = np.stack([mean, mean + spread * level.sigma * np.array([1.0, -2.0])])
    np.testing.assert_allclose(found, expected, atol=5e-3)
    np.testing.assert_allclose(level.t, levels.t[round(strength * 200)])


def test_strength_1_is_a_start_from_noise_up_to_the_rest_of_alpha():
    eps = jax.random.normal(jax.random.key(1), (4, 2))
    for name, atol in (("zero terminal", 0), ("cosine", 1e-4)):
        levels = grid.uniform(TABLES[name], 20)
        (_, found), (_, noise) = (start_from(image, eps, levels, 1.0) for image in (IMAGE, jnp.zeros(2)))
        np.testing.assert_allclose(found, noise, rtol=0, atol=atol)


def test_a_strength_is_a_share_of_the_steps():
    levels = grid.uniform(TABLES["cosine"], 100)
    for strength, steps in ((0.29, 29), (0.999, 99), (0.01, 1), (1.0, 100)):  # 0.29 * 100 is below 29
        part = grid.truncate(levels, strength)
        np.testing.assert_array_equal(part.t, levels.t[: steps + 1])
    for wrong in (0.0, -0.5, 1.01, float("nan")):
        with pytest.raises(ValueError, match=f"^strength is {wrong}; give a number above 0, up to 1$"):
            grid.truncate(levels, wrong)
    with pytest.raises(ValueError, match="less than one of 100 steps; give a higher one, or more steps"):
        grid.truncate(levels, 0.009)
