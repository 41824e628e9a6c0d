"""The fast convolution is the plain one, value and gradients, under every transformation that the sampler uses."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from guided_jax.models.ops import convolution, winograd

# kernel size, stride, padding (low, high), image size
CASES = {
    "3x3": (3, 1, (1, 1), (8, 8)),
    "3x3 odd non-square": (3, 1, (1, 1), (7, 4)),
    "3x3 unpadded": (3, 1, (0, 0), (6, 5)),
    "3x3 stride 2 even": (3, 2, (1, 1), (8, 6)),
    "3x3 stride 2 odd": (3, 2, (1, 1), (7, 5)),
    "3x3 stride 2 one-sided": (3, 2, (0, 1), (6, 7)),
    "1x1": (1, 1, (0, 0), (4, 6)),
    "1x1 stride 2": (1, 2, (0, 0), (5, 6)),
    "5x5 stride 3": (5, 3, (2, 2), (9, 10)),
}


ROUNDING = {"rtol": 1e-5}  # the greatest difference, in units of what is compared


@pytest.fixture(params=["direct", "winograd"], autouse=True)
def way(request, monkeypatch):
    """Everything holds of both: winograd's has no size here that would be too small for it."""
    if request.param == "winograd":
        monkeypatch.setitem(ROUNDING, "rtol", 5e-5)
        for name, least in {"FEWEST_CHANNELS": 1, "FEWEST_TILES": 1, "LEAST_USED": 0.0}.items():
            monkeypatch.setattr(winograd, name, least)
    return request.param


def plain(x, kernel, stride=1, pads=((1, 1), (1, 1))):
    return lax.conv_general_dilated(x, kernel, (stride, stride), pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def fast(x, kernel, stride=1, pads=((1, 1), (1, 1))):
    return convolution.conv_general_dilated(x, kernel, (stride, stride), pads)


def arrays(size=(6, 6), kernel=3, batch=2, dtype=jnp.float32):
    a, b = jax.random.split(jax.random.key(0))
    x = jax.random.normal(a, (batch, *size, 3), dtype)
    return x, jax.random.normal(b, (kernel, kernel, 3, 4), dtype)


def input_gradient(conv, x, kernel, **options):
    return jax.grad(lambda x: jnp.sum(jnp.sin(conv(x, kernel, **options))))(x)


def close(a, b, rtol=None):
    rtol = rtol or ROUNDING["rtol"]
    a, b = np.asarray(a, np.float64), np.asarray(b, np.float64)
    assert a.shape == b.shape
    assert np.abs(a - b).max() <= rtol * np.sqrt(np.mean(b**2))


@pytest.mark.parametrize("case", CASES)
def test_value_and_gradients(case):
    k, stride, pad, size = CASES[case]
    x, kernel = arrays(size, k)

    def both(conv):
        y, pull = jax.vjp(lambda x, kernel: conv(x, kernel, stride, (pad, pad)), x, kernel)
        return y, *pull(jnp.cos(y))

    for ours, theirs in zip(jax.jit(lambda: both(fast))(), jax.jit(lambda: both(plain))(), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize("stride", [1, 2])
def test_the_accelerators_own_form_is_the_same_gradient(stride):
    x, kernel = arrays((7, 6))
    y, pull = jax.vjp(lambda x: plain(x, kernel, stride), x)
    spec = convolution.Spec(x.shape[1:3], (3, 3), (stride, stride), ((1, 1), (1, 1)), None, suited=False)
    (expected,) = pull(y)
    close(convolution._transposed(y, kernel, spec), expected)
    close(convolution._as_convolution(y, kernel, spec), expected)


def test_bfloat16():
    x, kernel = arrays(dtype=jnp.bfloat16)
    ours, theirs = (jax.jit(lambda x, c=c: input_gradient(c, x, kernel))(x) for c in (fast, plain))
    assert ours.dtype == jnp.bfloat16
    close(ours.astype(jnp.float32), theirs.astype(jnp.float32), rtol=0.05)


def test_vmap_scan_and_pmap():
    x, kernel = arrays(batch=8)
    step = 0.1

    def walk(conv, x):
        return lax.scan(lambda x, _: (x - step * input_gradient(conv, x, kernel), None), x, None, length=3)[0]

    expected = jax.jit(lambda x: walk(plain, x))(x)
    close(jax.jit(lambda x: walk(fast, x))(x), expected)
    close(jax.jit(jax.vmap(lambda x: walk(fast, x[None])[0]))(x), expected)
    close(jax.pmap(lambda x: walk(fast, x))(x.reshape(4, 2, *x.shape[1:])).reshape(x.shape), expected)


def test_one_kernel_per_example():
    x, kernel = arrays(batch=3)
    kernels = jnp.stack([kernel, 2 * kernel, -kernel])

    def gradients(conv):
        one = jax.grad(lambda x, k: jnp.sum(jnp.sin(conv(x[None], k))), (0, 1))
        return jax.jit(jax.vmap(one))(x, kernels)

    for ours, theirs in zip(gradients(fast), gradients(plain), strict=True):
        close(ours, theirs)


@pytest.mark.parametrize(("part", "most", "convolutions"), [(1, 8, 5), (2 * 6 * 6 * 4, 8, 3), (1, 2, 2), (10**6, 8, 1)])
def test_the_kernels_gradient_by_parts_of_the_batch(monkeypatch, way, part, most, convolutions):
    if way == "winograd":
        pytest.skip("has parts of its own")
    monkeypatch.setattr(convolution, "PART", part)
    monkeypatch.setattr(convolution, "MOST_PARTS", most)
    x, kernel = arrays(batch=5)

    def gradient(conv):
        return lambda kernel: jax.grad(lambda kernel: jnp.sum(jnp.sin(conv(x, kernel))))(kernel)

    close(gradient(fast)(kernel), gradient(plain)(kernel))
    text = jax.jit(gradient(fast)).lower(kernel).compile().as_text()
    assert sum(" convolution(" in line for line in text.splitlines()) == 1 + convolutions  # and the forward one


@pytest.mark.parametrize("stride", [1, 2])
def test_reverse_over_reverse(stride):
    x, kernel = arrays()

    def second(conv):
        gradient = jax.grad(lambda x, k: jnp.sum(input_gradient(conv, x, k, stride=stride) ** 2), (0, 1))
        return jax.jit(gradient)(x, kernel)

    for ours, theirs in zip(second(fast), second(plain), strict=True):
        close(ours, theirs, rtol=1e-4)


def test_leading_axes_through_flax():
    layer = nn.Conv(4, (3, 3), padding=((1, 1), (1, 1)), conv_general_dilated=convolution.conv_general_dilated)
    x, _ = arrays(batch=6)
    params = layer.init(jax.random.key(0), x)
    y = layer.apply(params, x)
    close(layer.apply(params, x.reshape(2, 3, *x.shape[1:])), y.reshape(2, 3, *y.shape[1:]))
    close(layer.apply(params, x[0]), y[0])
    close(nn.Conv(4, (3, 3)).apply(params, x), y)


def test_an_input_gradient_under_vmap_computes_no_weight_gradient(way):
    x, kernel = arrays()
    product = " dot(" if way == "winograd" else "convolution"

    def convolutions(f):
        text = jax.jit(f).lower(x, kernel).compile().as_text()
        return sum(product in line.split("metadata")[0] for line in text.splitlines() if " = " in line)

    batched = convolutions(lambda x, k: input_gradient(fast, x, k))
    vmapped = convolutions(lambda x, k: jax.vmap(lambda x: input_gradient(fast, x[None], k)[0])(x))
    everything = convolutions(lambda x, k: jax.grad(lambda x, k: jnp.sum(jnp.sin(fast(x, k))), (0, 1))(x, k))
    assert vmapped == batched < everything


def test_unsupported_convolutions_are_refused():
    x, kernel = arrays()
    with pytest.raises(ValueError, match="plain_convolution"):
        convolution.conv_general_dilated(x, kernel, (1, 1), ((1, 1), (1, 1)), rhs_dilation=(2, 2))
    with pytest.raises(ValueError, match="plain_convolution"):
        convolution.conv_general_dilated(
            x, kernel, (1, 1), ((1, 1), (1, 1)), dimension_numbers=("NHWC", "OHWI", "NHWC")
        )
