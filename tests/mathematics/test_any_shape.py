"""The mathematics for whatever comes: shapes, dtypes and levels drawn by hypothesis, both ends of a schedule among them."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, forward, guidance, prediction, reverse, schedule
from guided_jax.analytic import GaussianMixture
from tests.oracle import SCHEDULES

# Of every rank up to 4, and few: each new one compiles every operation again.
SHAPES = st.sampled_from([(), (1,), (3,), (4, 2), (1, 3, 2), (2, 3, 1, 4)])
DTYPES = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16])
TABLES = st.sampled_from(list(SCHEDULES))


@st.composite
def levels(draw, least=0):
    """A level of one of the schedules, the clean one and the noisiest one as likely as all others."""
    table = SCHEDULES[draw(TABLES)]
    last = len(table.t) - 1
    return schedule.at(table, draw(st.sampled_from([least, last]) | st.integers(least, last)))


@st.composite
def examples(draw, dtypes=DTYPES):
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**31 - 1))
    x, y = jax.random.normal(jax.random.key(seed), (2, *shape))
    dtype = draw(dtypes)
    return x.astype(dtype), y.astype(dtype)


def tolerance(x):
    return 40 * float(jnp.finfo(x.dtype).eps)


@hypothesis.given(examples(), levels())
def test_diffusing_keeps_the_shape_and_is_finite(pair, level):
    x_t = forward.diffuse(*pair, level)
    assert x_t.shape == pair[0].shape
    assert x_t.dtype == jnp.float32  # levels are float32, and so is the sampler's state
    assert jnp.all(jnp.isfinite(x_t))


@pytest.mark.parametrize("name", denoiser.PARAMETERIZATIONS)
@hypothesis.given(pair=examples(st.just(jnp.float32)), level=levels(least=1))
def test_every_parameterization_explains_x_t(name, pair, level):
    """alpha x_0 + sigma eps is x_t again, whatever the network said, up to rounding of what it said."""
    said, x_t = pair
    found = denoiser.PARAMETERIZATIONS[name](said, x_t, level)
    size = (
        1
        + float(jnp.max(jnp.abs(x_t), initial=0))
        + float(level.sigma**2 + 1) * float(jnp.max(jnp.abs(said), initial=0))
    )
    np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, atol=tolerance(x_t) * size)
    assert found.x_0.shape == found.eps.shape == x_t.shape


@hypothesis.given(examples(st.just(jnp.float32)), TABLES, st.data())
def test_the_posterior_lies_between_its_ends(pair, name, data):
    """Any s < t: the variance is neither negative nor above that of q(x_s | x_0), and the mean is finite."""
    table = SCHEDULES[name]
    now = data.draw(st.integers(1, len(table.t) - 1))
    then = data.draw(st.integers(0, now - 1))
    mean, variance = forward.posterior(*pair, schedule.at(table, now), schedule.at(table, then))
    assert mean.shape == pair[0].shape
    assert jnp.all(jnp.isfinite(mean))
    assert 0 <= float(variance) <= float(table.sigma[then] ** 2) * (1 + 1e-5)


@hypothesis.given(examples(st.just(jnp.float32)), levels(least=1), st.floats(-3, 10))
def test_guidance_is_linear_in_its_scale_for_any_shape(pair, level, scale):
    mean, x_t = pair
    mixture = GaussianMixture(jnp.ones(2), jnp.stack([mean, -mean]), jnp.array([0.5, 0.7]))
    c, u = mixture.denoiser(0), mixture.denoiser()
    at = lambda s: guidance.classifier_free(c, u, s)(x_t, level)  # noqa: E731
    for view in ("x_0", "eps"):
        ends = getattr(at(0.0), view), getattr(at(1.0), view)
        size = (1 + abs(scale)) * (
            1 + float(jnp.max(jnp.abs(ends[0]), initial=0) + jnp.max(jnp.abs(ends[1]), initial=0))
        )
        want = ends[0] + scale * (ends[1] - ends[0])
        np.testing.assert_allclose(getattr(at(scale), view), want, atol=1e-5 * size)


@pytest.mark.parametrize("step", [reverse.ddim(), reverse.ddim(0.5), reverse.ddpm(), reverse.ddpm("large")])
@hypothesis.given(pair=examples(st.just(jnp.float32)), name=TABLES, data=st.data())
def test_a_step_is_finite_from_any_level_to_any_lower(step, pair, name, data):
    table = SCHEDULES[name]
    now = data.draw(st.integers(1, len(table.t) - 1))
    then = data.draw(st.integers(0, now - 1))
    mean, x_t = pair
    denoise = GaussianMixture(jnp.ones(1), mean[None], jnp.array([0.3])).denoiser()
    ends = schedule.at(table, now), schedule.at(table, then)
    x_s, _ = step.step(jax.random.key(0), denoise, x_t, step.init(x_t), *ends)
    assert (x_s.shape, x_s.dtype) == (x_t.shape, x_t.dtype)
    assert jnp.all(jnp.isfinite(x_s))


@hypothesis.given(st.sampled_from([20, 21, 257, 400]), st.data())
def test_respacing_keeps_both_ends(num_steps, data):
    """Any count that fits: so many levels, ascending, the clean one first and the last one kept."""
    table = schedule.linear(num_steps)
    count = data.draw(st.integers(2, num_steps))
    kept = schedule.respace(table, count)
    assert len(kept.t) == count + 1
    assert (kept.t[0], kept.t[-1]) == (0, num_steps)
    assert jnp.all(jnp.diff(kept.t) > 0)


INTERPOLATE = jax.jit(schedule.interpolate)


@hypothesis.given(TABLES, st.floats(-12, 12))
def test_interpolation_returns_the_requested_log_snr(name, log_snr):
    found = INTERPOLATE(SCHEDULES[name], log_snr)
    np.testing.assert_allclose(2 * jnp.log(found.alpha / found.sigma), log_snr, atol=1e-4)
    assert 0 <= float(found.t) <= float(SCHEDULES[name].t[-1])


@hypothesis.given(examples(), levels())
def test_clipped_x_0_lies_in_the_range(pair, level):
    found = guidance.clip(lambda x, level: prediction.Prediction(3 * pair[0], pair[1]))(pair[1], level)
    assert float(jnp.max(jnp.abs(found.x_0), initial=0)) <= 1
