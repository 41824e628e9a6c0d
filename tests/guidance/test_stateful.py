"""Guidance that remembers: what a state is worth, and when it moves."""

import re

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import denoiser, guidance, reverse, sampler, schedule
from guided_jax.guidance import Stateful
from guided_jax.reverse import ReverseStep
from tests.oracle import MIXTURE

LEVELS = schedule.respace(schedule.cosine(1000), 6)
X_T = jnp.array([0.5, -1.5])
KEY = jax.random.key(0)


def counter():
    """The mixture's denoiser, whose x_0 is moved by the number of updates so far."""

    def denoise(count, x_t, level):
        prediction = MIXTURE.denoiser()(x_t, level)
        return prediction._replace(x_0=prediction.x_0 + 0.1 * count), count + 1

    return Stateful(lambda x_T: jnp.zeros(()), denoise)


def twice():
    """A step of two calls, one at the level it goes to: each sees the state as it was before the step."""

    def step(key, denoise, x_t, memory, now, then):
        first = denoise(x_t, now)
        second = denoise(then.alpha * first.x_0 + then.sigma * first.eps, then)
        return then.alpha * (first.x_0 + second.x_0) / 2 + then.sigma * first.eps, memory + 1

    return ReverseStep(lambda x_T: jnp.zeros(()), step)


def test_a_stateless_denoiser_is_unchanged():
    denoise = guidance.classifier_free(MIXTURE.denoiser(1), MIXTURE.denoiser(), 2.0)
    for step in (reverse.ddim(0.5), reverse.ddpm("large"), twice()):
        lifted = reverse.with_state(guidance.stateless(denoise), step)
        both = jax.jit(lambda x, steps=(lifted, step): [sampler.sample(KEY, denoise, one, x, LEVELS) for one in steps])
        np.testing.assert_allclose(*both(X_T), rtol=1e-5, atol=1e-6)


def test_the_state_is_frozen_within_a_step_and_updated_once():
    for step in (reverse.ddim(0.5), twice()):
        lifted = reverse.with_state(counter(), step)
        run = jax.jit(lambda x, lifted=lifted: sampler.run(KEY, MIXTURE.denoiser(), lifted, x, LEVELS))
        got, (memory, count), _ = run(X_T)
        assert count == 6
        x, own = X_T, step.init(X_T)

        @jax.jit
        def once(shift, key, *given, step=step):
            def moved(x_t, level):
                prediction = MIXTURE.denoiser()(x_t, level)
                return prediction._replace(x_0=prediction.x_0 + shift)

            return step.step(key, moved, *given)

        for position in range(6, 0, -1):
            now, then = schedule.at(LEVELS, position), schedule.at(LEVELS, position - 1)
            x, own = once(0.1 * (6 - position), jax.random.fold_in(KEY, position), x, own, now, then)
        np.testing.assert_allclose(got, x, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(memory, own)


def test_momentum_is_the_direction_of_the_steps_before():
    """Projected guidance along a run, against a plain loop that sums its directions itself."""
    c, u, scale, momentum = MIXTURE.denoiser(1), MIXTURE.denoiser(), 3.0, -0.6
    made = guidance.projected(c, u, scale, parallel=1.0, momentum=momentum)
    got = jax.jit(lambda x: sampler.sample(KEY, u, reverse.with_state(made, reverse.ddim()), x, LEVELS))(X_T)
    x, total = np.asarray(X_T), np.zeros(2)
    both = jax.jit(lambda x, level: (c(x, level).x_0, u(x, level).x_0))
    for position in range(6, 0, -1):
        now, then = (jax.tree.map(np.asarray, schedule.at(LEVELS, place)) for place in (position, position - 1))
        of_c, of_u = map(np.asarray, both(np.float32(x), now))
        total = of_c - of_u + momentum * total
        x_0 = of_c + (scale - 1) * total
        x = then.alpha * x_0 + then.sigma * (x - now.alpha * x_0) / now.sigma
    np.testing.assert_allclose(got, x, rtol=1e-3, atol=1e-4)


def test_lifting_a_guide_leaves_the_state_unchanged():
    lifted = guidance.lift(lambda d: guidance.clip(d, -0.3, 0.3), counter())
    level = schedule.at(LEVELS, 3)

    @jax.jit
    def predicted(count, x_t):
        """Of both kinds, at that state and at the first one; and of the denoiser itself."""
        made = lifted, counter()
        firsts = [guidance.first_state(each)(x_t, level).x_0 for each in made]
        return [each.denoise(count, x_t, level) for each in made], firsts, MIXTURE.denoiser()(x_t, level).x_0

    ((prediction, count), (plain, _)), (first, first_plain), own = predicted(jnp.float32(4), X_T)
    np.testing.assert_array_equal(prediction.x_0, np.clip(plain.x_0, np.float32(-0.3), np.float32(0.3)))
    assert count == 5
    assert lifted.init(X_T) == 0
    np.testing.assert_array_equal(first_plain, own)
    np.testing.assert_array_equal(first, np.clip(own, np.float32(-0.3), np.float32(0.3)))


def test_stateful_guidance_adds_no_network_calls():
    """With a label's embedding, whose look-up XLA moves out of the loop and so can no longer merge what uses it."""

    def run(params, table, x_T, label):
        def net(label):
            return denoiser.from_network(lambda x, t: jnp.tanh((x + table[label]) @ params) + t, "x_0")

        made = guidance.lift(guidance.clip, guidance.projected(net(label), net(0), 3.0))
        return sampler.sample(KEY, net(label), reverse.with_state(made, reverse.ddim(0.5)), x_T, LEVELS)

    arguments = (jnp.ones((32, 32)), jnp.ones((4, 32)), jnp.ones((8, 32)), jnp.arange(8) % 4)
    text = jax.jit(jax.vmap(run, (None, None, 0, 0))).lower(*arguments).compile().as_text()
    assert len(re.findall(r" dot\(", text)) == 2
