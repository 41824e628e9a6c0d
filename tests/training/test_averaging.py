"""Averages by a power of the step, against sums over all steps, and those made of snapshots afterwards."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from guided_jax import training
from guided_jax.training import averaging
from tests import tiny

GRID = np.linspace(0, 1, 200_001)


def profile(gamma, step=1.0):
    """p(x) on `GRID` times the longest step, by its definition."""
    x = GRID
    return np.where(x <= step, (gamma + 1) * np.maximum(x, 1e-300) ** gamma / step ** (gamma + 1), 0)


@pytest.mark.parametrize("sigma_rel", [0.01, 0.05, 0.1, 0.2, 0.28])
def test_sigma_rel_is_the_standard_deviation_of_the_profile(sigma_rel):
    gamma = averaging.gamma_of(sigma_rel)
    p = profile(gamma)
    mean = np.trapezoid(p * GRID, GRID)
    np.testing.assert_allclose(np.sqrt(np.trapezoid(p * (GRID - mean) ** 2, GRID)), sigma_rel, rtol=1e-3)
    np.testing.assert_allclose(averaging.sigma_rel_of(gamma), sigma_rel, rtol=1e-9)


def test_the_pairs_of_the_paper():
    """[EDM2]: sigma_rel of 0.05 and 0.10 are gamma of about 16.97 and 6.94."""
    np.testing.assert_allclose([averaging.gamma_of(s) for s in (0.05, 0.1)], [16.97, 6.94], atol=0.005)


@pytest.mark.parametrize("sigma_rel", [0.0, -0.1, 0.3, float("nan")])
def test_a_sigma_rel_out_of_range_is_refused(sigma_rel):
    with pytest.raises(ValueError, match=r"up to 0\.288"):
        averaging.gamma_of(sigma_rel)


def test_overlap_is_the_integral_of_the_product():
    for step, gamma, other in ((1.0, 3.0, 7.0), (0.6, 5.0, 2.0), (0.3, 1.0, 9.0)):
        want = np.trapezoid(profile(gamma, step) * profile(other), GRID)
        np.testing.assert_allclose(averaging.overlap(step, gamma, 1.0, other), want, rtol=1e-3)
        np.testing.assert_allclose(averaging.overlap(1.0, other, step, gamma), want, rtol=1e-3)


def weighted(theta, sigma_rel, step):
    """Return the sum of theta(i) times the product of all later decays ([EDM2], written out)."""
    power = averaging.gamma_of(sigma_rel) + 1
    share = (np.arange(1, step + 1) / step) ** power
    return np.diff(share, prepend=0) @ theta[:step]


def test_a_train_step_keeps_the_averages_of_its_parameters():
    """As the sum over all steps says; parameters, usual average and metrics are those without them, bit for bit."""
    sigma_rels = (0.05, 0.2)
    optimizer = averaging.with_averages(tiny.OPTIMIZER, sigma_rels)
    batch = {"image": jnp.zeros((4, 8, 8, 1))}

    @functools.partial(jax.jit, static_argnames="optimizer")
    def step(state, optimizer):
        return training.train_step(state, batch, jnp.arange(4), loss=tiny.loss, optimizer=optimizer, ema_decay=0.9)

    params = tiny.state().params
    state = training.init(jax.random.key(1), params, optimizer)
    plain, seen = training.init(jax.random.key(1), params, tiny.OPTIMIZER), []
    chex.assert_trees_all_equal(state.opt_state.averages, (params, params))
    for _ in range(5):
        (state, metrics), (plain, same) = step(state, optimizer), step(plain, tiny.OPTIMIZER)
        seen.append(np.asarray(state.params["params"]["bias"], np.float64))
        chex.assert_trees_all_equal((state.params, state.ema, metrics), (plain.params, plain.ema, same))
    for sigma_rel, average in zip(sigma_rels, state.opt_state.averages, strict=True):
        np.testing.assert_allclose(
            average["params"]["bias"], weighted(np.stack(seen), sigma_rel, 5), rtol=1e-4, atol=1e-7
        )


def walk(steps=1500, size=4):
    rng = np.random.default_rng(0)
    return np.cumsum(rng.normal(size=(steps, size)), 0) + rng.normal(size=(steps, size))


def snapshots(theta, every, sigma_rels=(0.05, 0.1)):
    found = [(step, s) for step in range(every, len(theta) + 1, every) for s in sigma_rels]
    trees = [{"a": weighted(theta, s, step).astype(np.float32)} for step, s in found]
    return [step for step, _ in found], [s for _, s in found], trees


@pytest.mark.parametrize(
    ("sigma_rel", "step", "within"),
    [
        (0.05, 1500, 1e-5),
        (0.07, 1500, 0.02),
        (0.1, 1500, 1e-5),
        (0.15, 1500, 0.02),
        (0.2, 1500, 0.1),
        (0.12, 900, 0.02),
    ],
)
def test_an_average_made_afterwards_is_the_one_computed_step_by_step(sigma_rel, step, within):
    """Of a random walk that ends tens away from where its average is."""
    theta = walk()
    steps, sigma_rels, trees = snapshots(theta, 100)
    early = [i for i, at in enumerate(steps) if at <= step]
    weights = averaging.mixture([steps[i] for i in early], [sigma_rels[i] for i in early], step, sigma_rel)
    found = averaging.combine([trees[i] for i in early], weights)["a"]
    want = weighted(theta, sigma_rel, step)
    assert found.dtype == np.float32
    np.testing.assert_allclose(weights.sum(), 1, rtol=1e-12)
    error, far = np.abs(found - want).max(), np.abs(theta[step - 1] - want).max()
    assert error < within
    assert error < 0.005 * far, error / far  # what docs/training.md says


@pytest.mark.parametrize(("sigma_rel", "want"), [(0.02, 0.0180), (0.1, 0.1), (0.25, 0.2406), (0.28, 0.2618)])
def test_the_sigma_rel_of_a_mixture_is_that_of_its_profile(sigma_rel, want):
    """Beside the standard deviation of the steps under the mixture's own weights."""
    steps, sigma_rels, _ = snapshots(walk(), 100)
    weights = averaging.mixture(steps, sigma_rels, 1500, sigma_rel)
    found = averaging.mixture_sigma_rel(steps, sigma_rels, weights, 1500)
    assert abs(found - want) < 1e-4
    # The mean of x and of x^2 under each average: weighted sums of the steps' own numbers.
    at = np.arange(1, 1501.0)[:, None]
    each = [
        [weighted(at**power, sigma, step)[0] for step, sigma in zip(steps, sigma_rels, strict=True)] for power in (1, 2)
    ]
    mean, square = np.asarray(each) @ weights
    np.testing.assert_allclose(found, np.sqrt(square - mean**2) / 1500, rtol=5e-3)


def test_more_snapshots_come_nearer():
    theta = walk()
    errors = []
    for every in (100, 300, 750):
        steps, sigma_rels, trees = snapshots(theta, every)
        found = averaging.combine(trees, averaging.mixture(steps, sigma_rels, 1500, 0.15))["a"]
        errors.append(np.abs(found - weighted(theta, 0.15, 1500)).max())
    assert errors[0] < errors[1] < errors[2]


def test_a_step_before_the_first_snapshot_is_refused():
    with pytest.raises(ValueError, match=r"up to step 50; the stored ones are of \[100, 200\]"):
        averaging.mixture([100, 100, 200], [0.05, 0.1, 0.05], 50, 0.1)


def test_the_wrapped_optimizer_keeps_its_state():
    optimizer = averaging.with_averages(optax.sgd(0.5, momentum=0.9), (0.1,))
    params = {"w": jnp.ones(3)}
    state = optimizer.init(params)
    updates, state = optimizer.update({"w": jnp.ones(3)}, state, params)
    np.testing.assert_allclose(updates["w"], -0.5)
    np.testing.assert_allclose(state.averages[0]["w"], 0.5)  # the first step forgets where it began
    assert int(state.step) == 1
