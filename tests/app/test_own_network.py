"""Networks that are not ours: Flax NNX, a plain function of arrays, a foreign one that wants a batch; all one Denoiser."""

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx

from guided_jax import denoiser, guidance, reverse, sampler, schedule
from tests.oracle import MIXTURE

LEVELS = schedule.respace(schedule.cosine(1000), 8)
WEIGHTS = {"w": jnp.array([[0.3, -0.2], [0.1, 0.4]]), "b": jnp.array([0.05, -0.1])}


class Nnx(nnx.Module):
    """x W + b + y, and not a function of time: what it computes matters less than how it is carried."""

    def __init__(self, rngs):
        self.linear = nnx.Linear(2, 2, rngs=rngs)

    def __call__(self, x, time, label):
        return self.linear(x) + 0.1 * label


def plain(weights, x, time, label):
    return x @ weights["w"] + weights["b"] + 0.1 * label


def draw(network):
    """(weights, key, label, scale) -> a sample guided both ways, from a network (weights, x, time, label)."""

    def one(weights, key, label, scale):
        net = lambda y: denoiser.from_network(lambda x, t: network(weights, x, t, y))  # noqa: E731
        denoise = guidance.classifier_free(net(label), net(0.0), scale)
        denoise = guidance.clip(guidance.classifier(denoise, MIXTURE.log_prob(1), scale))
        return sampler.sample(key, denoise, reverse.ddim(0.5), jax.random.normal(key, (2,)), LEVELS)

    return jax.jit(jax.vmap(one, (None, 0, 0, 0)))


ARGUMENTS = (jax.random.split(jax.random.key(0), 5), jnp.arange(5.0), jnp.linspace(0.0, 3.0, 5))


def expected():
    return draw(plain)(WEIGHTS, *ARGUMENTS)


def test_nnx_weights_are_arguments_of_the_compiled_sampler():
    """`split` gives the weights as data; `merge` puts them back where they are traced."""
    module = Nnx(nnx.Rngs(0))
    module.linear.kernel[...], module.linear.bias[...] = WEIGHTS["w"], WEIGHTS["b"]
    graph, weights = nnx.split(module)
    traced = []

    def network(weights, x, time, label):
        traced.append(label)
        return nnx.merge(graph, weights)(x, time, label)

    run = draw(network)
    np.testing.assert_allclose(run(weights, *ARGUMENTS), expected(), atol=1e-5)
    count = len(traced)
    doubled = jax.tree.map(lambda w: 2 * w, weights)
    assert not np.allclose(run(doubled, *ARGUMENTS), expected())
    assert len(traced) == count > 0  # other weights, the same program


def test_a_network_that_wants_a_batch():
    def foreign(weights):
        def call(x, time, label):
            assert x.ndim == 2
            assert time.shape == label.shape == (1,)
            return x @ weights["w"] + weights["b"][None] + 0.1 * label[:, None]

        return call

    run = draw(lambda weights, x, t, y: denoiser.from_batched(foreign(weights))(x, t, y))
    np.testing.assert_allclose(run(WEIGHTS, *ARGUMENTS), expected(), atol=1e-5)


def test_a_plain_function_is_what_the_others_are_held_against():
    assert expected().shape == (5, 2)
    assert jnp.all(jnp.isfinite(expected()))
