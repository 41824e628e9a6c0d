"""Adaptive guidance: where it stops, what it then predicts, and the calls that are really not made."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, reverse, sampler, schedule
from guided_jax.guidance import AdaptiveState
from tests.oracle import MIXTURE

LEVELS = schedule.respace(schedule.cosine(1000), 8)
KEY = jax.random.key(0)
C, U = MIXTURE.denoiser(1), MIXTURE.denoiser()
X_T = jax.random.normal(jax.random.key(1), (6, 2))


def run(x_T, threshold, scale=3.0, conditional=C, unconditional=U):
    made = guidance.lift(guidance.clip, guidance.adaptive(conditional, unconditional, scale, threshold))
    x_0, memory, _ = sampler.run(KEY, conditional, reverse.with_state(made, reverse.ddim()), x_T, LEVELS)
    return x_0, guidance.saved_calls(memory), memory


@jax.jit
def predicted(x, level):
    return C(x, level).x_0, U(x, level).x_0


def by_hand(x, threshold, scale=3.0):
    """The same by a plain loop, with NumPy's cosine: (x_0, the steps after the cosine was above the threshold)."""
    x, stopped, after = np.asarray(x), False, 0
    for position in range(8, 0, -1):
        now, then = (jax.tree.map(np.asarray, schedule.at(LEVELS, place)) for place in (position, position - 1))
        c, u = (np.asarray(x_0, np.float64) for x_0 in predicted(np.float32(x), now))
        after += stopped
        x_0 = np.clip(c if stopped else u + scale * (c - u), -1, 1)
        stopped |= c @ u / np.linalg.norm(c) / np.linalg.norm(u) > threshold
        x = then.alpha * x_0 + then.sigma * (x - now.alpha * x_0) / now.sigma
    return x, after


def test_the_steps_after_the_threshold_are_conditional_alone():
    """Each example for itself, though the calls are those of the batch: saved for all once the last has stopped."""
    found, saved, _ = jax.jit(jax.vmap(lambda x: run(x, 0.9)))(X_T)
    hands = [by_hand(x, 0.9) for x in X_T]
    after = [count for _, count in hands]
    assert min(after) < max(after)
    np.testing.assert_array_equal(saved, min(after))
    np.testing.assert_allclose(found, np.stack([x for x, _ in hands]), rtol=1e-3, atol=1e-4)
    single = jax.jit(lambda x: run(x, 0.9))
    alone = [single(x) for x in X_T[:2]]
    assert [int(saved) for _, saved, _ in alone] == after[:2]
    np.testing.assert_allclose(np.stack([x for x, _, _ in alone]), found[:2], rtol=1e-5, atol=1e-6)
    in_turn = jax.jit(lambda x: jax.lax.map(lambda x: run(x, 0.9)[1], x))(X_T)
    np.testing.assert_array_equal(in_turn, after)


def test_at_threshold_1_it_is_classifier_free_guidance_to_the_bit():
    def free(x_T):
        guided = guidance.clip(guidance.classifier_free(C, U, 3.0))
        return sampler.sample(KEY, guided, reverse.ddim(), x_T, LEVELS)

    found, saved, _ = jax.jit(jax.vmap(lambda x: run(x, 1.0)))(X_T)
    np.testing.assert_array_equal(found, jax.jit(jax.vmap(free))(X_T))
    np.testing.assert_array_equal(saved, 0)
    _, never, _ = jax.jit(lambda x: run(x, 1.0, unconditional=C))(X_T[0])  # the cosine is 1, and not above it
    assert never == 0


@pytest.mark.parametrize("nested", [False, True], ids=["vmap", "vmap of vmap"])
def test_calls_that_are_saved_are_not_made(nested):
    """By a network that says when it is called; in a batch of batches too."""
    times = []

    def unconditional(x_t, level):
        jax.debug.callback(lambda t: times.append(float(t)), level.t)
        return U(x_t, level)

    one = lambda x: run(x, 0.5, unconditional=unconditional)[1]  # noqa: E731
    batched = jax.vmap(jax.vmap(one)) if nested else jax.vmap(one)
    saved = jax.jit(batched)(X_T.reshape(2, 3, 2) if nested else X_T)
    jax.effects_barrier()
    assert 0 < int(saved.min()) == int(saved.max()) < 8
    assert len(set(times)) == 8 - int(saved.min())


def test_the_saved_call_is_a_branch_of_the_program():
    def network(params):
        return lambda scale: denoiser.from_network(lambda x, t: jnp.tanh(scale * x @ params), "x_0")

    def one(params, x):
        net = network(params)
        return run(x, 0.9, 3.0, net(1.0), net(0.5))[0]

    compiled = jax.jit(jax.vmap(one, (None, 0))).lower(jnp.ones((32, 32)), jnp.ones((4, 32))).compile()
    assert len(re.findall(r" dot\(", compiled.as_text())) == 2
    assert len(re.findall(r" conditional\(", compiled.as_text())) == 1


def test_it_differentiates_and_counts_wherever_its_state_is():
    gradient = jax.jit(jax.vmap(jax.grad(lambda x: run(x, 0.9)[0].sum())))(X_T)
    assert jnp.all(jnp.isfinite(gradient))
    state = AdaptiveState(jnp.bool_(True), jnp.int32(3))
    assert guidance.saved_calls(((jnp.zeros(2), state), ())) == 3
    assert guidance.saved_calls((jnp.zeros(2), ())) == 0


def test_an_example_that_has_stopped_stays_so_beside_one_that_has_not():
    """Though u is called for both, and its cosine is below the threshold again."""
    made, level = guidance.adaptive(C, U, 3.0, 1.0), schedule.at(LEVELS, 8)
    states = AdaptiveState(jnp.array([True, False]), jnp.int32(0))
    axes = AdaptiveState(0, None)
    prediction, after = jax.jit(jax.vmap(made.denoise, (axes, 0, None)))(states, X_T[:2], level)
    np.testing.assert_array_equal(after.stopped, [True, False])
    np.testing.assert_allclose(prediction.x_0[0], predicted(X_T[0], level)[0], rtol=1e-5)
    assert jnp.abs(prediction.x_0[1] - predicted(X_T[1], level)[0]).max() > 0.1
