"""The autoencoder's shapes, batch axes and refusals; its numbers are the reference's in pretrained/test_autoencoder.py."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import AutoencoderKL
from guided_jax.models.autoencoder import Attention, ResNet, attend_in_parts
from guided_jax.models.blocks import attend
from guided_jax.models.ops.norm import GroupNorm
from guided_jax.pretrained.autoencoder import shapes

SMALL = AutoencoderKL(block_out_channels=(8, 16), layers_per_block=1, norm_num_groups=4)


@pytest.fixture(scope="module")
def params():
    leaves, tree = jax.tree.flatten(shapes(SMALL))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [jnp.asarray((0.2 * rng.standard_normal(leaf.shape)).astype(jnp.float32)) for leaf in leaves]
    )


@pytest.mark.slow
def test_any_batch_axes_give_the_same(params):
    """One example, and two batch axes; with `remat` too, whose parameters have the same names."""
    images = jax.random.normal(jax.random.key(1), (2, 3, 8, 12, 3))
    apply = jax.jit(SMALL.apply)
    want = jnp.stack([jnp.stack([apply(params, image) for image in row]) for row in images])
    assert want.shape == images.shape
    np.testing.assert_allclose(apply(params, images), want, atol=1e-5)
    again = SMALL.clone(remat=True)
    np.testing.assert_allclose(jax.jit(again.apply)(params, images), want, atol=1e-5)


@pytest.mark.parametrize("block", [ResNet(8, 2), Attention(2)])
def test_no_layer_starts_at_zero(block):
    """So that all of them train from the first step: kernels and biases as torch draws them."""
    params = block.init(jax.random.key(0), jnp.zeros((2, 2, 4)))["params"]
    layers = {name: layer for name, layer in params.items() if "norm" not in name}
    assert len(layers) >= 3
    for layer in layers.values():
        limit = np.prod(layer["kernel"].shape[:-1]) ** -0.5
        for leaf in jax.tree.leaves(layer):
            assert 0.5 * limit < jnp.abs(leaf).max() <= limit


def test_the_forward_mode_of_a_plain_convolution(params):
    """A derivative along z is the gradient's product with that direction."""
    z = jax.random.normal(jax.random.key(2), (2, 2, 4))

    @jax.jit
    def both(z):
        decode = lambda net, z: net.apply(params, z, method="decode").sum()  # noqa: E731
        _, along = jax.jvp(lambda z: decode(SMALL.clone(plain_convolution=True), z), (z,), (z,))
        return along, jnp.vdot(jax.grad(lambda z: decode(SMALL, z))(z), z)

    np.testing.assert_allclose(*both(z), rtol=1e-3)


@pytest.mark.parametrize("most", [1152, 500, 240, 1])
def test_attention_in_parts_is_attention(most):
    """1152 weights: 24 positions, 2 heads; in one part, in 3, in 5 of which one is shorter, and alone."""
    q, k, v, cotangent = jax.random.normal(jax.random.key(0), (4, 3, 24, 2, 5))
    want, pull = jax.vjp(attend, q, k, v)
    found, pull_parts = jax.vjp(lambda q, k, v: attend_in_parts(q, k, v, most), q, k, v)
    np.testing.assert_allclose(found, want, rtol=1e-5, atol=1e-6)
    for one, other in zip(pull_parts(cotangent), pull(cotangent), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)


def test_attention_in_parts_takes_less_memory():
    """2048 positions have 16 MiB of weights, 1 MiB at a time here, for the gradient too."""
    q = jax.ShapeDtypeStruct((2048, 1, 8), jnp.float32)

    def memory(attention):
        gradient = jax.grad(lambda q, k, v: jnp.sum(attention(q, k, v) ** 2), (0, 1, 2))
        return jax.jit(gradient).lower(q, q, q).compile().memory_analysis().temp_size_in_bytes

    assert memory(attend) > 2**24
    assert memory(lambda q, k, v: attend_in_parts(q, k, v, 2**18)) < 2**23


@pytest.mark.parametrize(
    ("method", "shape", "message"),
    [
        (
            "encode",
            (9, 8, 3),
            "an image of 9x8 cannot be halved 1 times: both sides must be multiples of 2, .* to 10x8",
        ),
        ("encode", (0, 8, 3), "an image of 0x8"),
        ("encode", (8, 8, 1), r"an image has the shape \(..., height, width, 3\) here, and this one has \(8, 8, 1\)"),
        ("decode", (8, 8, 3), r"a latent has the shape \(..., height, width, 4\)"),
    ],
)
def test_a_shape_that_does_not_fit_is_refused(params, method, shape, message):
    with pytest.raises(ValueError, match=message):
        jax.eval_shape(lambda x: SMALL.apply(params, x, method=method), jnp.zeros(shape))


def test_widths_that_the_norm_groups_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="10 of block_out_channels cannot be split into 4 norm groups"):
        SMALL.clone(block_out_channels=(8, 10)).init(jax.random.key(0), jnp.zeros((2, 2, 3)))


@pytest.mark.parametrize("backend", ["cpu", "gpu"])
def test_the_epsilon_of_a_group_norm(monkeypatch, backend):
    """(x - mean) / sqrt(var + epsilon), in the forms of both kinds of backend; x has two groups of little variance."""
    monkeypatch.setattr(jax, "default_backend", lambda: backend)
    x = 1e-3 * np.random.default_rng(0).standard_normal((5, 6, 4)).astype(np.float32)
    grouped = x.reshape(30, 2, 2)
    centred = grouped - grouped.mean((0, 2), keepdims=True)
    want = centred / np.sqrt(np.square(centred).mean((0, 2), keepdims=True) + 1e-6)
    params = {"params": {"scale": jnp.ones(4), "bias": jnp.zeros(4)}}
    found = GroupNorm(2, epsilon=1e-6).apply(params, jnp.asarray(x))
    np.testing.assert_allclose(found, want.reshape(x.shape), atol=1e-5)
