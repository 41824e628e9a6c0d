"""The contrastive loss: softmax by hand, equal captions, the exact embedding of a mixture, and several devices."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from guided_jax import losses, parallel, schedule, training
from guided_jax.app.train.objective import by_quarter
from guided_jax.losses.contrastive import noised, symmetric
from guided_jax.parallel.replicated import AXIS

LEVELS = schedule.cosine(50)


def unit(key, *shape):
    x = jax.random.normal(jax.random.key(key), shape)
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)


U, V = unit(0, 8, 5), unit(1, 8, 5)


def test_it_is_the_mean_of_two_cross_entropies():
    logits, labels = U @ V.T / 0.2, jnp.arange(8)
    entropy = optax.softmax_cross_entropy_with_integer_labels
    loss, right = symmetric(U, V, labels, 0.2)
    np.testing.assert_allclose(loss, (entropy(logits, labels) + entropy(logits.T, labels)) / 2, rtol=1e-5)
    np.testing.assert_array_equal(right, jnp.argmax(logits, 1) == labels)


def test_examples_of_the_same_caption_are_not_told_apart():
    """Each of two alike is what it would be without the other."""
    caption, kept = jnp.array([4, 7, 4, 1]), jnp.array([0, 1, 3])
    v = jnp.stack([V[0], V[1], V[0], V[3]])
    loss, right = symmetric(U[:4], v, caption, 0.2)
    alone, _ = symmetric(U[kept], v[kept], caption[kept], 0.2)
    np.testing.assert_allclose(loss[0], alone[0], rtol=1e-5)
    np.testing.assert_allclose(right[0], jnp.argmax(U[0] @ v[kept].T) == 0)
    flat, _ = symmetric(jnp.tile(U[:1], (4, 1)), jnp.tile(V[:1], (4, 1)), caption, 0.2)
    # A caption that is there twice is told from two others, each of which is told from three examples.
    np.testing.assert_allclose(flat, np.log([3, 4, 3, 4]), rtol=1e-5)
    gradient = jax.grad(lambda u: symmetric(u, v, caption, 0.2)[0].sum())(U[:4])
    assert jnp.isfinite(gradient).all()


def test_the_exact_density_ratio_has_the_least_loss_on_both_sides():
    """c ~ N(0, 1) and x_0 ~ N(c, 1/4), one picture at each level of its own: u . v = log p(x_t | c) / p(x_t)."""
    keys, others, more = jax.random.split(jax.random.key(0), (3, 8192))
    draw = jax.vmap(lambda key: jax.random.normal(key, ()))
    c = draw(others)
    x_0 = (c + 0.5 * draw(more))[:, None]

    def network(x_t, level, keys):
        x, alpha = x_t[:, 0], level.alpha
        given, free = (jnp.square(alpha) * variance + jnp.square(level.sigma) for variance in (0.25, 1.25))
        alone = (jnp.log(free / given) - jnp.square(x) * (1 / given - 1 / free)) / 2
        return jnp.stack([alpha * x / given, -jnp.square(alpha) / (2 * given), alone], 1)

    @jax.jit
    def loss(scale):
        """In batches of 8."""
        v = jnp.stack([c, jnp.square(c), jnp.ones_like(c)], 1)
        arguments = (a.reshape(-1, 8, *a.shape[1:]) for a in (keys, x_0, v))
        one = lambda keys, x_0, v: noised(  # noqa: E731
            network, keys, x_0, v, jnp.arange(8), 1 / scale, LEVELS, time=lambda level: level
        )
        return jax.vmap(one)(*arguments)[0].mean()

    values = [float(loss(scale)) for scale in (0.6, 0.8, 1.0, 1.25, 1.6)]
    assert values[0] > values[1] > values[2] < values[3] < values[4]


# --- several devices -------------------------------------------------------------------------------------------------

W = {"image": 0.3 * jax.random.normal(jax.random.key(2), (6, 5)), "tau": jnp.log(5.0)}
BATCH = {
    "image": np.random.default_rng(0).normal(size=(8, 6)).astype(np.float32),
    "states": np.random.default_rng(1).normal(size=(8, 5)).astype(np.float32),
    "caption": np.array([0, 1, 2, 3, 0, 5, 2, 7], np.int32),  # equal ones on two devices
}


def loss_of(axis_name, params, keys, batch):
    """A loss as a train step takes it."""

    def network(x, t, keys):
        u = jnp.tanh(x @ params["image"]) + 0.01 * t[:, None]
        return u / jnp.linalg.norm(u, axis=1, keepdims=True)

    v = batch["states"] / jnp.linalg.norm(batch["states"], axis=1, keepdims=True)
    arguments = (keys, batch["image"], v, batch["caption"], jnp.exp(-params["tau"]), LEVELS)
    each, right = noised(network, *arguments, axis_name=axis_name)
    level = losses.corrupt(keys, batch["image"], LEVELS).level
    return each.mean(), {"retrieval": right.mean(), **by_quarter("retrieval", right, level, 50)}


def step_on(count, axis_name=AXIS, divided=False):
    """One step of gradient descent with rate 1: the change of the parameters is the gradient."""
    optimizer = optax.sgd(1.0)
    devices = jax.devices()[:count]
    loss = functools.partial(loss_of, axis_name)
    one = functools.partial(training.train_step, loss=loss, optimizer=optimizer, ema_decay=0.9)
    make = lambda: training.init(jax.random.key(3), W, optimizer)  # noqa: E731
    if divided:
        state, metrics = parallel.fully_sharded(one, devices)(parallel.init_sharded(make, devices), BATCH)
    else:
        state, metrics = parallel.data_parallel(one, devices)(parallel.place(make(), devices), BATCH)
    return jax.tree.map(jnp.subtract, W, jax.device_get(state.params)), jax.device_get(metrics)


@pytest.mark.parametrize(
    "options",
    [
        {"count": 2},
        pytest.param({"count": 4}, marks=pytest.mark.slow),
        {"count": 2, "axis_name": None, "divided": True},
    ],
)
def test_several_devices_have_the_loss_and_the_gradient_of_one(options):
    one, several = step_on(1), step_on(**options)
    chex.assert_trees_all_close(one, several, rtol=1e-4, atol=1e-6)
    assert all(jnp.abs(leaf).max() > 1e-3 for leaf in jax.tree.leaves(one[0]))


def test_the_gradient_is_that_of_the_whole_batch_and_needs_the_other_devices():
    def whole(params):
        key = jax.random.fold_in(jax.random.key(3), 0)
        return loss_of(
            None,
            params,
            jax.vmap(lambda i: jax.random.fold_in(key, i))(jnp.arange(8)),
            jax.tree.map(jnp.asarray, BATCH),
        )

    (value, metrics), gradient = jax.jit(jax.value_and_grad(whole, has_aux=True))(W)
    found, measured = step_on(2)
    chex.assert_trees_all_close(found, gradient, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(measured["loss"], value, rtol=1e-5)
    assert training.numbers(measured).keys() == training.numbers({**metrics, "loss": value}).keys() | {
        "grad_norm",
        "update_norm",
        "param_norm",
    }
    apart, own = step_on(2, axis_name=None)
    assert own["loss"] < 0.8 * value
    assert jnp.abs(apart["image"] - gradient["image"]).max() > 1e-2
