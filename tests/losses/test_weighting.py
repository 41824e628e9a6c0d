"""Weightings against their papers' formulas, and the same loss whatever the network predicts."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import losses, schedule
from guided_jax.losses import weighting
from guided_jax.prediction import Prediction

LEVELS = schedule.cosine(100)
INNER = schedule.NoiseLevel(*(column[1:-1] for column in LEVELS))
SNR = (np.asarray(INNER.alpha, np.float64) / np.asarray(INNER.sigma, np.float64)) ** 2
WEIGHTINGS = {
    "min-snr": weighting.min_snr,
    "p2": weighting.p2,
    "p2-half": functools.partial(weighting.p2, gamma=0.5, k=2.0),
    "sigmoid": weighting.sigmoid,
    "edm": weighting.edm,
}
VE = schedule.karras(20, 0.01, 50.0)

# Each as its paper writes it, for the loss that its paper writes it for.
PAPERS = [
    ("min-snr", "x_0", np.minimum(SNR, 5)),
    ("min-snr", "eps", np.minimum(SNR, 5) / SNR),
    ("min-snr", "v", np.minimum(SNR, 5) / (SNR + 1)),
    ("p2", "eps", 1 / (1 + SNR)),
    ("p2-half", "eps", 1 / np.sqrt(2 + SNR)),
    ("sigmoid", "eps", 1 / (1 + np.exp(np.log(SNR) - 2))),
    ("sigmoid", "x_0", np.exp(2) / (1 + np.exp(2 - np.log(SNR)))),
    ("edm", "x_0", (1 / SNR + 0.25) / (0.25 / SNR)),
]


@pytest.mark.parametrize(("name", "target", "want"), PAPERS, ids=lambda value: value if isinstance(value, str) else "")
def test_the_weight_is_the_papers(name, target, want):
    np.testing.assert_allclose(weighting.of_loss(WEIGHTINGS[name], INNER, target), want, rtol=2e-4)


def test_edms_weight_undoes_what_its_preconditioning_does_to_the_output():
    """[EDM] table 1: lambda = 1 / c_out^2, so that the loss of the raw network F is weighted by 1 at every level."""
    sigma = np.asarray(VE.sigma, np.float64)[1:]
    c_out = sigma * 0.5 / np.sqrt(sigma**2 + 0.25)
    found = weighting.of_loss(weighting.edm, schedule.NoiseLevel(*(column[1:] for column in VE)), "x_0")
    np.testing.assert_allclose(found * c_out**2, 1, rtol=2e-4)


@pytest.mark.parametrize("table", ["VP", "VE", "flow"])
def test_the_loss_is_the_same_whatever_the_network_predicts(table):
    """One wrong x_0, told as each target: the same number from `losses.denoising` of each, by every weighting."""
    levels = {"VP": LEVELS, "VE": VE, "flow": schedule.flow(25)}[table]
    position = jnp.array([2, 5, 9, 15, 18])
    level, rng = schedule.at(levels, position), np.random.default_rng(0)
    x_0, eps, error = (jnp.asarray(rng.normal(size=(5, 3)), jnp.float32) for _ in range(3))
    alpha, sigma = (np.asarray(column, np.float64)[:, None] for column in (level.alpha, level.sigma))
    outputs = {"x_0": x_0 + error, "eps": eps - alpha / sigma * error}
    outputs["v"] = alpha * outputs["eps"] - sigma * outputs["x_0"]
    outputs |= {"score": -outputs["eps"] / sigma, "flow": outputs["eps"] - outputs["x_0"]}
    assert outputs.keys() == losses.TARGETS.keys()
    keys = jax.random.split(jax.random.key(0), 5)
    noisy = losses.Noisy(
        level.alpha[:, None] * x_0 + level.sigma[:, None] * eps, Prediction(x_0, eps), level, keys, position
    )

    def found(name, target):
        network = lambda x, t, condition, keys: jnp.asarray(outputs[target], jnp.float32)  # noqa: E731
        weight = lambda level: weighting.of_loss(WEIGHTINGS[name], level, target)  # noqa: E731
        return losses.denoising(network, noisy, None, levels, target, weight=weight)

    @jax.jit
    def all_of_them():
        logs = schedule.log_snr_of(level)
        want = {name: jnp.exp(law(logs)) * jnp.mean(error**2, axis=1) for name, law in WEIGHTINGS.items()}
        return {(name, target): (found(name, target), want[name]) for name in WEIGHTINGS for target in outputs}

    for case, (got, want) in all_of_them().items():
        np.testing.assert_allclose(got, want, rtol=5e-3, err_msg=str(case))


def test_at_both_ends_it_is_finite():
    """SNR is infinite at the clean level and 0 at the last one of a zero terminal SNR table."""
    ends = schedule.NoiseLevel(jnp.array([0.0, 9.0]), jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0]))
    tables = {"VP": schedule.zero_terminal_snr(LEVELS), "VE": VE, "flow": schedule.flow(20), "ends": ends}

    @jax.jit
    def all_of_them():
        return {
            (name, target, table): weighting.of_loss(law, levels, target)
            for name, law in WEIGHTINGS.items()
            for target in losses.TARGETS
            for table, levels in tables.items()
        }

    found = jax.device_get(all_of_them())
    assert len(found) == 5 * 5 * 4
    for case, weights in found.items():
        assert np.isfinite(weights).all(), case
        assert (weights >= 0).all(), case
    np.testing.assert_allclose(found["min-snr", "v", "ends"], 0, atol=1e-12)
    np.testing.assert_allclose(found["edm", "v", "ends"], [1, 4], rtol=1e-4)  # alpha^2 + sigma^2 / sigma_data^2
    # (SNR + 1 / sigma_data^2) (sigma / (alpha + sigma))^2: bounded at every level of every table.
    assert all(found["edm", "flow", table].max() <= 4.001 for table in tables)
    np.testing.assert_allclose(found["edm", "flow", "ends"], [1, 4], rtol=1e-4)


def test_other_targets_raise():
    with pytest.raises(ValueError, match="'noise'; choose one of eps, x_0, v, score, flow"):
        weighting.of_loss(weighting.min_snr, LEVELS, "noise")


def test_per_log_snr_is_the_slope_of_the_table():
    """log SNR = 2 log((1 - s) / s) of a straight path: half its slope is -1 / (s (1 - s))."""
    rate, s = weighting.per_log_snr(schedule.flow(1000)), np.array([0.1, 0.3, 0.5, 0.8])
    level = schedule.NoiseLevel(jnp.asarray(1000 * s, jnp.float32), jnp.ones(4), jnp.ones(4))
    np.testing.assert_allclose(rate(level), 1 / (s * (1 - s)), rtol=1e-3)
    with pytest.raises(ValueError, match="1 noisy levels"):
        weighting.per_log_snr(schedule.flow(2))


def test_a_weighting_per_log_snr_is_the_same_for_every_schedule():
    """[KG]: of a loss that depends on log SNR alone, the mean over uniform t is half the integral over log SNR."""
    integral = float(np.trapezoid(np.exp(-(np.linspace(-7, 7, 999) ** 2)), np.linspace(-7, 7, 999)))
    for levels in (schedule.cosine(1000), schedule.linear(1000), schedule.zero_terminal_snr(schedule.cosine(1000))):
        noisy = schedule.NoiseLevel(*(column[1:] for column in levels))
        values = jnp.exp(-(schedule.log_snr_of(noisy) ** 2)) * weighting.per_log_snr(levels)(noisy)
        np.testing.assert_allclose(2 * values.mean(), integral, rtol=2e-3)


def test_the_weight_scales_the_mean_square_and_not_the_bound():
    keys = jax.random.split(jax.random.key(0), 6)
    x_0 = jax.random.normal(jax.random.key(1), (6, 4))
    noisy = losses.corrupt(keys, x_0, LEVELS)
    twice = lambda level: jnp.full_like(level.t, 2.0)  # noqa: E731
    one = lambda x, t, condition, keys: 0.1 * x  # noqa: E731
    two = lambda x, t, condition, keys: jnp.concatenate([0.1 * x, jnp.zeros_like(x)], -1)  # noqa: E731

    @jax.jit
    def all_four():
        found = [losses.denoising(one, noisy, None, LEVELS, weight=weight) for weight in (None, twice)]
        return found + [
            losses.denoising(two, noisy, None, LEVELS, learned_variance=True, weight=weight) for weight in (None, twice)
        ]

    plain, weighted, both, with_bound = all_four()
    np.testing.assert_allclose(weighted, 2 * plain, rtol=1e-6)
    np.testing.assert_allclose(with_bound - both, plain, rtol=1e-3, atol=1e-4 * float(jnp.abs(both).max()))
