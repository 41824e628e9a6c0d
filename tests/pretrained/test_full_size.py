"""Published latent models at their full size: they are made, and take one guided step, on this machine."""

import jax
import numpy as np
import pytest

from guided_jax import denoiser, guidance, reverse, schedule
from guided_jax.models import latent
from guided_jax.pretrained import autoencoder, dit, edm2
from tests.full_size import check_one_step, random_weights
from tests.latent_golden import published

STEPS = 250
SCALE = 0.18215  # of the latents
EDM2_MEAN, EDM2_STD = [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]  # of the latents of EDM2


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
    words = "DiT-XL/2 256, both halves of one picture, and its decoder"
    check_one_step(step, weights, x, (256, 256), capsys, words)


@pytest.mark.slow
def test_one_guided_step_of_edm2_xs(capsys):
    """EDM2-XS and its network without labels on a latent of 512 pixels, one step of Heun, and the decoder."""
    config = published("edm2")["edm2-img512-xs"]["config"]
    nets = edm2.make_network(config), edm2.make_network(config | {"label_dim": 0})
    vae = autoencoder.make_autoencoder(published("sd_vae")["vae"]["config"])
    weights = {
        "nets": [random_weights(edm2.shapes(net), i) for i, net in enumerate(nets)],
        "vae": random_weights(autoencoder.shapes(vae), 2),
    }
    decode = latent.make_decode(vae, np.asarray(EDM2_MEAN), 0.5 / np.asarray(EDM2_STD), image_range=(0.0, 1.0))
    levels = schedule.karras(32, 0.002, 80.0)

    def step(weights, key, x, label):
        def model(i, *label):
            return denoiser.edm(lambda x, c_noise: nets[i].apply(weights["nets"][i], x, c_noise, *label))

        denoise = guidance.classifier_free(model(0, label), model(1), 1.4)
        sampler = reverse.heun()
        now, then = schedule.at(levels, 32), schedule.at(levels, 31)
        x_s, _ = sampler.step(key, denoise, x, sampler.init(x), now, then)
        return x_s, decode({"autoencoder": weights["vae"]}, x_s)

    x = 80.0 * jax.random.normal(jax.random.key(0), (64, 64, 4))
    check_one_step(step, weights, x, (512, 512), capsys, "EDM2-XS 512, two networks called twice, and the decoder")
