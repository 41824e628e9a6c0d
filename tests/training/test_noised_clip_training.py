"""A noised CLIP, trained on two devices: what it sees at each level, and an exact denoiser that it guides."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import criteria, guidance, losses, metrics, parallel, reverse, sampler, schedule, training
from guided_jax.analytic import GaussianMixture
from guided_jax.forward import diffuse
from guided_jax.models import Classifier, NoisedCLIP
from guided_jax.parallel.replicated import AXIS

NAMES = 8
RNG = np.random.default_rng(0)
# A picture of 4x4 squares of two shades for each name, and the states of its caption, the last token of which is padding.
MEANS = jnp.asarray(np.kron(RNG.choice([-0.8, 0.8], (NAMES, 4, 4)), np.ones((2, 2)))[..., None], jnp.float32)
MIXTURE = GaussianMixture(jnp.ones(NAMES), MEANS, jnp.full(NAMES, 0.2))
STATES = jnp.asarray(RNG.normal(size=(NAMES, 3, 12)), jnp.float32)
MASK = jnp.tile(jnp.array([[1, 1, 0]]), (NAMES, 1))
LEVELS = schedule.cosine(100)
NET = NoisedCLIP(Classifier(16, 16, (1, 2), 1, (2,), num_head_channels=16, num_groups=8), text_width=32)


def loss(params, keys, batch):
    def network(x, t, keys):
        return NET.apply(params, x, t, method="encode_image")

    label = batch["label"]
    text = NET.apply(params, STATES[label], MASK[label], method="encode_text")
    arguments = (keys, batch["image"], text, label, NET.apply(params, method="temperature"), LEVELS)
    each, right = losses.contrastive.noised(network, *arguments, axis_name=AXIS)
    return each.mean(), {"retrieval": right.mean()}


@pytest.fixture(scope="module")
def trained():
    init = jax.jit(NET.init)(jax.random.key(0), MEANS[0], 0.0, STATES[0], MASK[0])
    optimizer = training.optimizer(2e-3, 200, warmup_steps=10)
    one = functools.partial(training.train_step, loss=loss, optimizer=optimizer, ema_decay=0.9)
    devices = jax.devices()[:2]
    step, state = parallel.data_parallel(one, devices), training.init(jax.random.key(1), init, optimizer)
    state, history = parallel.place(state, devices), []
    for _ in range(200):
        label = RNG.integers(0, NAMES, 32)
        image = np.asarray(MEANS)[label] + 0.2 * RNG.normal(size=(32, 8, 8, 1))
        state, found = step(state, {"image": image.astype(np.float32), "label": label.astype(np.int32)})
        history.append(float(found["loss"]))
    return jax.tree.map(jnp.asarray, jax.device_get(state.ema)), history


@pytest.mark.slow
def test_it_learns_what_can_be_seen_and_guides_by_it(trained):
    params, history = trained
    assert np.mean(history[-20:]) < 0.7 * np.mean(history[:5])
    names = NET.apply(params, STATES, MASK, method="encode_text")
    temperature = NET.apply(params, method="temperature")

    def embed_image(x_t, level):
        return NET.apply(params, x_t, level.t - 1, method="encode_image")

    def embed(key, picture, position):
        level = schedule.at(LEVELS, position)
        return embed_image(diffuse(picture, jax.random.normal(key, picture.shape), level), level)

    labels = np.arange(160) % NAMES
    pictures = np.asarray(MEANS)[labels] + np.float32(0.2) * RNG.normal(size=(160, 8, 8, 1)).astype(np.float32)
    arguments = (pictures, np.asarray(names), labels, (5, 50, 100), jax.random.key(2), jax.devices()[:1], 160)
    found = {position: each[1] for position, each in metrics.retrieval_by_level(embed, *arguments).items()}
    assert found[5].score.mean > 0.9
    assert found[5].score.mean >= found[50].score.mean > found[100].score.mean
    assert abs(found[100].score.mean - found[100].chance) < 4 * found[100].floor

    levels = schedule.respace(LEVELS, 20)

    @functools.partial(jax.jit, static_argnums=2)
    @functools.partial(jax.vmap, in_axes=(0, 0, None))
    def draw(key, label, kind):
        log_prob = {
            "similarity": lambda: criteria.similarity(embed_image, names[label], temperature=temperature),
            "among": lambda: criteria.among(embed_image, names, label, temperature),
        }[kind]()
        denoise = guidance.classifier(MIXTURE.denoiser(), log_prob, 2.0)
        return sampler.sample(key, denoise, reverse.ddim(), jax.random.normal(key, (8, 8, 1)), levels)

    wanted = jnp.arange(64) % NAMES
    keys = jax.random.split(jax.random.key(3), 64)
    for kind in ("similarity", "among"):
        distance = jnp.square(draw(keys, wanted, kind)[:, None] - MEANS[None]).sum((2, 3, 4))
        assert (distance.argmin(1) == wanted).mean() > 0.7, kind
