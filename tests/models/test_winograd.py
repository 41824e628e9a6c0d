"""Winograd's convolution is the convolution: exactly in fractions, to rounding in float32, and used where it should be."""

from fractions import Fraction

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from guided_jax.models import UNet, prepare_params
from guided_jax.models.ops import convolution, winograd

SIZES = {"even": (8, 12), "cut": (7, 9), "small": (3, 4)}
PADS = {"one": ((1, 1), (1, 1)), "none": ((0, 0), (0, 0)), "uneven": ((2, 0), (0, 1))}
RNG = np.random.default_rng(0)


def arrays(size, pads, channels=(5, 6), count=3):
    out = (n + sum(pad) - 2 for n, pad in zip(size, pads, strict=True))
    shapes = (count, *size, channels[0]), (3, 3, *channels), (count, *out, channels[1])
    return tuple(jnp.asarray(RNG.standard_normal(shape), jnp.float32) for shape in shapes)


def plain(x, kernel, pads):
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=convolution.LAYOUT)


def away(a, b):
    return float(np.abs(np.asarray(a) - b).max() / np.sqrt(np.mean(np.square(b))))


@pytest.mark.parametrize("points", [winograd.POINTS, (0, 1, -1), (0, 1, -1, 2, -2, Fraction(1, 2), Fraction(-1, 2))])
def test_winograd_is_exact_in_fractions(points):
    points = tuple(Fraction(p) for p in points)
    a, g, b = winograd.matrices(points)
    d = np.array([Fraction(int(v)) for v in RNG.integers(-9, 9, len(points) + 1)])
    k = np.array([Fraction(int(v), 7) for v in RNG.integers(-9, 9, 3)])
    expected = [sum(d[i + j] * k[j] for j in range(3)) for i in range(len(points) - 1)]
    assert list(a @ ((g @ k) * (b @ d))) == expected


def test_the_flipped_kernel_has_the_same_transform_in_another_order():
    np.testing.assert_allclose(
        winograd.G[:, ::-1], winograd.FACTORS[:, None] * winograd.G[winograd.BACKWARDS], atol=1e-15
    )


@pytest.mark.parametrize("pads", PADS)
@pytest.mark.parametrize("size", SIZES)
def test_value_and_gradients(size, pads):
    pads = PADS[pads]

    @jax.jit
    def compute(x, kernel, cotangent):
        y, pull = jax.vjp(lambda x, kernel: plain(x, kernel, pads), x, kernel)
        transformed = winograd.transform(kernel)
        of_input = winograd.input_gradient(cotangent, transformed, pads)
        of_kernel = winograd.kernel_gradient(x, cotangent, pads)
        return (winograd.convolve(x, transformed, pads), of_input, of_kernel), (y, *pull(cotangent))

    for found, want in zip(*compute(*arrays(SIZES[size], pads)), strict=True):
        assert away(found, want) < 1e-5


@pytest.mark.parametrize(("part", "most", "parts"), [(1, 9, 5), (1, 2, 2), (2**20, 9, 1)])
def test_the_parts_of_a_batch_give_the_result_of_the_whole(monkeypatch, part, most, parts):
    pads = PADS["one"]
    x, kernel, cotangent = arrays((8, 8), pads, count=5)

    def compute():
        def both(x, kernel, cotangent):  # traced anew each time
            convolved = winograd.convolve(x, winograd.transform(kernel), pads)
            return convolved, winograd.kernel_gradient(x, cotangent, pads)

        return jax.jit(both)(x, kernel, cotangent)

    want = compute()
    monkeypatch.setattr(winograd, "PART", part)
    monkeypatch.setattr(winograd, "MOST_PARTS", most)
    assert len(winograd._parts(5, (8, 8), 6)) == parts
    for found, whole in zip(compute(), want, strict=True):
        assert away(found, whole) < 1e-5


def test_its_rounding_is_a_few_times_that_of_the_definition():
    x, kernel, _ = arrays((32, 32), PADS["one"], (64, 64))
    padded = np.pad(np.asarray(x, np.float64), ((0, 0), (1, 1), (1, 1), (0, 0)))
    exact = sum(
        padded[:, a : a + 32, b : b + 32] @ np.asarray(kernel[a, b], np.float64) for a in range(3) for b in range(3)
    )

    def rounding(y):
        return np.sqrt(np.mean(np.square(np.asarray(y) - exact)) / np.mean(np.square(exact)))

    direct = rounding(plain(x, kernel, PADS["one"]))
    assert rounding(winograd.convolve(x, winograd.transform(kernel), PADS["one"])) < min(1.5e-6, 4 * direct)


@pytest.mark.parametrize(
    ("size", "channels", "count", "used"),
    [
        ((8, 8), (32, 64), 6, True),
        ((8, 8), (32, 64), 5, False),  # too few tiles
        ((32, 32), (32, 64), 1, False),  # one picture
        ((8, 8), (31, 64), 6, False),
        ((8, 8), (64, 3), 6, False),
        ((6, 6), (32, 64), 50, False),  # half of the tiles' outputs would be cut away
        ((7, 7), (32, 64), 6, True),
    ],
)
def test_winograd_is_used_where_it_is_faster(size, channels, count, used):
    x, kernel = jnp.zeros((count, *size, channels[0])), jnp.zeros((3, 3, *channels))
    fast = lambda x, kernel, **other: convolution.conv_general_dilated(x, kernel, (1, 1), PADS["one"], **other)  # noqa: E731

    def convolutions(f, *arguments):
        return jax.jit(f).lower(*arguments).as_text().count("stablehlo.convolution")

    assert convolutions(fast, x, kernel) == (not used)
    each = jax.vmap(lambda x, kernel: fast(x[None], kernel)[0], (0, None))
    assert convolutions(each, x, kernel) == (not used)  # asked of the whole batch, not of the example
    assert convolutions(lambda *a: fast(*a, precision="highest"), x, kernel) == 1
    assert convolutions(fast, x.astype(jnp.bfloat16), kernel.astype(jnp.bfloat16)) == 1


def test_accelerators_do_not_trace_winograd(monkeypatch):
    x, kernel = jnp.zeros((8, 8, 8, 32)), jnp.zeros((3, 3, 32, 32))

    def tiles_in_the_gradient():
        f = lambda x, kernel: convolution.conv_general_dilated(x, kernel, (1, 1), PADS["one"]).sum()  # noqa: E731
        return str(jax.make_jaxpr(jax.grad(f, (0, 1)))(x, kernel)).count("f32[36,32,32]")

    network, params, *example = unet(False)
    assert tiles_in_the_gradient() > 0
    assert "winograd" in prepare_params(network, params, *example)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    assert tiles_in_the_gradient() == 0
    assert "winograd" not in prepare_params(network, params, *example)


def test_a_batch_of_kernels_or_of_nothing_is_computed_by_xla():
    x, kernel, _ = arrays((8, 8), PADS["one"], (32, 32), count=6)
    fast = lambda x, kernel, u: convolution.conv_general_dilated(x, kernel, (1, 1), PADS["one"], transformed=u)  # noqa: E731
    kernels = jnp.stack([kernel, 2 * kernel])
    transformed = jax.vmap(winograd.transform)(kernels)
    for u, axes in ((None, (None, 0, None)), (transformed, (None, 0, 0)), (transformed[0], (None, 0, None))):
        assert away(jax.vmap(fast, axes)(x, kernels, u), jax.vmap(lambda k: plain(x, k, PADS["one"]))(kernels)) < 1e-5
    assert jax.vmap(fast, (0, None, None))(x[:0, None], kernel, None).shape == (0, 1, 8, 8, 32)


def unet(plain, **options):
    network = UNet(1, 32, (1, 1), 1, (2,), num_head_channels=8, num_groups=4, plain_convolution=plain, **options)
    x, t = jnp.asarray(RNG.standard_normal((6, 8, 8, 1)), jnp.float32), jnp.full(6, 10.0)
    shapes = jax.eval_shape(network.init, jax.random.key(0), x, t)
    return (
        network,
        jax.tree.map(lambda leaf: jnp.asarray((0.1 * RNG.standard_normal(leaf.shape)).astype(leaf.dtype)), shapes),
        x,
        t,
    )


@pytest.mark.parametrize("remat", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_a_network_computes_the_same_with_kernels_transformed_before(remat):
    network, params, x, t = unet(False, remat=remat)
    ready = prepare_params(network, params, x[:1], t[:1])
    assert ready["winograd"]["input_blocks_1_0"]["in_layers_2"]["kernel"].shape == (36, 32, 32)
    assert "input_blocks_0_0" not in ready["winograd"]  # of one channel
    assert prepare_params(network, ready, x[:1], t[:1]) is ready
    slow = network.clone(plain_convolution=True)
    assert "winograd" not in prepare_params(slow, params, x[:1], t[:1])
    want = jax.jit(slow.apply)(params, x, t)
    for given in (params, ready):
        assert away(jax.jit(network.apply)(given, x, t), want) < 1e-4
    transforms = [str(jax.make_jaxpr(network.apply)(given, x, t)).count("f32[36,9]") for given in (params, ready)]
    assert transforms[0] > 0 == transforms[1]


def test_remat_keeps_what_the_convolutions_gave_as_of_plain_ones():
    def kept(plain):
        network, params, x, t = unet(plain, remat=True, remat_keep="products")
        backward = jax.eval_shape(lambda params: jax.vjp(lambda p: network.apply(p, x, t), params)[1], params)
        return sum(leaf.size for leaf in jax.tree.leaves(backward) if leaf.shape == (6, 8, 8, 32))

    assert kept(False) == kept(True) > 0
