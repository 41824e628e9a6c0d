"""Latents of an autoencoder: whitened, drawn from the posterior, back to the picture, in chunks with the same numbers."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax.models import latent

SHIFT, SCALE = np.array([0.5, -1.0], np.float32), np.array([2.0, 0.25], np.float32)
IMAGE = jnp.linspace(-1, 1, 2 * 4 * 4 * 2).reshape(2, 4, 4, 2)


class Halves(nn.Module):
    """z = every second pixel, with a variance of its own for each channel; the decoder repeats pixels."""

    def setup(self):
        self.gain = self.param("gain", nn.initializers.constant(3.0), ())

    def encode(self, image):
        mean = self.gain * image[..., ::2, ::2, :]
        return mean, jnp.broadcast_to(jnp.log(jnp.array([0.25, 4.0])), mean.shape)

    def decode(self, z):
        return jnp.repeat(jnp.repeat(z / self.gain, 2, -3), 2, -2)


PARAMS = {"autoencoder": {"params": {"gain": jnp.float32(3.0)}}}


def test_latents_are_draws_of_the_posterior_shifted_and_scaled():
    encode = latent.make_encode(Halves(), SHIFT, SCALE)
    keys = jax.random.split(jax.random.key(0), 20_000)
    x = jax.vmap(lambda key: encode(PARAMS, key, IMAGE[0]))(keys)
    mean = (3 * np.asarray(IMAGE)[0, ::2, ::2] - SHIFT) * SCALE
    np.testing.assert_allclose(x.mean(0), mean, atol=0.05)
    np.testing.assert_allclose(x.std(0), np.broadcast_to(np.array([0.5, 2.0]) * SCALE, mean.shape), rtol=0.03)


@pytest.mark.parametrize("image_range", [(-1.0, 1.0), (0.0, 1.0), (-0.5, 2.0)])
def test_the_decoder_undoes_shift_scale_and_range(image_range):
    """Of a posterior without variance, decode(encode(image)) is the autoencoder's own round trip."""
    encode = latent.make_encode(Sure(), SHIFT, SCALE, image_range)
    decode = latent.make_decode(Sure(), SHIFT, SCALE, image_range)
    x = encode({"autoencoder": {}}, jax.random.key(0), IMAGE)
    low, high = image_range
    np.testing.assert_allclose(x, (low + (np.asarray(IMAGE) + 1) / 2 * (high - low) - SHIFT) * SCALE, atol=1e-6)
    np.testing.assert_allclose(decode({"autoencoder": {}}, x), IMAGE, atol=1e-5)


class Sure(nn.Module):
    """z = image, almost without variance."""

    def encode(self, image):
        return image, jnp.full_like(image, -60.0)

    def decode(self, z):
        return z


@pytest.mark.parametrize("size", [1, 3, 8])
def test_chunks_decode_the_same_images(size):
    decode = latent.make_decode(Halves(), SHIFT, SCALE)
    x = jax.random.normal(jax.random.key(1), (7, 2, 2, 2))
    np.testing.assert_allclose(latent.in_chunks(decode, size)(PARAMS, x), decode(PARAMS, x), rtol=1e-6)
