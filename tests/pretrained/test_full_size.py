"""Published latent models at their full size: they are made, and take one guided step, on this machine."""

import jax
import jax.numpy as jnp
import pytest

from guided_jax import denoiser, guidance, reverse, schedule
from guided_jax.pretrained import autoencoder, dit
from tests.full_size import random_weights, run_once
from tests.latent_golden import published

STEPS = 250
SCALE = 0.18215  # of the latents


@pytest.mark.slow
def test_one_guided_step_of_dit_xl(capsys):
    """DiT-XL/2 with a label and without, one step of DDPM with the learned variance, and the decoder of its autoencoder."""
    net = dit.make_network(published("dit_xl2_256")["original"]["config"])
    vae = autoencoder.make_autoencoder(published("sd_vae")["vae"]["config"])
    weights = {"net": random_weights(dit.shapes(net), 0), "vae": random_weights(autoencoder.shapes(vae), 1)}
    levels = schedule.respace(schedule.linear(1000), STEPS)

    def step(weights, key, x, label):
        def model(label):
            network = lambda x, t: net.apply(weights["net"], x, t, label)  # noqa: E731
            return denoiser.from_network(network, "eps", learned_variance=True)

        denoise = guidance.classifier_free(model(label), model(None), 1.5)
        sampler = reverse.ddpm("learned")
        now, then = schedule.at(levels, STEPS), schedule.at(levels, STEPS - 1)
        x_s, _ = sampler.step(key, denoise, x, sampler.init(x), now, then)
        return x_s, vae.apply(weights["vae"], x_s / SCALE, method="decode")

    x = jax.random.normal(jax.random.key(0), (32, 32, 4))
    (x_s, image), line = run_once(step, (weights, jax.random.key(1), x, jnp.int32(207)))
    with capsys.disabled():
        print(f"\nDiT-XL/2 256, both halves of one picture, and its decoder: {line}")
    assert image.shape == (256, 256, 3)
    assert jnp.all(jnp.isfinite(image))
    assert float(jnp.abs(x_s - x).max()) > 1e-4
