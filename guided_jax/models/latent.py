"""A model's latents: x = (z - shift) scale of the z that an autoencoder draws for an image, and the image back from x.

The functions are those of `model.Model`: for one example, with params["autoencoder"], the Flax variables of a module such
as `models.autoencoder.AutoencoderKL`, among the parameters. Any number of leading batch axes works as well.

Source: [LDM] Rombach et al. 2112.10752, section 3.1 and appendix G (the scale); a shift and a scale for each channel as in
[EDM2] Karras et al. 2312.02696, appendix B.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

Encode = Callable[[PyTree, Array, Array], Array]  # (params, key, image) -> x
Decode = Callable[[PyTree, Array], Array]  # (params, x) -> image

PICTURE = (-1.0, 1.0)


def sample_posterior(
    key: Array, mean: Float[Array, "*batch h w c"], log_variance: Float[Array, "*batch h w c"]
) -> Float[Array, "*batch h w c"]:
    """z = mean + exp(log_variance / 2) eps, eps standard normal."""
    return mean + jnp.exp(log_variance / 2) * jax.random.normal(key, mean.shape, mean.dtype)


def whiten(z: Float[Array, "*batch h w c"], shift: ArrayLike, scale: ArrayLike) -> Float[Array, "*batch h w c"]:
    """x = (z - shift) scale, of numbers or of one for each channel."""
    return (z - jnp.broadcast_to(shift, z.shape)) * jnp.broadcast_to(scale, z.shape)


def unwhiten(x: Float[Array, "*batch h w c"], shift: ArrayLike, scale: ArrayLike) -> Float[Array, "*batch h w c"]:
    """z = x / scale + shift, what `whiten` makes x of."""
    return x / jnp.broadcast_to(scale, x.shape) + jnp.broadcast_to(shift, x.shape)


def make_encode(
    autoencoder: Any, shift: ArrayLike = 0.0, scale: ArrayLike = 1.0, image_range: tuple[float, float] = PICTURE
) -> Encode:
    """Return (params, key, image) -> x = (z - shift) scale, z drawn from the posterior of the image in [-1, 1].

    autoencoder: a module with a method "encode", image -> (mean, log_variance). shift, scale: numbers, or one for each
    channel. image_range: the lowest and highest value of the images that the autoencoder was trained on.
    """
    low, high = image_range

    def encode(params: PyTree, key: Array, image: Float[Array, "*batch h w c"]) -> Float[Array, "*batch hz wz cz"]:
        given = image if image_range == PICTURE else low + (image + 1) / 2 * (high - low)
        moments = autoencoder.apply(params["autoencoder"], given, method="encode")
        return whiten(sample_posterior(key, *moments), shift, scale)

    return encode


def make_decode(
    autoencoder: Any, shift: ArrayLike = 0.0, scale: ArrayLike = 1.0, image_range: tuple[float, float] = PICTURE
) -> Decode:
    """Return (params, x) -> the image in about [-1, 1] that the decoder makes of z = x / scale + shift.

    autoencoder: a module with a method "decode", z -> image. shift, scale, image_range: as of `make_encode`. The image is
    not clipped: an autoencoder passes the ends of its range a little, and a gradient through the decoder needs that.
    """
    low, high = image_range

    def decode(params: PyTree, x: Float[Array, "*batch hz wz cz"]) -> Float[Array, "*batch h w c"]:
        image = autoencoder.apply(params["autoencoder"], unwhiten(x, shift, scale), method="decode")
        return image if image_range == PICTURE else 2 * (image - low) / (high - low) - 1

    return decode


def in_chunks(decode: Decode, size: int) -> Decode:
    """Return (params, x (N, ...)) -> images (N, ...) by `decode`, `size` at a time one after the other: less memory."""
    return lambda params, x: jax.lax.map(lambda one: decode(params, one), x, batch_size=size)
