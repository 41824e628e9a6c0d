"""Schedules against ADM's float64 tables, respacing against ADM's own lists, interpolation against its definition."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import schedule
from tests.oracle import SCHEDULES

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
TABLES = np.load(GOLDEN / "schedules.npz", allow_pickle=False)
SPACED = np.load(GOLDEN / "space_timesteps.npz", allow_pickle=False)


def exact(key):
    return TABLES[key].astype(np.float64) + TABLES[f"{key}__lo"].astype(np.float64)


def made(case):
    levels = {"linear": schedule.linear, "cosine": schedule.cosine}[case["schedule"]](case["steps"])
    return schedule.respace(levels, case["respacing"]) if "respacing" in case else levels


@pytest.mark.parametrize("case", json.loads(str(TABLES["meta"]))["cases"], ids=lambda case: case["key"])
def test_levels_are_adm_tables(case):
    levels, key = made(case), case["key"]
    np.testing.assert_allclose(levels.alpha[1:], exact(f"{key}/sqrt_alphas_cumprod"), rtol=1e-7)
    np.testing.assert_allclose(levels.sigma[1:], exact(f"{key}/sqrt_one_minus_alphas_cumprod"), rtol=1e-7)
    assert (levels.t[0], levels.alpha[0], levels.sigma[0]) == (0, 1, 0)
    assert all(column.dtype == jnp.float32 for column in levels)


@pytest.mark.parametrize("case", json.loads(str(SPACED["meta"]))["cases"], ids=lambda case: str(case["section_counts"]))
def test_respace_keeps_adm_steps(case):
    levels = schedule.from_betas(np.full(case["num_timesteps"], 0.01))
    if "steps" not in case:
        with pytest.raises(ValueError, match="step"):
            schedule.respace(levels, case["section_counts"])
        return
    kept = schedule.respace(levels, case["section_counts"])
    np.testing.assert_array_equal(kept.t, np.append(0, np.asarray(case["steps"]) + 1))
    np.testing.assert_array_equal(kept.alpha, levels.alpha[kept.t.astype(int)])


def test_respace_reads_an_int_as_its_string():
    levels = schedule.cosine(100)
    jax.tree.map(np.testing.assert_array_equal, schedule.respace(levels, 7), schedule.respace(levels, "7"))


@pytest.mark.parametrize("spec", ["", "ten", "10,,20", "ddim", "ddim37", 0, -3, 1001, [600, 600], (2, -1)])
def test_respace_raises_for_other_specs(spec):
    with pytest.raises(ValueError, match="step"):
        schedule.respace(schedule.linear(1000), spec)


@pytest.mark.parametrize(
    "call",
    [
        lambda: schedule.linear(19),
        lambda: schedule.linear(0),
        lambda: schedule.cosine(-1),
        lambda: schedule.from_betas([]),
        lambda: schedule.from_betas([0.1, 1.5]),
        lambda: schedule.from_betas(np.full((1, 1), 0.1)),
        lambda: schedule.karras(5, 0.0, 1.0),
        lambda: schedule.karras(5, 2.0, 1.0),
    ],
)
def test_impossible_schedules_raise(call):
    with pytest.raises(ValueError, match=r"\d|shape"):
        call()


def test_karras_runs_from_sigma_min_to_sigma_max_by_its_power():
    levels = schedule.karras(18, 0.002, 80.0)
    assert levels.sigma.shape == (19,)
    np.testing.assert_allclose(levels.sigma[jnp.array([0, 1, 18])], [0, 0.002, 80], rtol=1e-6)
    np.testing.assert_array_equal(levels.alpha, 1)
    steps = np.diff(np.asarray(levels.sigma[1:], np.float64) ** (1 / 7))
    np.testing.assert_allclose(steps, steps.mean(), rtol=1e-4)


def test_a_single_karras_step_starts_at_sigma_max():
    np.testing.assert_allclose(schedule.karras(1, 0.01, 5.0).sigma, [0, 5])


def test_at_takes_positions():
    levels = schedule.respace(schedule.linear(1000), "ddim25")
    assert float(schedule.at(levels, 3).t) == 81
    assert float(jax.jit(lambda i: schedule.at(levels, i).t)(3)) == 81
    np.testing.assert_array_equal(schedule.at(levels, jnp.array([0, -1])).t, [0, 961])
    with pytest.raises(IndexError, match="26"):
        schedule.at(levels, 26)


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
def test_interpolate_returns_the_grid_on_the_grid(levels):
    noisy = schedule.NoiseLevel(*(column[1:] for column in levels))
    found = schedule.interpolate(levels, 2 * jnp.log(noisy.alpha / noisy.sigma))
    np.testing.assert_allclose(found.t, noisy.t, rtol=2e-4)
    np.testing.assert_allclose(found.alpha, noisy.alpha, rtol=2e-5)
    np.testing.assert_allclose(found.sigma, noisy.sigma, rtol=2e-5)


@pytest.mark.parametrize("levels", SCHEDULES.values(), ids=SCHEDULES)
def test_interpolate_off_the_grid(levels):
    log_snr = jnp.linspace(12.0, -12.0, 97)
    found = schedule.interpolate(levels, log_snr)
    np.testing.assert_allclose(2 * jnp.log(found.alpha / found.sigma), log_snr, atol=3e-5)
    ends = levels.alpha[-1] ** 2 + levels.sigma[-1] ** 2 if levels.alpha[-1] < 1 else None
    if ends is None:
        np.testing.assert_allclose(found.alpha, 1, rtol=1e-6)
    else:
        np.testing.assert_allclose(found.alpha**2 + found.sigma**2, 1, rtol=1e-6)
    assert jnp.all(jnp.diff(found.t) >= 0)
    assert found.t[0] > 0
    assert found.t[-1] <= levels.t[-1]


def test_interpolate_at_both_ends():
    levels = schedule.cosine(50)
    clean, noise = schedule.interpolate(levels, jnp.inf), schedule.interpolate(levels, -jnp.inf)
    np.testing.assert_allclose([clean.t, clean.alpha, clean.sigma], [0, 1, 0], atol=1e-7)
    np.testing.assert_allclose([noise.t, noise.alpha, noise.sigma], [50, 0, 1], atol=1e-5)
