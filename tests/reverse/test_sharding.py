"""Every sampler and every stateful guidance on several devices draws what it draws on one."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding
from jax.sharding import PartitionSpec as P

from guided_jax import denoiser, guidance, likelihood, operators, reverse, sampler, schedule
from tests.steppers import STEPPERS, of_each_kind

TABLE = schedule.cosine(1000)
LEVELS = schedule.respace(TABLE, 3)
KEYS = jax.random.split(jax.random.key(0), 4)
X_T = jax.random.normal(jax.random.key(1), (4, 8))
LABELS = jnp.arange(4.0)


def net(label):
    return denoiser.from_network(lambda x, t: 0.5 * x + 0.1 * label, "v")


def projected(label):
    return guidance.projected(net(label), net(0.0), 2.0, momentum=-0.5)


def conditioned(label):
    return guidance.self_conditioned(lambda estimate: lambda x, level: guidance.clip(projected_first(label))(x, level))


def projected_first(label):
    return guidance.first_state(projected(label))


def lifted(label):
    return guidance.lift(guidance.clip, projected(label))


def sampled(step):
    return lambda key, x, label: sampler.sample(key, net(label), step, x, LEVELS)


def with_state(make):
    def draw(key, x, label):
        stateful = make(label)
        return sampler.sample(key, net(label), reverse.with_state(stateful, reverse.dpm_solver(2)), x, LEVELS)

    return draw


OBSERVED = jnp.arange(8) % 2
DRAWS = {name: sampled(stepper.make(TABLE)) for name, stepper in STEPPERS.items()} | {
    "dps": sampled(reverse.dps(reverse.unipc(2), operators.mask(OBSERVED), 0.5 * OBSERVED, 0.3)),
    "repaint": sampled(reverse.repaint(reverse.dpm_solver(2), OBSERVED, jnp.ones(8), 2)),
    "ddnm": sampled(reverse.ddnm(operators.mask(OBSERVED), 0.5 * OBSERVED, 0.1)),
    "daps": sampled(reverse.daps(lambda x, level: -jnp.sum(x**2), TABLE, 2.0, 2, 3)),
    "training_free": sampled(
        reverse.training_free(reverse.dpm_solver(2), lambda x, level: -jnp.sum(x**2), samples=2, recurrence=2)
    ),
    "classifier_ddpm": sampled(reverse.classifier_ddpm(lambda x, level: -jnp.sum(x**2), 0.1)),
    "with_state of projected": with_state(projected),
    "with_state of self_conditioned": with_state(conditioned),
    "with_state of a lifted guidance": with_state(lifted),
    "encode": lambda key, x, label: sampler.encode(net(label), reverse.dpm_solver(2), x, LEVELS),
    "log_density": lambda key, x, label: likelihood.log_density(
        net(label), x, LEVELS, TABLE, likelihood.hutchinson(jax.random.key(2))
    ),
}


# Without a memory, with those of a solver and of a guidance, and a likelihood; the others are slow, and compile only.
FAST = {"ddim", "unipc-2", "with_state of projected", "log_density"}


@pytest.mark.parametrize(
    "name", [name if name in FAST else pytest.param(name, marks=pytest.mark.slow) for name in DRAWS]
)
def test_under_shard_map_and_on_meshes_it_draws_the_same(name):
    """jit(shard_map(vmap(...))), NamedSharding on an automatic mesh, and an explicit mesh."""
    batched = jax.vmap(DRAWS[name])
    want = jax.jit(batched)(KEYS, X_T, LABELS)
    assert jnp.all(jnp.isfinite(want))
    for axis_type in (AxisType.Auto, AxisType.Explicit):
        mesh = jax.make_mesh((2,), ("data",), axis_types=(axis_type,))
        arguments = jax.device_put((KEYS, X_T, LABELS), NamedSharding(mesh, P("data")))
        if axis_type == AxisType.Auto:
            mapped = jax.shard_map(batched, mesh=mesh, in_specs=P("data"), out_specs=P("data"))
            np.testing.assert_allclose(jax.jit(mapped)(*arguments), want, rtol=1e-5, atol=1e-6)
        with jax.set_mesh(mesh):
            np.testing.assert_allclose(jax.jit(batched)(*arguments), want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", of_each_kind(name for name in DRAWS if name != "log_density"))
def test_one_example_may_itself_be_sharded_on_an_explicit_mesh(name):
    mesh = jax.make_mesh((2,), ("data",), axis_types=(AxisType.Explicit,))
    with jax.set_mesh(mesh):
        x_T = jax.device_put(X_T[0], NamedSharding(mesh, P("data")))
        found = jax.eval_shape(DRAWS[name], KEYS[0], x_T, LABELS[0])
    assert found.sharding.spec == P("data")
