"""Operators against their own matrices, and the nonlinear ones against what is known of them."""

import functools
import io

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from scipy import fft, ndimage

from guided_jax import numerics, operators

SHAPE = (4, 6, 2)
SIZE = int(np.prod(SHAPE))
TRUTH = jnp.sin(jnp.arange(SIZE, dtype=jnp.float32)).reshape(SHAPE)
LOW = (jnp.arange(4)[:, None] + jnp.arange(4)[None, :]) % 3 < 2  # of frequencies
KERNEL = jnp.array([[0.1, 0.5, 0.0], [0.0, 0.3, 0.1]])
LINEAR = {
    "mask": operators.mask((jax.random.uniform(jax.random.key(9), SHAPE) < 0.4).astype(jnp.float32)),
    "weights": operators.mask(jax.random.uniform(jax.random.key(8), SHAPE, minval=0.3)),
    "random_mask": operators.random_mask(jax.random.key(6), SHAPE, 0.5),
    "box_mask": operators.box_mask(SHAPE, 1, 2, 2, 3),
    "average_pool": operators.average_pool(2),
    "gaussian_blur": operators.gaussian_blur(4, 6, 0.7),
    "separable": operators.separable(
        jax.random.normal(jax.random.key(0), (3, 4)), jax.random.normal(jax.random.key(1), (7, 6))
    ),
    "matrix": operators.matrix(jax.random.normal(jax.random.key(7), (5, SIZE)), SHAPE),
    "convolution": operators.convolution(KERNEL, 4, 6),
    "motion_blur": operators.motion_blur(4, 6, 2.5, 30.0),
    "fourier": operators.fourier(SHAPE, LOW),
    "fourier of odd sides": operators.fourier((3, 5, 1), jnp.array([[1.0, 0.0, 0.5]])),
}
linear = pytest.mark.parametrize("name", LINEAR)


def shape_of(name):
    return (3, 5, 1) if "odd" in name else SHAPE


@functools.cache
def matrix(name):
    """A as a float64 matrix, column by column."""
    size = int(np.prod(shape_of(name)))
    columns = jax.jit(jax.vmap(LINEAR[name].forward))(jnp.eye(size).reshape(size, *shape_of(name)))
    return np.asarray(columns.reshape(size, -1), np.float64).T


def random(name, seed):
    """A random y of an operator."""
    like = jax.eval_shape(LINEAR[name].forward, jax.ShapeDtypeStruct(shape_of(name), jnp.float32))
    return jax.random.normal(jax.random.key(seed), like.shape)


@linear
def test_the_adjoint_is_the_transpose(name):
    a, y = matrix(name), random(name, 5)
    np.testing.assert_allclose(
        LINEAR[name].adjoint(y).reshape(-1), a.T @ np.asarray(y).reshape(-1), rtol=1e-4, atol=1e-5
    )
    x = jax.random.normal(jax.random.key(2), shape_of(name))
    np.testing.assert_allclose(LINEAR[name].forward(x).reshape(-1), a @ np.asarray(x).reshape(-1), rtol=1e-4, atol=1e-5)


@linear
@pytest.mark.parametrize(("gain", "noise"), [(1.0, 0.5), (0.3, 2.0), (0.0, 0.7)])
def test_solve_inverts(name, gain, noise):
    a, y = matrix(name), random(name, 6)
    seen = np.asarray(a @ a.T @ np.asarray(y, np.float64).reshape(-1)).reshape(y.shape)  # what A can give
    want = np.linalg.solve(gain * a @ a.T + noise * np.eye(len(a)), seen.reshape(-1))
    found = LINEAR[name].solve(jnp.asarray(seen, jnp.float32), gain, noise)
    np.testing.assert_allclose(found.reshape(-1), want, rtol=1e-3, atol=2e-4)


@linear
def test_the_pseudo_inverse_is_numpys(name):
    y = LINEAR[name].forward(jax.random.normal(jax.random.key(2), shape_of(name)))
    want = np.linalg.pinv(matrix(name), rcond=1e-3) @ np.asarray(y, np.float64).reshape(-1)
    np.testing.assert_allclose(operators.pseudo_inverse(LINEAR[name], y).reshape(-1), want, rtol=1e-2, atol=2e-3)
    assert jnp.all(LINEAR[name].solve(y, 0.0, 0.0) == 0)


@linear
def test_a_function_of_the_spectrum_is_that_of_the_matrix(name):
    a, y = matrix(name), random(name, 4)
    values, vectors = np.linalg.eigh(a @ a.T)
    want = vectors @ (np.tanh(3 * np.maximum(values, 0)) * (vectors.T @ np.asarray(y, np.float64).reshape(-1)))
    found = LINEAR[name].spectral(lambda values: jnp.tanh(3 * values), y)
    np.testing.assert_allclose(found.reshape(-1), want, rtol=1e-3, atol=1e-4)


def test_a_blur_keeps_constants_and_its_ends_are_identity_and_mean():
    i = np.arange(6)
    weights = np.exp(-((i[:, None] - i) ** 2) / (2 * 0.8**2))
    np.testing.assert_allclose(numerics.gaussian_matrix(6, 0.8), weights / weights.sum(1, keepdims=True), rtol=1e-5)
    constant = jnp.full(SHAPE, 0.7)
    for std in (0.0, 0.8, jnp.inf):
        blurred = operators.gaussian_blur(4, 6, std)
        np.testing.assert_allclose(blurred.forward(constant), constant, rtol=1e-5)
    np.testing.assert_allclose(operators.gaussian_blur(4, 6, 0.0).forward(TRUTH), TRUTH, rtol=1e-5)
    mean = jnp.broadcast_to(TRUTH.mean((0, 1)), SHAPE)
    np.testing.assert_allclose(operators.gaussian_blur(4, 6, jnp.inf).forward(TRUTH), mean, rtol=1e-3, atol=1e-5)


def test_masks_hide_whole_pixels():
    """Their places and shares may be traced."""
    observed = jax.jit(
        lambda share: operators.random_mask(jax.random.key(1), (50, 40, 3), share).forward(jnp.ones((50, 40, 3)))
    )
    found = observed(0.3)
    assert set(np.unique(found)) == {0.0, 1.0}
    np.testing.assert_array_equal(np.broadcast_to(found[..., :1], found.shape), found)
    assert abs(float(found.mean()) - 0.3) < 0.03
    box = jax.jit(lambda *place: operators.box_mask((5, 7, 1), *place).forward(jnp.ones((5, 7, 1))))(1, 4, 3, 2)
    want = np.ones((5, 7, 1))
    want[1:4, 4:6] = 0
    np.testing.assert_array_equal(box, want)


def test_a_convolution_is_scipys():
    want = [ndimage.convolve(np.asarray(TRUTH[..., c]), np.asarray(KERNEL), mode="wrap") for c in range(2)]
    found = LINEAR["convolution"].forward(TRUTH)
    np.testing.assert_allclose(found, np.stack(want, -1), rtol=1e-4, atol=1e-5)


def test_motion_is_a_mean_along_a_line():
    blurred = lambda *line: operators.motion_blur(4, 6, *line).forward(TRUTH)  # noqa: E731
    three = sum(jnp.roll(TRUTH, shift, 1) for shift in (-1, 0, 1)) / 3
    np.testing.assert_allclose(blurred(2.0), three, atol=1e-5)
    np.testing.assert_allclose(blurred(2.0, 180.0), three, atol=1e-5)
    three = sum(jnp.roll(TRUTH, shift, 0) for shift in (-1, 0, 1)) / 3
    np.testing.assert_allclose(blurred(2.0, 90.0), three, atol=1e-5)
    np.testing.assert_allclose(blurred(0.0, 20.0), TRUTH, atol=1e-5)
    rising = blurred(2 * np.sqrt(2), 45.0)  # to the right and up
    ends = jnp.roll(TRUTH, (-1, 1), (0, 1)) + jnp.roll(TRUTH, (1, -1), (0, 1))
    beside = sum(jnp.roll(TRUTH, 1, axis) + jnp.roll(TRUTH, -1, axis) for axis in (0, 1))
    near = 1 - np.sqrt(0.5)
    np.testing.assert_allclose(rising, (TRUTH + ends + near * beside) / (3 + 4 * near), atol=1e-4)
    np.testing.assert_allclose(blurred(3.0, 20.0).mean((0, 1)), TRUTH.mean((0, 1)), atol=1e-5)


@pytest.mark.parametrize("shape", [(4, 6, 2), (3, 5, 1), (4, 5, 1), (1, 6, 1)])
def test_all_frequencies_are_an_orthogonal_matrix(shape):
    size = int(np.prod(shape))
    operator = operators.fourier(shape, jnp.ones((1, 1)))
    columns = jax.vmap(operator.forward)(jnp.eye(size).reshape(size, *shape)).reshape(size, -1)
    np.testing.assert_allclose(columns @ columns.T, np.eye(size), atol=1e-5)
    assert np.count_nonzero(np.abs(columns).sum(0) > 1e-6) == size


# --- nonlinear -------------------------------------------------------------------------------------------------------


def test_a_nonlinear_measurement_has_no_adjoint():
    operator = operators.nonlinear(jnp.tanh)
    for call in (operator.adjoint, lambda y: operator.solve(y, 1.0, 0.1)):
        with pytest.raises(ValueError, match="no adjoint and no inverse; use reverse"):
            call(TRUTH)
    assert operator.spectral is None
    np.testing.assert_array_equal(operator.forward(TRUTH), jnp.tanh(TRUTH))


def test_a_clip_has_no_gradient_where_it_clips():
    operator = operators.clipping(2.0, -0.5, 1.0)
    x = jnp.array([-0.4, -0.2, 0.1, 0.7])
    np.testing.assert_allclose(operator.forward(x), [-0.5, -0.4, 0.2, 1.0], rtol=1e-6)
    np.testing.assert_array_equal(jax.grad(lambda x: operator.forward(x).sum())(x), [0.0, 2.0, 2.0, 0.0])


@pytest.mark.parametrize("quality", [10, 50, 92])
def test_jpeg_is_pillows(quality):
    """Up to the rounding of its integers; a pixel is 1 of 255. But for blocks with a cosine halfway between steps."""
    row, column = np.arange(16)[:, None], np.arange(24)[None, :]
    pixels = (128 + 60 * np.sin(row / 3) * np.cos(column / 4) + 30 * np.sin(row * column)).astype(np.uint8)
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "jpeg", quality=quality)
    picture = Image.open(file)
    want = np.asarray(picture, np.float32)
    blocks = (pixels - 128.0).reshape(2, 8, 3, 8).swapaxes(1, 2)
    cosines = fft.dctn(blocks, axes=(2, 3), norm="ortho") / np.reshape(picture.quantization[0], (8, 8))
    clear = np.abs(cosines - np.floor(cosines) - 0.5).min((2, 3)) > 0.005
    found = jax.jit(lambda q, x: operators.jpeg(q).forward(x))(quality, jnp.asarray(pixels[..., None] / 127.5 - 1))
    off = np.abs((found[..., 0] + 1) * 127.5 - want)
    assert clear.any()
    assert off[np.kron(clear, np.ones((8, 8))) == 1].max() < 1.2
    assert np.abs(pixels - want).max() > 2  # it loses something


def test_the_gradient_of_jpeg_is_that_of_no_rounding():
    x = jax.random.uniform(jax.random.key(0), (8, 16, 1), minval=-0.5, maxval=0.5)
    y, back = jax.vjp(operators.jpeg(20.0).forward, x)
    np.testing.assert_allclose(back(x)[0], x, atol=1e-5)
    np.testing.assert_allclose(operators.jpeg(20.0).forward(y), y, atol=1e-4)  # what is kept is kept again
    assert jnp.abs(y - x).max() > 0.1
    with pytest.raises(ValueError, match="a picture of 4x6 has no blocks"):
        operators.jpeg().forward(TRUTH)


def test_phases_are_lost():
    """The picture turned by 180 degrees has the same y, whose squares sum to those of the picture."""
    x = jax.random.uniform(jax.random.key(0), (4, 6, 1), minval=-1.0)
    operator = operators.phase_retrieval()
    y = operator.forward(x)
    assert y.shape == (8, 12, 1)
    np.testing.assert_allclose(operator.forward(x[::-1, ::-1]), y, atol=1e-5)
    np.testing.assert_allclose(jnp.square(y).sum(), jnp.square((x + 1) / 2).sum(), rtol=1e-5)
    assert jnp.abs(operator.forward(x[::-1]) - y).max() > 0.01
    black = jax.grad(lambda x: operator.forward(x).sum())(jnp.full((4, 6, 1), -1.0))
    assert jnp.isfinite(black).all()
    with pytest.raises(ValueError, match="oversampling is 0"):
        operators.phase_retrieval(0.5)
