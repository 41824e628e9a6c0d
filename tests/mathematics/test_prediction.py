"""Every parameterization says the same thing, at every level, both ends included."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, forward, model, prediction, schedule
from tests.oracle import MIXTURE, SCHEDULES

ALL = list(denoiser.PARAMETERIZATIONS)
FLOW = schedule.NoiseLevel(*(jnp.float32(value) for value in (300, 0.7, 0.3)))
PURE_NOISE = schedule.NoiseLevel(*(jnp.float32(value) for value in (1000, 0.0, 1.0)))
LEVELS = {
    **{f"{name}-{i}": schedule.at(levels, i) for name, levels in SCHEDULES.items() for i in (1, 20, 30)},
    "flow": FLOW,
}
X_0, EPS = jnp.array([0.3, -0.8]), jnp.array([1.2, -0.4])


def output(parameterization, x_0, eps, level):
    return {
        "eps": eps,
        "x_0": x_0,
        "v": level.alpha * eps - level.sigma * x_0,
        "score": -eps / level.sigma,
        "flow": eps - x_0,
    }[parameterization]


@pytest.mark.parametrize("level", LEVELS.values(), ids=LEVELS)
@pytest.mark.parametrize("parameterization", ALL)
def test_round_trip(parameterization, level):
    x_t = forward.diffuse(X_0, EPS, level)
    found = denoiser.PARAMETERIZATIONS[parameterization](output(parameterization, X_0, EPS, level), x_t, level)
    # Reading x_0 from eps divides rounding by alpha, eps from x_0 by sigma: that much and no more is lost.
    loss = 2e-6 * float(jnp.max(jnp.abs(x_t)) + 1)
    np.testing.assert_allclose(found.x_0, X_0, atol=loss / float(level.alpha))
    np.testing.assert_allclose(found.eps, EPS, atol=loss / float(level.sigma))
    np.testing.assert_allclose(prediction.score(found, level), -found.eps / level.sigma, rtol=1e-6)
    odds = float(level.sigma / level.alpha)
    np.testing.assert_allclose(prediction.flow(found), EPS - X_0, atol=loss * (1 / level.alpha + 1 / level.sigma))
    np.testing.assert_allclose(prediction.v(found, level), output("v", X_0, EPS, level), atol=loss * (odds + 1 / odds))


@pytest.mark.parametrize("parameterization", ALL)
def test_the_clean_level(parameterization):
    clean, x = schedule.at(schedule.cosine(10), 0), jnp.array([0.3, -0.8])
    found = denoiser.PARAMETERIZATIONS[parameterization](x, x, clean)
    np.testing.assert_array_equal(found.eps, 0)
    np.testing.assert_array_equal(prediction.score(found, clean), 0)
    if parameterization != "flow":  # a velocity of x is a claim that x_0 = 0 at alpha + sigma = 1
        assert jnp.all(jnp.isfinite(found.x_0))


@pytest.mark.parametrize("parameterization", ["eps", "score"])
def test_eps_and_score_raise_at_pure_noise(parameterization):
    convert = denoiser.PARAMETERIZATIONS[parameterization]
    with pytest.raises(ValueError, match="alpha = 0"):
        convert(X_0, EPS, PURE_NOISE)
    traced = jax.jit(convert)(X_0, EPS, PURE_NOISE)
    assert jnp.all(jnp.isnan(traced.x_0))


@pytest.mark.parametrize("parameterization", ["x_0", "v", "flow"])
def test_x_0_v_and_flow_are_read_at_pure_noise(parameterization):
    found = denoiser.PARAMETERIZATIONS[parameterization](
        output(parameterization, X_0, EPS, PURE_NOISE), EPS, PURE_NOISE
    )
    np.testing.assert_allclose(found.x_0, X_0, rtol=1e-6)
    np.testing.assert_allclose(found.eps, EPS, rtol=1e-6)


def test_learned_variance_splits_the_last_axis():
    level = schedule.at(schedule.cosine(10), 4)

    def network(x, time):
        assert float(time) == 3
        return jnp.concatenate([x, jnp.full_like(x, 0.5)], -1)

    found = denoiser.from_network(network, learned_variance=True)(jnp.ones((2, 3)), level)
    np.testing.assert_array_equal(found.eps, 1)
    np.testing.assert_array_equal(found.variance_fraction, np.full((2, 3), 0.75))


def test_from_network_raises_for_wrong_outputs():
    level, x = schedule.at(schedule.cosine(10), 4), jnp.ones(2)
    with pytest.raises(ValueError, match="'noise'"):
        denoiser.from_network(lambda x, t: x, "noise")
    with pytest.raises(ValueError, match=r"\(4,\)"):
        denoiser.from_network(lambda x, t: jnp.ones(4))(x, level)
    with pytest.raises(ValueError, match=r"\(2,\)"):
        denoiser.from_network(lambda x, t: x, learned_variance=True)(x, level)


def test_edm_with_the_exact_inner_network_is_exact():
    """For N(0, sigma_data^2) the optimal inner network is 0: c_skip alone is the posterior mean ([EDM] appendix B.6)."""
    gaussian = type(MIXTURE)(jnp.ones(1), jnp.zeros((1, 2)), jnp.array([0.5]))
    for levels in SCHEDULES.values():
        for position in (0, 1, 20, -1):
            level = schedule.at(levels, position)
            x_t = jnp.array([0.3, -0.7])
            seen = []

            def network(x, c_noise, seen=seen):
                seen.append((x, c_noise))
                return jnp.zeros_like(x)

            got, want = denoiser.edm(network)(x_t, level), gaussian.denoiser()(x_t, level)
            np.testing.assert_allclose(got.x_0, want.x_0, rtol=1e-5, atol=1e-7)
            np.testing.assert_allclose(got.eps, want.eps, rtol=2e-2, atol=1e-4)
            assert all(jnp.all(jnp.isfinite(argument)) for argument in jax.tree.leaves(seen))


def test_edm_conditions_the_network_by_its_table():
    """c_in = 1 / sqrt(s^2 + sigma_data^2), c_out = s sigma_data / sqrt(...), c_noise = ln(s) / 4 ([EDM] table 1), VE."""
    level = schedule.NoiseLevel(*(jnp.float32(value) for value in (1, 1.0, 2.0)))
    c_in, c_noise = 1 / np.sqrt(4.25), np.log(2.0) / 4
    found = denoiser.edm(lambda x, c: x + c)(jnp.ones(1), level)
    np.testing.assert_allclose(found.x_0, 0.25 / 4.25 + 2 * 0.5 * c_in * (c_in + c_noise), rtol=1e-5)


@pytest.mark.parametrize("parameterization", ["edm", "eps", "flow"])
def test_the_input_of_a_network_is_what_its_denoiser_calls_it_with(parameterization):
    level, seen = schedule.at(SCHEDULES["cosine"], 400), []

    def network(params, x, time, condition):
        seen.append((x, time))
        return jnp.zeros_like(x)

    own = model.Model(network, SCHEDULES["cosine"], parameterization, time=lambda level: level.alpha, shape=(2,))
    model.denoiser(own, None, None)(X_0, level)
    np.testing.assert_array_equal(seen[0][0], model.network_input(own, X_0, level)[0])
    np.testing.assert_array_equal(seen[0][1], model.network_input(own, X_0, level)[1])


def test_from_batched_gives_a_batch_of_one():
    def foreign(x, time):
        assert x.shape == (1, 2)
        assert time.shape == (1,)
        return x * time[:, None]

    np.testing.assert_array_equal(denoiser.from_batched(foreign)(jnp.ones(2), jnp.float32(3)), [3, 3])
