"""The loop: one trace for every strength, no example that depends on its neighbours."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, reverse, sampler, schedule
from tests.oracle import MIXTURE, noise_like

LEVELS = schedule.respace(schedule.cosine(1000), 12)


def draw(key, x_T, label, scale, eta):
    denoise = guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(label), scale)
    return sampler.sample(key, denoise, reverse.ddim(eta), x_T, LEVELS)


def batch(indices):
    keys = sampler.keys(jax.random.key(0), indices)
    return keys, jax.vmap(lambda key: noise_like(LEVELS, key, (2,)))(keys)


def test_one_trace_serves_every_label_scale_and_eta():
    traced = jax.jit(jax.vmap(chex.assert_max_traces(draw, n=1)))
    for scale in (0.0, 1.0, 7.5):
        for eta in (0.0, 1.0):
            keys, x_T = batch(jnp.arange(4))
            fill = lambda value: jnp.full(4, value)  # noqa: E731
            traced(keys, x_T, jnp.array([0, 1, 1, 0]), fill(scale), fill(eta))


def test_an_example_never_depends_on_its_batch():
    """The same global index gives the same bits, alone of its kind or among others, first or last."""
    run = jax.jit(jax.vmap(lambda key, x, label: draw(key, x, label, 3.0, 1.0)))
    keys, x_T = batch(jnp.arange(8))
    labels = jnp.arange(8) % 2
    whole = run(keys, x_T, labels)
    order = jnp.array([5, 2, 7, 0, 1, 3, 6, 4])
    np.testing.assert_array_equal(run(keys[order], x_T[order], labels[order]), whole[order])
    other = run(keys, x_T.at[1:].set(100.0), labels)
    np.testing.assert_array_equal(other[0], whole[0])
    keys_of_two, x_of_two = batch(jnp.array([3, 6]))
    np.testing.assert_allclose(
        run(keys_of_two, x_of_two, labels[jnp.array([3, 6])]), whole[jnp.array([3, 6])], atol=1e-5
    )


def test_keys_are_one_for_each_global_index():
    keys = jax.random.key_data(sampler.keys(jax.random.key(3), jnp.arange(100)))
    assert len(np.unique(keys, axis=0)) == 100
    np.testing.assert_array_equal(jax.random.key_data(sampler.keys(jax.random.key(3), jnp.array([42])))[0], keys[42])


def test_the_run_is_its_steps_one_after_another():
    """The scan against a plain loop: levels in the right order, memory handed on, a key of its own for each step."""
    step = reverse.ddpm("learned")
    denoise = lambda x, level: MIXTURE.denoiser()(x, level)._replace(variance_fraction=jnp.full(2, 0.3))  # noqa: E731
    key, x = jax.random.key(7), jnp.array([0.5, -1.5])
    got, memory, _ = jax.jit(lambda x: sampler.run(key, denoise, step, x, LEVELS))(x)
    kept, once = step.init(x), jax.jit(lambda key, *given: step.step(key, denoise, *given))
    for position in range(12, 0, -1):
        now, then = schedule.at(LEVELS, position), schedule.at(LEVELS, position - 1)
        x, kept = once(jax.random.fold_in(key, position), x, kept, now, then)
    np.testing.assert_allclose(got, x, atol=1e-5)
    np.testing.assert_allclose(memory, kept, rtol=1e-5)


def test_observe_sees_every_step_from_the_noisiest_down():
    def observe(x_t, prediction, level):
        return x_t, prediction.x_0, level.t

    x_T = jnp.array([0.5, -1.5])
    x_0, (x_t, predicted, t) = sampler.sample(
        jax.random.key(0), MIXTURE.denoiser(), reverse.ddim(), x_T, LEVELS, observe=observe
    )
    np.testing.assert_array_equal(t, LEVELS.t[:0:-1])
    np.testing.assert_array_equal(x_t[0], x_T)
    np.testing.assert_allclose(predicted[-1], x_0, rtol=1e-6)
    assert x_t.shape == predicted.shape == (12, 2)


def test_an_eps_network_at_pure_noise_raises_before_compiling():
    levels = LEVELS._replace(alpha=LEVELS.alpha.at[-1].set(0.0), sigma=LEVELS.sigma.at[-1].set(1.0))
    run = jax.jit(
        lambda x, kind: sampler.sample(
            jax.random.key(0), denoiser.from_network(lambda x, t: 0.1 * x, kind), reverse.ddim(), x, levels
        ),
        static_argnums=1,
    )
    with pytest.raises(ValueError, match="alpha = 0"):
        run(jnp.ones(2), "eps")
    with jax.enable_x64(True), pytest.raises(ValueError, match="alpha = 0"):
        run(jnp.ones(2, jnp.float64), "eps")  # the levels are cast to the type of x, inside the jit
    assert jnp.all(jnp.isfinite(run(jnp.ones(2), "v")))


def test_a_table_of_the_clean_level_alone_changes_nothing():
    x = jnp.array([0.5, -1.5])
    clean = schedule.NoiseLevel(*(column[:1] for column in LEVELS))
    np.testing.assert_array_equal(sampler.sample(jax.random.key(0), MIXTURE.denoiser(), reverse.ddim(), x, clean), x)


def test_samples_are_differentiable():
    """Through the whole run, to x_T, the scale and eta: nothing is NaN, not even where eta is 0."""
    run = lambda x, scale, eta: sampler.sample(  # noqa: E731
        jax.random.key(0),
        guidance.classifier(MIXTURE.denoiser(), MIXTURE.log_prob(0), scale),
        reverse.ddim(eta),
        x,
        LEVELS,
    ).sum()
    gradient = jax.jit(jax.grad(run, (0, 1, 2)))
    for eta in (0.0, 0.7):
        gradients = gradient(jnp.array([0.5, -1.5]), jnp.float32(2.0), jnp.float32(eta))
        assert all(jnp.all(jnp.isfinite(gradient)) for gradient in jax.tree.leaves(gradients))
