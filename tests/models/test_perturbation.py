"""The U-Net made worse on purpose: the same parameters, another attention, and nothing else."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, schedule
from guided_jax.models import UNet, attention_blocks, attention_mass, blocks, blurred_queries, identity_attention

X = jax.random.normal(jax.random.key(7), (8, 8, 1))
UNET = UNet(
    out_channels=1,
    model_channels=8,
    channel_mult=(1, 2),
    num_res_blocks=1,
    attention_resolutions=(2,),
    num_groups=4,
    num_heads=2,
)


@pytest.fixture(scope="module")
def params():
    shapes = jax.eval_shape(UNET.init, jax.random.key(0), X, 0.0)
    rng = np.random.default_rng(1)
    return jax.tree.map(lambda a: jnp.asarray((0.3 * rng.standard_normal(a.shape)).astype(a.dtype)), shapes)


def heads(seed=0):
    return jax.random.normal(jax.random.key(seed), (3, 12, 2, 4))  # 3 x 4 positions, two heads of four channels


def test_identity_attention_is_the_values():
    q, k, v = heads(0), heads(1), heads(2)
    np.testing.assert_array_equal(identity_attention(q, k, v, (3, 4)), v)


@pytest.mark.parametrize("std", [0.0, 0.8, jnp.inf])
def test_queries_are_blurred_over_the_picture(std):
    """0 blurs nothing, inf takes the mean query, and between them each axis is a row of normalised weights."""
    q, k, v = heads(0), heads(1), heads(2)
    grid = np.asarray(q).reshape(3, 3, 4, 2, 4)

    def weights(n):
        distance = np.subtract.outer(np.arange(n), np.arange(n)) ** 2
        rows = np.eye(n) if std == 0 else np.exp(-distance / (2 * float(std) ** 2))
        return rows / rows.sum(1, keepdims=True)

    blurred = np.einsum("ij,bjwhc,vw->bivhc", weights(3), grid, weights(4)).reshape(q.shape)
    want = blocks.attend(jnp.asarray(blurred, jnp.float32), k, v)
    np.testing.assert_allclose(blurred_queries(std)(q, k, v, (3, 4)), want, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize(
    "names", [pytest.param(("middle_block",), marks=pytest.mark.slow), ("input_blocks_3", "output_blocks_1")]
)
def test_only_the_named_blocks_are_perturbed_and_the_parameters_stay(params, names):
    perturbations = identity_attention, blurred_queries(), blurred_queries(0.0)
    bad = [UNET.clone(perturb=each, perturb_blocks=names) for each in perturbations]
    plain, *others, unblurred = jax.jit(lambda params: [net.apply(params, X, 3.0) for net in (UNET, *bad)])(params)
    for net, other in zip(bad, others, strict=False):
        assert jnp.abs(other - plain).max() > 1e-3
        shapes = jax.eval_shape(net.init, jax.random.key(0), X, 0.0)
        assert jax.tree.structure(shapes) == jax.tree.structure(params)
    np.testing.assert_allclose(unblurred, plain, rtol=1e-4, atol=1e-4)


def test_the_names_of_the_blocks_with_attention(params):
    for net in (UNET, UNET.clone(channel_mult=(1, 1, 2), num_res_blocks=2, attention_resolutions=(1, 4))):
        made = jax.eval_shape(net.init, jax.random.key(0), X, 0.0)["params"]
        attending = {name.rpartition("_")[0] for name, block in made.items() if "qkv" in block}
        assert set(attention_blocks(net)) == attending
        assert len(attention_blocks(net)) == len(attending)
    for wrong in (("output_blocks_7",), ("middle",), ()):
        with pytest.raises(ValueError, match="middle_block"):
            jax.eval_shape(
                functools.partial(UNET.clone(perturb=identity_attention, perturb_blocks=wrong).apply, params, X, 3.0)
            )


def test_attention_mass_has_mean_1_and_any_leading_axes(params):
    of = jax.jit(lambda x: attention_mass(UNET, params, x, 3.0))
    mass = of(X)
    assert mass.shape == (8, 8)
    np.testing.assert_allclose(mass.mean(), 1, rtol=1e-5)
    np.testing.assert_array_equal(mass[::2, ::2], mass[1::2, 1::2])  # of the middle block, at half the size
    assert mass.std() > 1e-3
    batch = of(jnp.stack([X, 2 * X]))
    np.testing.assert_allclose(batch[0], mass, rtol=1e-4)


@pytest.mark.slow  # in the fast suite of denoisers: tests/guidance/test_guidance_algebra.py
def test_perturbed_attention_guides_an_unconditional_network(params):
    """At scale 1 the network itself; a strength and a blur may differ within a batch; self-attention guidance likewise."""
    level = schedule.at(schedule.cosine(1000), 500)

    def run(scale, std):
        good = denoiser.from_network(lambda x, t: UNET.apply(params, x, t))
        worse = UNET.clone(perturb=blurred_queries(std))
        bad = denoiser.from_network(lambda x, t: worse.apply(params, x, t))
        mask = lambda x, level: attention_mass(UNET, params, x, level.t - 1) > 1  # noqa: E731
        guided = [guidance.autoguidance(good, bad, scale), guidance.self_attention(good, scale, std, mask)]
        return [one(X, level).x_0 for one in (good, *guided)]

    stds = jnp.array([2.0, 2.0, 0.0, 1.0])
    plain, *guided = jax.jit(jax.vmap(run))(jnp.array([1.0, 3.0, 3.0, 0.0]), stds)
    for one in guided:
        assert jnp.all(jnp.isfinite(one))
        same = [bool(jnp.abs(a - b).max() < 1e-4 * jnp.abs(a).max()) for a, b in zip(plain, one, strict=True)]
        assert same == [True, False, True, False]
