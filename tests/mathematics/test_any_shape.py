"""The mathematics for whatever comes: shapes, dtypes and levels drawn by hypothesis, both ends of a schedule among them."""

import hypothesis
import hypothesis.strategies as st
import jax
import jax.numpy as jnp
import pytest

from guided_jax import forward, guidance, prediction, reverse, schedule
from guided_jax.analytic import GaussianMixture
from tests.oracle import SCHEDULES

# Of every rank up to 4, and few: each new one compiles every operation again.
SHAPES = st.sampled_from([(), (1,), (3,), (4, 2), (1, 3, 2), (2, 3, 1, 4)])
DTYPES = st.sampled_from([jnp.float32, jnp.bfloat16, jnp.float16])
TABLES = st.sampled_from(list(SCHEDULES))


@st.composite
def levels(draw):
    """A level of one of the schedules, the clean one and the noisiest one as likely as all others."""
    table = SCHEDULES[draw(TABLES)]
    last = len(table.t) - 1
    return schedule.at(table, draw(st.sampled_from([0, last]) | st.integers(0, last)))


@st.composite
def examples(draw, dtypes=DTYPES):
    shape, seed = draw(SHAPES), draw(st.integers(0, 2**31 - 1))
    x, y = jax.random.normal(jax.random.key(seed), (2, *shape))
    dtype = draw(dtypes)
    return x.astype(dtype), y.astype(dtype)


@hypothesis.given(examples(), levels())
def test_diffusing_keeps_the_shape_and_is_finite(pair, level):
    x_t = forward.diffuse(*pair, level)
    assert x_t.shape == pair[0].shape
    assert x_t.dtype == jnp.float32  # levels are float32, and so is the sampler's state
    assert jnp.all(jnp.isfinite(x_t))


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


@hypothesis.given(examples(), levels())
def test_clipped_x_0_lies_in_the_range(pair, level):
    found = guidance.clip(lambda x, level: prediction.Prediction(3 * pair[0], pair[1]))(pair[1], level)
    assert float(jnp.max(jnp.abs(found.x_0), initial=0)) <= 1
