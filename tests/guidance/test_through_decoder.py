"""Guidance of latents that sees pixels through a decoder: with a linear one it is the guidance of the pixels themselves.

The decoder is c Q, Q orthogonal. Latents z at the level (alpha, sigma) are then pixels x = c Q z at (alpha, c sigma), and a
mixture of latents is a mixture of pixels.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import criteria, guidance, operators, reverse, sampler, schedule
from guided_jax.analytic import GaussianMixture

SHAPE, SIZE, C = (2, 3, 1), 6, 0.6
Q, _ = np.linalg.qr(np.random.default_rng(0).standard_normal((SIZE, SIZE)))
LATENTS = GaussianMixture(
    jnp.array([0.4, 0.6]), jax.random.normal(jax.random.key(0), (2, *SHAPE)), jnp.array([0.5, 0.8]), jnp.array([0, 1])
)
OPERATORS = {
    "mask": operators.mask(jnp.array([1.0, 0.0, 1.0, 1.0, 0.0, 0.0]).reshape(SHAPE)),
    "blur": operators.gaussian_blur(2, 3, 0.6),
}
TABLES = {"cosine": schedule.cosine(100), "karras": schedule.karras(20, 0.01, 20.0)}
places = pytest.mark.parametrize(("name", "position"), [("cosine", 1), ("cosine", 50), ("cosine", 99), ("karras", 12)])
operators_given = pytest.mark.parametrize("operator", OPERATORS.values(), ids=OPERATORS)


def decode(z):
    return C * (jnp.asarray(Q, jnp.float32) @ z.reshape(-1)).reshape(SHAPE)


def encode(x):
    return (jnp.asarray(Q, jnp.float32).T @ x.reshape(-1)).reshape(SHAPE) / C


PIXELS = LATENTS._replace(means=jax.vmap(decode)(LATENTS.means), stds=C * LATENTS.stds)
NORMAL = GaussianMixture(jnp.ones(1), LATENTS.means[:1], jnp.array([0.7]))


def of_pixels(level):
    return level._replace(sigma=C * level.sigma)


def z_t(level):
    key = jax.random.key(3)
    return level.alpha * LATENTS.means[0] + level.sigma * jax.random.normal(key, SHAPE)


def truth():
    return decode(LATENTS.means[0] + 0.3)


def assert_same(latents, pixels):
    """The prediction of latents, decoded, is that of the pixels."""
    np.testing.assert_allclose(decode(latents.x_0), pixels.x_0, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(decode(latents.eps), C * pixels.eps, rtol=1e-4, atol=1e-4)


def both(by_latents, by_pixels):
    """level -> (the prediction of latents, that of the pixels): one program for every level."""
    return jax.jit(lambda level: (by_latents(z_t(level), level), by_pixels(decode(z_t(level)), of_pixels(level))))


def liked(x_0, _):
    return -jnp.sum(jnp.tanh(x_0 - 0.2) ** 2)


def liked_decoded(z_0, now):
    return liked(decode(z_0), now)


UNIVERSAL = both(
    guidance.universal(LATENTS.denoiser(), liked_decoded, 1.5), guidance.universal(PIXELS.denoiser(), liked, 1.5)
)
OFF_THE_SHELF = both(
    guidance.off_the_shelf(LATENTS.denoiser(), liked_decoded, 1.5, 0.7),
    guidance.off_the_shelf(PIXELS.denoiser(), liked, 1.5, 0.7 * C),
)


@places
def test_universal_guidance_by_a_classifier_of_pictures(name, position):
    assert_same(*UNIVERSAL(schedule.at(TABLES[name], position)))


@places
def test_off_the_shelf_guidance_by_a_classifier_of_pictures(name, position):
    assert_same(*OFF_THE_SHELF(schedule.at(TABLES[name], position)))


@pytest.mark.parametrize(("name", "position"), [("cosine", 50), ("karras", 12)])
def test_clip_guidance_through_a_decoder_sees_the_same_crops_of_the_picture(name, position):
    assert_same(*by_crops()(schedule.at(TABLES[name], position)))


@functools.cache
def by_crops():
    text = jnp.array([1.0, -2.0, 0.5, 0.3])
    embed = lambda crop, _: jnp.tanh(crop.reshape(-1) + 0.5)  # noqa: E731
    by_pixels = criteria.over_cutouts(criteria.spherical(embed, text), jax.random.key(1), 2, 2)
    by_latents = lambda z_0, now: by_pixels(decode(z_0), now)  # noqa: E731
    return both(
        guidance.universal(LATENTS.denoiser(), by_latents, 1.5), guidance.universal(PIXELS.denoiser(), by_pixels, 1.5)
    )


@places
@operators_given
def test_pigdm_through_a_decoder(name, position, operator):
    assert_same(*by_pigdm(operator)(schedule.at(TABLES[name], position)))


@functools.cache
def by_pigdm(operator):
    seen, y = operators.through(operator, decode, C**2), operator.forward(truth())
    return both(
        guidance.pigdm(LATENTS.denoiser(), seen, y, 0.2, 0.7, 1.3),
        guidance.pigdm(PIXELS.denoiser(), operator, y, 0.2, 0.7 * C, 1.3),
    )


@operators_given
def test_pigdm_through_a_decoder_is_the_exact_posterior_mean_of_normal_data(operator):
    """E[z_0 | z_t, y], by solving the normal equations of A c Q."""
    level, y = schedule.at(TABLES["cosine"], 40), operator.forward(truth())
    columns = jax.vmap(lambda z: operator.forward(decode(z)))(jnp.eye(SIZE).reshape(SIZE, *SHAPE))
    a = np.asarray(columns.reshape(SIZE, -1), np.float64).T
    alpha, sigma, noise, std = float(level.alpha), float(level.sigma), 0.2, 0.7
    precision = np.eye(SIZE) * (1 / std**2 + alpha**2 / sigma**2) + a.T @ a / noise**2
    right = np.ravel(NORMAL.means[0]) / std**2 + alpha / sigma**2 * np.ravel(z_t(level)) + a.T @ np.ravel(y) / noise**2
    seen = operators.through(operator, decode, C**2)
    found = jax.jit(guidance.pigdm(NORMAL.denoiser(), seen, y, noise, std))(z_t(level), level)
    np.testing.assert_allclose(found.x_0.reshape(-1), np.linalg.solve(precision, right), rtol=1e-3, atol=1e-3)


@operators_given
def test_dps_through_a_decoder(operator):
    """A step of z by zeta moves x by c^2 zeta: D D^T."""
    now, then = (schedule.at(TABLES["cosine"], position) for position in (60, 50))
    y, key = operator.forward(truth()), jax.random.key(0)
    by_latents = reverse.dps(reverse.ddim(), operators.through(operator, decode), y, 0.7)
    by_pixels = reverse.dps(reverse.ddim(), operator, y, C**2 * 0.7)

    @jax.jit
    def step(now, then):
        z_s, _ = by_latents.step(key, LATENTS.denoiser(), z_t(now), (), now, then)
        x_s, _ = by_pixels.step(key, PIXELS.denoiser(), decode(z_t(now)), (), of_pixels(now), of_pixels(then))
        return decode(z_s), x_s

    np.testing.assert_allclose(*step(now, then), rtol=1e-4, atol=1e-5)


def test_a_measurement_through_a_decoder_has_no_adjoint():
    operator = operators.through(OPERATORS["mask"], decode)
    with pytest.raises(ValueError, match="has no adjoint"):
        operators.pseudo_inverse(operator, jnp.ones(SHAPE))
    np.testing.assert_allclose(operator.forward(encode(truth())), OPERATORS["mask"].forward(truth()), atol=1e-6)


# --- pasting ---------------------------------------------------------------------------------------------------------

OBSERVED = OPERATORS["mask"].forward(jnp.ones(SHAPE))


@jax.jit
def pasted(level):
    """x_t, the prediction of the model, and the one with pixels pasted."""
    x_t, denoise = z_t(level), LATENTS.denoiser()
    return x_t, denoise(x_t, level), guidance.paste(denoise, OBSERVED, truth(), encode, decode)(x_t, level)


@places
def test_pasted_pixels_are_known_and_the_others_are_the_models(name, position):
    level = schedule.at(TABLES[name], position)
    x_t, plain, found = pasted(level)
    want = jnp.where(OBSERVED == 1, truth(), decode(plain.x_0))
    np.testing.assert_allclose(decode(found.x_0), want, rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(level.alpha * found.x_0 + level.sigma * found.eps, x_t, rtol=1e-4, atol=1e-4)


def test_nothing_pasted_is_the_model_itself():
    level = schedule.at(TABLES["cosine"], 50)
    nothing = guidance.paste(LATENTS.denoiser(), jnp.zeros(SHAPE), 9 * truth(), encode, decode)
    found, want = jax.jit(lambda x_t: (nothing(x_t, level), LATENTS.denoiser()(x_t, level)))(z_t(level))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found, want)


def test_a_painted_hole_fits_the_known_pixels_by_repeating():
    """Two modes of pixels on a diagonal: the known pixel says which; one pass often paints the other mode's."""
    means = jnp.array([[-1.0, -1.0], [1.0, 1.0]]).reshape(2, 1, 2, 1)
    turn = jnp.array([[0.6, -0.8], [0.8, 0.6]])
    to_pixels = lambda z: (turn @ z.reshape(2)).reshape(1, 2, 1)  # noqa: E731
    to_latents = lambda x: (turn.T @ x.reshape(2)).reshape(1, 2, 1)  # noqa: E731
    modes = GaussianMixture(jnp.ones(2), jax.vmap(to_latents)(means), jnp.array([0.15, 0.15]))
    known, image = jnp.array([1.0, 0.0]).reshape(1, 2, 1), jnp.array([1.0, 9.0]).reshape(1, 2, 1)
    denoise = guidance.paste(modes.denoiser(), known, image, to_latents, to_pixels)
    levels, nothing = schedule.respace(schedule.cosine(1000), 40), jnp.zeros((1, 2, 1))

    def wrong(repeats):
        step = reverse.repaint(reverse.ddpm(), nothing, nothing, repeats)
        draw = lambda key, x: to_pixels(sampler.sample(key, denoise, step, x, levels))  # noqa: E731
        x_T = jax.random.normal(jax.random.key(0), (400, 1, 2, 1))
        painted = jax.vmap(draw)(jax.random.split(jax.random.key(1), 400), x_T)
        return jnp.mean(painted[:, 0, 1] < 0), jnp.abs(painted[:, 0, 0] - 1).max()

    (once, off), (often, off_often) = (jax.jit(wrong, static_argnums=0)(repeats) for repeats in (1, 10))
    assert max(off, off_often) < 1e-3
    assert often < 0.6 * once
    assert often < 0.1
