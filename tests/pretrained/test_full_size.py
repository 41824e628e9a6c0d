"""Published latent models at their full size: they are made, and take one guided step, on this machine."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import stable_diffusion as sd
from guided_jax import denoiser, model, reverse, schedule
from guided_jax.models import latent, tiles
from guided_jax.pretrained import autoencoder, dit, edm2, published
from tests import latent_golden as golden
from tests.full_size import check_guided_step, make_guided_step, random_weights

STEPS = 250
SCALE = 0.18215  # of the latents
EDM2_MEAN, EDM2_STD = [5.81, 3.25, 0.12, -2.15], [4.17, 4.62, 3.71, 3.28]  # of the latents of EDM2
CAT = (sd.BEGIN, 320, 1125, 539, 320, 2368)  # the tokens of "a photo of a cat"


def make_autoencoder():
    return autoencoder.make_autoencoder(golden.published("sd_vae")["vae"]["config"])


@pytest.mark.slow
def test_one_guided_step_of_dit_xl(capsys):
    """DiT-XL/2 with a label and without, one step of DDPM with the learned variance, and the decoder of its autoencoder."""
    net, vae = dit.make_network(golden.published("dit_xl2_256")["original"]["config"]), make_autoencoder()
    weights = {"net": random_weights(dit.shapes(net), 0), "vae": random_weights(autoencoder.shapes(vae), 1)}

    def denoisers(weights, label):
        def denoise(label):
            network = lambda x, t: net.apply(weights["net"], x, t, label)  # noqa: E731
            return denoiser.from_network(network, "eps", learned_variance=True)

        return denoise(label), denoise(None)

    def decode(weights, x):
        return vae.apply(weights["vae"], x / SCALE, method="decode")

    levels = schedule.respace(schedule.linear(1000), STEPS)
    step = make_guided_step(denoisers, 1.5, reverse.ddpm("learned"), levels, decode)
    x, name = jax.random.normal(jax.random.key(0), (32, 32, 4)), "DiT-XL/2 256, two calls, and its decoder"
    assert check_guided_step(step, weights, x, jnp.int32(207), name, capsys).shape == (256, 256, 3)


@pytest.mark.slow
def test_one_guided_step_of_edm2_xs(capsys):
    """EDM2-XS and its network without labels on a latent of 512 pixels, one step of Heun, and the decoder."""
    config, vae = golden.published("edm2")["edm2-img512-xs"]["config"], make_autoencoder()
    nets = edm2.make_network(config), edm2.make_network(config | {"label_dim": 0})
    weights = {
        "nets": [random_weights(edm2.shapes(net), i) for i, net in enumerate(nets)],
        "autoencoder": random_weights(autoencoder.shapes(vae), 2),
    }

    def denoisers(weights, label):
        def denoise(i, *label):
            return denoiser.edm(lambda x, c_noise: nets[i].apply(weights["nets"][i], x, c_noise, *label))

        return denoise(0, label), denoise(1)

    decode = latent.make_decode(vae, np.asarray(EDM2_MEAN), 0.5 / np.asarray(EDM2_STD), image_range=(0.0, 1.0))
    step = make_guided_step(denoisers, 1.4, reverse.heun(), schedule.karras(32, 0.002, 80.0), decode)
    x, name = 80.0 * jax.random.normal(jax.random.key(0), (64, 64, 4)), "EDM2-XS 512, four calls, and the decoder"
    assert check_guided_step(step, weights, x, jnp.int32(207), name, capsys).shape == (512, 512, 3)


@pytest.mark.slow
def test_one_guided_step_of_stable_diffusion(capsys):
    """Stable Diffusion 1.5 in bfloat16: a prompt and none by the text tower, one step of DDIM, the decoder in tiles.

    Seen on two cores that a dozen processes shared: compiled in 124 s, the step with its picture in 728 s, of which 3
    minutes were its own, at most 8.4 GiB.
    """
    description = sd.MODELS["sd1.5"]
    found = published.make_model(description, jnp.bfloat16)
    weights = random_weights(sd.make_params(description, jnp.bfloat16), 0)

    def denoisers(weights, raw):
        return tuple(model.denoiser(found, weights, found.condition(weights, each)) for each in (raw, found.null))

    def decode(weights, x):
        return tiles.apply_in_tiles(lambda part: found.decode(weights, part), x, 32)

    step = make_guided_step(denoisers, 7.5, reverse.ddim(), schedule.respace(found.levels, 50), decode)
    prompt = published.Prompt(np.array([[*CAT, *(sd.END,) * (sd.TOKENS - len(CAT))]], np.int32))
    x, name = (
        jax.random.normal(jax.random.key(0), (64, 64, 4)),
        "Stable Diffusion 1.5, two calls, 9 tiles of the decoder",
    )
    assert check_guided_step(step, weights, x, prompt, name, capsys).shape == (512, 512, 3)
