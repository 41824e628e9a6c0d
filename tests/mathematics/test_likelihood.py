"""Likelihoods: against OpenAI's recorded bits per dimension, and against the densities of normal laws and the mixture."""

import json
import pathlib
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, grid, guidance, likelihood, reverse, schedule
from guided_jax.forward import Normal
from guided_jax.pretrained import adm
from tests.oracle import MIXTURE
from tests.reverse.test_reverse import VARIANCES, closed_form, nhwc

GOLDEN = pathlib.Path(__file__).parents[1] / "golden"
RECORDED = np.load(GOLDEN / "calc_bpd.npz", allow_pickle=False)
META = json.loads(str(RECORDED["meta"]))
TABLE = schedule.cosine(1000)
POINTS = jax.jit(jax.vmap(MIXTURE.sample))(jax.random.split(jax.random.key(0), 8))
EXACT = jax.jit(jax.vmap(lambda x: MIXTURE.log_density()(x, schedule.at(TABLE, 0))))(POINTS)


def recorded_network(case, item):
    """(x, ts) -> output of the recorded model, one example: ADM's U-Net or the closed form."""
    y = RECORDED[f"{case['key']}/y"][item]
    if case["model"] == "unet":
        state = {name[3:]: RECORDED[name] for name in RECORDED.files if name.startswith("sd/")}
        module, params = adm.load_unet(META["unet_config"], state)
        return jax.jit(lambda x, ts: module.apply(params, x, ts, jnp.int32(y)))
    return lambda x, ts: closed_form(x, ts, float(y), case["mean"], case["var"] == "learned_range")


def loop(function, xs):
    """`jax.lax.map` as a loop in Python."""
    return jax.tree.map(lambda *rows: jnp.stack(rows), *(function(x) for x in xs))


@pytest.mark.parametrize("case", META["cases"], ids=lambda case: case["key"])
@pytest.mark.parametrize("item", [0, pytest.param(1, marks=pytest.mark.slow)])
def test_the_bound_is_adms_bits_per_dimension(case, item, monkeypatch):
    """Every term, the decoder's and the prior's among them: its network, its noise, its respacing and clipping."""
    levels = {"linear": schedule.linear, "cosine": schedule.cosine}[case["schedule"]](case["steps"])
    levels = schedule.respace(levels, case["respacing"])
    stretch = 1000 / case["steps"] if case.get("rescale_timesteps") else 1.0
    denoise = denoiser.from_network(
        recorded_network(case, item),
        {"epsilon": "eps", "start_x": "x_0"}[case["mean"]],
        learned_variance=case["var"] == "learned_range",
        time=lambda level: (level.t - 1) * stretch,
    )
    denoise = guidance.clip(denoise) if case.get("clip", True) else denoise
    noises = iter(nhwc(RECORDED[f"{case['key']}/noises"][:, item]))
    monkeypatch.setattr(jax.random, "normal", lambda key, shape, dtype: next(noises))
    x_0 = nhwc(RECORDED[f"{case['key']}/x_start"][item])
    monkeypatch.setattr(jax.lax, "map", loop)  # so that each step draws its own recorded noise
    bound = likelihood.variational_bound(jax.random.key(0), denoise, x_0, levels, VARIANCES[case["var"]], prior_std=1.0)
    bits = lambda nats: likelihood.bits_per_dim(nats, x_0.size)  # noqa: E731
    np.testing.assert_allclose(bits(bound.terms), RECORDED[f"{case['key']}/vb"][item], rtol=2e-3, atol=2e-3)
    np.testing.assert_allclose(bits(bound.prior), RECORDED[f"{case['key']}/prior_bpd"][item], rtol=1e-3, atol=1e-6)
    np.testing.assert_allclose(bits(bound.total), RECORDED[f"{case['key']}/total_bpd"][item], rtol=1e-3)
    for got, name in ((bound.mse_x_0, "xstart_mse"), (bound.mse_eps, "mse")):
        np.testing.assert_allclose(got, RECORDED[f"{case['key']}/{name}"][item], rtol=1e-3, atol=1e-6)


def test_the_decoder_and_the_divergence_are_adms():
    recorded = np.load(GOLDEN / "likelihood.npz", allow_pickle=False)
    x, mean, log_scale, want = (recorded[name][0] for name in ("x", "means", "log_scales", "log_probs"))
    each = jax.vmap(lambda x, m, s: likelihood.discretized(x[None], Normal(m[None], jnp.exp(2 * s)[None])))
    got = np.asarray(each(jnp.asarray(x), jnp.asarray(mean), jnp.asarray(log_scale)))
    near = (
        want > -8
    )  # below, the difference of two float32 values of the distribution function is a few of its last bits
    assert near.sum() > 100
    np.testing.assert_allclose(got[near], want[near], atol=2e-3)
    assert np.all(got[want < -10] < -9)
    m1, v1, m2, v2 = (jnp.asarray(recorded[f"kl/{name}"]) for name in ("mean1", "logvar1", "mean2", "logvar2"))
    total = likelihood.normal_kl(Normal(m1, jnp.exp(v1)), Normal(m2, jnp.exp(v2)))
    np.testing.assert_allclose(total, recorded["kl/out"].sum(), rtol=1e-5)


@jax.jit
@partial(jax.vmap, in_axes=(0, None, None))
def density(x, levels, table):
    """One program for all tables of a length, and for all grids of one."""
    return likelihood.log_density(MIXTURE.denoiser(), x, levels, table)


@pytest.mark.parametrize(("table", "make"), [("cosine", grid.uniform), ("karras", grid.karras), ("flow", grid.uniform)])
def test_the_flows_density_is_the_mixtures(table, make):
    full = {"cosine": TABLE, "karras": schedule.karras(1000, 0.002, 100.0), "flow": schedule.flow(1000)}[table]
    np.testing.assert_allclose(density(POINTS, make(full, 60), full), EXACT, atol=2e-3)


# The class has a mean, of which the prior N(0, sigma_T^2) knows nothing: hence a table up to 2000.
@pytest.mark.parametrize(("table", "make"), [(TABLE, grid.uniform), (schedule.karras(200, 0.002, 2e3), grid.karras)])
def test_the_density_of_a_class_and_at_a_noisy_level(table, make):
    """The conditional flow gives log p(x | y); begun at a level, log p(x_t), VP or VE."""
    levels = make(table, 80)
    first = int(jnp.argmin(jnp.abs(levels.sigma / levels.alpha - 0.6)))
    start, level = schedule.NoiseLevel(*(column[first:] for column in levels)), schedule.at(levels, first)
    x = jnp.array([0.4, 0.2])
    got = jax.jit(lambda x: likelihood.log_density(MIXTURE.denoiser(1), x, start, table))(x)
    want = MIXTURE.log_density()(x, level) + MIXTURE.log_prob(1)(x, level) - jnp.log(0.5)
    np.testing.assert_allclose(got, want, atol=3e-3)


def test_the_order_of_the_density_is_4():
    errors = []
    for count in (8, 16):
        found = density(POINTS, grid.uniform(TABLE, count), TABLE)
        errors.append(float(jnp.abs(found - EXACT).max()))
    assert errors[0] / errors[1] > 9


def test_hutchinson_is_right_on_average():
    """And exact for a divergence that is the same in every direction of signs: one normal law."""
    levels = grid.uniform(TABLE, 20)
    keys = jax.random.split(jax.random.key(1), 400)
    one = lambda key, probes: likelihood.log_density(  # noqa: E731
        MIXTURE.denoiser(), POINTS[0], levels, TABLE, likelihood.hutchinson(key, probes)
    )
    found = np.asarray(jax.jit(jax.vmap(lambda key: one(key, 1)))(keys))
    np.testing.assert_allclose(found.mean(), EXACT[0], atol=4 * found.std() / 20 + 1e-3)
    assert found.std() > 0.05
    fewer = np.asarray(jax.jit(jax.vmap(lambda key: one(key, 8)))(keys))
    np.testing.assert_allclose(fewer.std() / found.std(), 8**-0.5, rtol=0.25)


@pytest.mark.parametrize("variance", [pytest.param("small", marks=pytest.mark.slow), "large", "optimal"])
def test_the_bound_is_an_upper_bound_that_closes_with_more_steps(variance):
    """-log p(x_0) from above on average, by less the more steps; closed from the first step on by the optimal variance."""
    rule = reverse.optimal_variance(reverse.normal_spread(0.35)) if variance == "optimal" else variance
    one = MIXTURE._replace(weights=jnp.ones(1), means=MIXTURE.means[1:2], stds=MIXTURE.stds[1:2], labels=None)
    keys = jax.random.split(jax.random.key(0), 2000)
    gaps = {}
    for steps in (4, 40):
        levels = grid.uniform(TABLE, steps)

        def gap(key, levels=levels):
            key_x, key_bound = jax.random.split(key)
            x_0 = one.sample(key_x)
            bound = likelihood.variational_bound(key_bound, one.denoiser(), x_0, levels, rule, likelihood.continuous)
            return bound.total + one.log_density()(x_0, schedule.at(levels, 0))

        found = np.asarray(jax.jit(jax.vmap(gap))(keys))
        gaps[steps] = (found.mean(), 4 * found.std() / 2000**0.5)
    for mean, error in gaps.values():
        assert mean > -error
    if variance == "optimal":
        assert abs(gaps[4][0]) < gaps[4][1]
    if variance == "large":
        assert gaps[4][0] > gaps[40][0] + 0.1


@pytest.mark.parametrize("of", [likelihood.log_density, partial(likelihood.variational_bound, jax.random.key(0))])
def test_an_eps_network_is_refused_where_nothing_is_left_of_x_0(of):
    denoise = denoiser.from_network(lambda x, t: 0.1 * x, "eps")
    with pytest.raises(ValueError, match="alpha = 0"):
        of(denoise, jnp.ones(2), schedule.flow(5))


def test_bits_per_dim():
    np.testing.assert_allclose(likelihood.bits_per_dim(jnp.log(2.0) * 30, 10), 3.0, rtol=1e-6)
