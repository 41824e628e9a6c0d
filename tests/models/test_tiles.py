"""Tiles: networks that see one position are computed exactly, others are blended linearly, in the memory of a tile."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import AutoencoderKL, tiles
from guided_jax.models.blocks import downsample, upsample
from guided_jax.pretrained import autoencoder

POINTWISE = {
    "the same": jnp.tanh,
    "larger": lambda x: upsample(jnp.tanh(x)),
    "smaller": lambda x: downsample(jnp.tanh(x)),
}
SIZES = [(8, 8), (10, 14), (24, 10), (6, 36)]
SMALL = AutoencoderKL(block_out_channels=(8, 16, 16), layers_per_block=1, norm_num_groups=4)


@pytest.mark.parametrize("name", POINTWISE)
@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize("overlap", [0, 0.25, 0.5, 0.9])
def test_a_network_of_single_positions_is_computed_exactly(name, size, overlap):
    """And its gradient; whatever the overlaps, of two tiles and of more, to the rounding of their float32 weights."""
    network = POINTWISE[name]

    def in_tiles(x):
        return tiles.apply_in_tiles(network, x, 8, overlap)

    with jax.enable_x64(True):
        x = jax.random.normal(jax.random.key(0), (2, *size, 3), jnp.float64)
        want, pull = jax.vjp(network, x)
        found, pull_tiles = jax.vjp(in_tiles, x)
        np.testing.assert_allclose(found, want, rtol=0, atol=2e-7)
        np.testing.assert_allclose(pull_tiles(want)[0], pull(want)[0], rtol=0, atol=2e-7)


def test_tiles_are_blended_linearly():
    """Two tiles of 8 of 12 positions, each of which the network makes its first number of: 4 positions between them."""
    first = lambda x: jnp.broadcast_to(x[..., :1, :1, :], x.shape)  # noqa: E731
    x = jnp.arange(12.0)[:, None, None]  # the tiles start at 0 and 4
    ramp = [0, 0, 0, 0, 0.5, 1.5, 2.5, 3.5, 4, 4, 4, 4]
    np.testing.assert_allclose(tiles.apply_in_tiles(first, x, 8, 0.5)[:, 0, 0], ramp, atol=1e-6)
    across = tiles.apply_in_tiles(first, x.reshape(1, 12, 1), 8, 0.5)
    np.testing.assert_allclose(across[0, :, 0], ramp, atol=1e-6)


@pytest.mark.parametrize(("length", "overlap", "count"), [(64, 0.25, 1), (65, 0.25, 2), (112, 0.25, 2), (128, 0.25, 3)])
def test_tiles_cover_a_length_evenly(length, overlap, count):
    """With no tile more than the overlap needs, all of the same size."""
    axis = tiles.place(length, 64, overlap, tiles.Fraction(8))
    assert len(axis.starts) == count
    assert axis.starts[0] == 0
    assert axis.starts[-1] == length - 64
    assert np.all(np.diff(axis.starts) <= 64 * (1 - overlap))
    np.testing.assert_array_equal(axis.y_starts, 8 * axis.starts)


def test_one_tile_is_the_network_itself():
    calls = []
    x = jnp.ones((2, 8, 6, 3))
    assert tiles.apply_in_tiles(lambda x: calls.append(x.shape) or x, x, 8) is x
    assert calls == [x.shape]


@pytest.fixture(scope="module")
def params():
    leaves, tree = jax.tree.flatten(autoencoder.shapes(SMALL))
    rng = np.random.default_rng(0)
    return jax.tree.unflatten(
        tree, [jnp.asarray((0.2 * rng.standard_normal(leaf.shape)).astype(jnp.float32)) for leaf in leaves]
    )


def test_an_autoencoder_in_tiles(params):
    """The tiles of the decoder by hand: weights of a hat along the height; and shapes of the encoder's two outputs."""
    z = jax.random.normal(jax.random.key(0), (2, 6, 4, 4))
    decode = jax.jit(lambda z: SMALL.apply(params, z, method="decode"))
    found = jax.jit(lambda z: tiles.apply_in_tiles(decode, z, 4, 0.5))(z)
    rise = np.minimum((np.arange(16) + 0.5) / 8, 1)[:, None, None]
    want = np.zeros((2, 24, 16, 3), np.float32)
    want[:, :16] += np.asarray(decode(z[:, :4])) * rise[::-1]
    want[:, 8:] += np.asarray(decode(z[:, 2:])) * rise
    np.testing.assert_allclose(found, want, atol=1e-4)

    encode = lambda x: SMALL.apply(params, x, method="encode")  # noqa: E731
    image = jax.ShapeDtypeStruct((2, 24, 36, 3), jnp.float32)
    moments = jax.eval_shape(lambda x: tiles.apply_in_tiles(encode, x, 16), image)
    assert [leaf.shape for leaf in moments] == [(2, 6, 9, 4)] * 2


def temporary(function, *arguments):
    """Return the bytes that the compiled function takes beside its arguments and results."""
    return jax.jit(function).lower(*arguments).compile().memory_analysis().temp_size_in_bytes


def test_the_memory_is_that_of_a_tile():
    """Of the gradient through a decoder, for 16 tiles: less than a third of that of the whole."""
    tiny = AutoencoderKL(block_out_channels=(8,), layers_per_block=1, norm_num_groups=4, mid_block_add_attention=False)
    params, z = autoencoder.shapes(tiny), jax.ShapeDtypeStruct((48, 48, 4), jnp.float32)

    def memory(decode):
        gradient = jax.grad(lambda z, params: jnp.sum(decode(lambda z: tiny.apply(params, z, method="decode"), z)))
        return temporary(gradient, z, params)

    assert memory(lambda decode, z: tiles.apply_in_tiles(decode, z, 16)) < memory(lambda decode, z: decode(z)) / 3


@pytest.mark.slow
@pytest.mark.parametrize(("method", "shape", "side"), [("decode", (128, 128, 4), 64), ("encode", (1024, 1024, 3), 512)])
def test_1024_pixels_of_the_published_autoencoder(method, shape, side, capsys):
    """At once, which the attention's parts bound, and in tiles of 512 pixels: a quarter of the memory, under a GiB."""
    network = AutoencoderKL()
    params, x = autoencoder.shapes(network), jax.ShapeDtypeStruct(shape, jnp.float32)

    def in_tiles(params, x):
        return tiles.apply_in_tiles(lambda x: network.apply(params, x, method=method), x, side)

    whole = temporary(lambda params, x: network.apply(params, x, method=method), params, x) / 2**30
    tiled = temporary(in_tiles, params, x) / 2**30
    with capsys.disabled():
        print(f"\n{method} 1024x1024: {whole:.2f} GiB at once, {tiled:.2f} GiB in tiles of 512x512")
    assert tiled < min(1, 0.3 * whole)
    assert whole < 4


@pytest.mark.parametrize(
    ("side", "overlap", "message"),
    [
        (0, 0.25, "tiles of side 0"),
        (4, 1.0, "an overlap in"),
        (4, -0.1, "with overlap -0.1"),
        (5, 0.25, r"makes \(4, 6\) positions of \(8, 12\), and \(2, 2\) of a tile of \(5, 5\)"),
    ],
)
def test_tiles_of_no_use_are_refused(side, overlap, message):
    with pytest.raises(ValueError, match=message):
        tiles.apply_in_tiles(downsample, jnp.ones((8, 12, 1)), side, overlap)


def test_a_tile_that_the_network_cannot_halve_is_refused(params):
    with pytest.raises(ValueError, match="an image of 18x18 cannot be halved 2 times"):
        tiles.apply_in_tiles(lambda x: SMALL.apply(params, x, method="encode"), jnp.ones((24, 24, 3)), 18)
