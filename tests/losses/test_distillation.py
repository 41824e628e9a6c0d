"""Guidance distillation on the oracle: what has the least loss, and what a small network that is told the scale learns."""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax

from guided_jax import denoiser, guidance, losses, schedule
from guided_jax.losses import TARGETS
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE, network_of

LEVELS = schedule.cosine(100)
LOW, HIGH = 0.0, 4.0


def teacher(x_t, level, label, scale):
    """The exact guided prediction of the mixture."""
    return guidance.classifier_free(MIXTURE.denoiser(label), MIXTURE.denoiser(), scale)(x_t, level)


def batch(key, count):
    """Return keys, labels, scales and noisy examples, of which the teacher was asked."""
    keys, others = jax.random.split(key, (2, count))
    labels, scales = jnp.arange(count) % 2, losses.draw_scales(keys, LOW, HIGH)
    noisy = losses.corrupt(keys, jax.vmap(MIXTURE.sample)(others, labels), LEVELS)
    return labels, scales, losses.teach(noisy, teacher, labels, scales)


def test_the_least_loss_is_0_and_only_the_guided_denoiser_has_it():
    """The loss of guided + d is the mean square of d: not of what is drawn, unlike that of denoising."""

    def loss(given, target, shift):
        labels, scales, noisy = given

        def network(x_t, times, condition, keys):
            def one(x_t, level, label, scale):
                net = lambda w: lambda x_t, level: teacher(x_t, level, label, w)  # noqa: E731
                return network_of(guidance.distilled(net, scale), target, level)(x_t, None)

            return jax.vmap(one)(x_t, noisy.level, *condition) + shift

        return losses.denoising(network, noisy, (labels, scales), LEVELS, target)

    @jax.jit
    def run(key):
        given = batch(key, 16)
        shifts = jnp.zeros((1, 2)), jnp.array([[0.3, -0.4]])
        return given[2].level.sigma, {target: [loss(given, target, shift) for shift in shifts] for target in TARGETS}

    sigma, found = run(jax.random.key(0))
    for target, (at_0, at_d) in found.items():
        weight = np.square(sigma) if target == "score" else 1
        np.testing.assert_allclose(at_0, 0, atol=1e-9)
        np.testing.assert_allclose(at_d, np.full(16, (0.3**2 + 0.4**2) / 2) * weight, rtol=1e-3)


def test_the_teacher_changes_the_truth_alone_and_has_no_gradient():
    keys = jax.random.split(jax.random.key(1), 8)
    noisy = losses.corrupt(keys, jnp.ones((8, 2)), LEVELS)

    def taught(w):
        one = lambda x, level, label, scale: Prediction(w * scale * x + label, x, 0.5 * x)  # noqa: E731
        return losses.teach(noisy, one, jnp.arange(8.0), jnp.full(8, 3.0))

    found = taught(2.0)
    np.testing.assert_allclose(found.truth.x_0, 6 * noisy.x_t + np.arange(8)[:, None], rtol=1e-6)
    assert found.truth.variance_fraction is None
    jax.tree.map(np.testing.assert_array_equal, found._replace(truth=0, keys=0), noisy._replace(truth=0, keys=0))
    assert jax.grad(lambda w: taught(w).truth.x_0.sum())(2.0) == 0


def test_scales_are_uniform_and_tell_nothing_of_the_other_draws():
    keys = jax.random.split(jax.random.key(2), 20_000)
    draw = jax.jit(
        lambda: (losses.draw_scales(keys, 1.0, 3.0), losses.corrupt(keys, jnp.zeros((len(keys), 1)), LEVELS))
    )
    scales, noisy = draw()
    assert 1 <= scales.min() < 1.001 < 2.999 < scales.max() < 3
    np.testing.assert_allclose([scales.mean(), scales.std()], [2, 2 / 12**0.5], atol=0.01)
    dropped = losses.drop(keys, jnp.ones(len(keys)), jnp.float32(0.0), 0.5)
    for other in (noisy.level.t, noisy.truth.eps[:, 0], dropped):
        assert abs(np.corrcoef(scales, other)[0, 1]) < 0.02


class Small(nn.Module):
    """A network of two numbers that is told the time, the label and the scale; its output is x_0."""

    @nn.compact
    def __call__(self, x, t, label, scale):
        angles = (t[:, None] + 0.5) / 100 * jnp.pi * jnp.array([[0.5, 1.0, 2.0]])
        told = [jnp.cos(angles), jnp.sin(angles), jax.nn.one_hot(label, 2), (scale - 2)[:, None]]
        h = jnp.concatenate([x, *told], axis=-1)
        for _ in range(3):
            h = nn.silu(nn.Dense(64)(h))
        return nn.Dense(2)(h)


@functools.cache
def learned():
    """Return the averaged params of a small network after some seconds of training on the exact guided denoiser."""
    network, steps = Small(), 1500
    optimizer = optax.adam(optax.cosine_decay_schedule(6e-3, steps))
    params = network.init(jax.random.key(3), jnp.zeros((1, 2)), jnp.zeros(1), jnp.zeros(1, int), jnp.zeros(1))

    def step(carry, key):
        params, state = carry
        labels, scales, noisy = batch(key, 192)
        call = lambda params: lambda x, t, told, keys: network.apply(params, x, t, *told)  # noqa: E731
        loss = lambda params: losses.denoising(call(params), noisy, (labels, scales), LEVELS, "x_0").mean()  # noqa: E731
        updates, state = optimizer.update(jax.grad(loss)(params), state)
        return (optax.apply_updates(params, updates), state), None

    keys = jax.random.split(jax.random.key(4), steps)
    return jax.jit(lambda params: jax.lax.scan(step, (params, optimizer.init(params)), keys)[0][0])(params)


def test_one_call_agrees_with_exact_guidance_over_points_levels_scales_and_intervals():
    """At 32 points of each of 9 levels, 5 scales and both labels; the interval is the scale at a level, and not learned."""
    positions, scales = jnp.arange(10, 100, 10), jnp.linspace(LOW, HIGH, 5)

    def errors(params, key, position, label, scale):
        level = schedule.at(LEVELS, position)
        x_t = level.alpha * MIXTURE.sample(key, label) + level.sigma * jax.random.normal(key, (2,))
        told = lambda w: denoiser.from_network(  # noqa: E731
            lambda x, t: Small().apply(params, x[None], t[None], label[None], w[None])[0], "x_0"
        )
        c, u = MIXTURE.denoiser(label), MIXTURE.denoiser()
        one = guidance.distilled(told, guidance.limited(scale, 0.5, 2.0))(x_t, level).x_0
        two = guidance.interval(lambda c: guidance.classifier_free(c, u, scale), c, 0.5, 2.0)(x_t, level).x_0
        everywhere = guidance.distilled(told, scale)(x_t, level).x_0 - teacher(x_t, level, label, scale).x_0
        return one - two, everywhere, teacher(x_t, level, label, scale).x_0 - c(x_t, level).x_0

    over = errors
    for place in (1, 2, 3, 4):
        over = jax.vmap(over, [0 if i == place else None for i in range(5)])
    found = jax.jit(over)(learned(), jax.random.split(jax.random.key(5), 32), positions, jnp.arange(2), scales)
    limited, everywhere, guided = (np.sqrt(np.mean(np.square(each), axis=(-2, -1))) for each in found)
    assert np.sqrt(np.mean(guided**2)) > 0.6  # what the second call changes
    assert np.sqrt(np.mean(everywhere**2)) < 0.06
    assert everywhere.max() < 0.2  # of the worst of the 90 cells, where guidance changes 1.7
    assert limited.max() < 0.12
