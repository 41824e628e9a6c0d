"""The published ImageNet-64 networks at their full size: they are made, and take one guided step, on this machine."""

import jax
import jax.numpy as jnp
import pytest

from guided_jax import denoiser, guidance, reverse, schedule
from guided_jax.pretrained import adm
from tests.full_size import random_weights, run_once


@pytest.mark.slow
def test_one_guided_step_of_imagenet_64(capsys):
    """Algorithm 1 of [ADM] with the 296 M parameter U-Net and the 65 M parameter classifier, one 64x64 picture."""
    model, judge = adm.MODELS["64x64_diffusion"].config, adm.CLASSIFIERS["64x64_classifier"].config
    unet, classifier = adm.unet(model), adm.classifier(judge)
    params = {
        "unet": random_weights(adm.unet_shapes(unet, model), 0),
        "classifier": random_weights(adm.classifier_shapes(classifier, judge), 1),
    }
    levels = schedule.respace(schedule.cosine(1000), 250)

    def step(params, key, x, label):
        net = lambda x, t: unet.apply(params["unet"], x, t, label)  # noqa: E731
        denoise = guidance.clip(denoiser.from_network(net, "eps", learned_variance=True))

        def log_prob(x, level):
            return jax.nn.log_softmax(classifier.apply(params["classifier"], x, denoiser.network_time(level)))[label]

        sampler = reverse.classifier_ddpm(log_prob, 1.0, variance="learned")
        return sampler.step(key, denoise, x, sampler.init(x), schedule.at(levels, 250), schedule.at(levels, 249))[0]

    x = jax.random.normal(jax.random.key(0), (64, 64, 3))
    x_s, line = run_once(step, (params, jax.random.key(1), x, jnp.int32(207)))
    with capsys.disabled():
        print(f"\nImageNet-64: {line}")
    assert x_s.shape == (64, 64, 3)
    assert jnp.all(jnp.isfinite(x_s))
    assert float(jnp.abs(x_s - x).max()) > 1e-4
