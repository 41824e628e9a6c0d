"""The type of a sampler's state is that of x_T, at least float32, whatever the types of tables, scales and networks."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import denoiser, guidance, likelihood, operators, reverse, sampler, schedule
from guided_jax.guidance import Stateful
from guided_jax.prediction import Prediction
from tests.members import MEMBERS, SHAPE, as_denoiser
from tests.steppers import STEPPERS, of_each_kind

TABLE = schedule.cosine(1000)
LEVELS = schedule.respace(TABLE, 4)
TWO, HALF = np.float64(2.0), np.float64(0.5)


def wide(levels):
    return schedule.NoiseLevel(*(np.asarray(column, np.float64) for column in levels))


def network(x, t):
    """Of float64 parameters, in 64-bit mode."""
    return jnp.asarray(np.float64(0.5)) * x


def guided():
    conditional, unconditional = denoiser.from_network(network, "v"), denoiser.from_network(lambda x, t: 0.1 * x, "v")
    return guidance.classifier_free(conditional, unconditional, TWO)


def half(x_t, level):
    """A user's own denoiser, in half precision."""
    return Prediction(0.5 * x_t.astype(jnp.bfloat16), 0.1 * x_t.astype(jnp.bfloat16))


# Of the state, the table and the predictions.
COMBINATIONS = [
    ("float32", "float64", "float64"),
    ("float64", "float32", "float64"),
    ("float32", "float32", "bfloat16"),
]


@pytest.mark.parametrize(("state", "table", "predictions"), COMBINATIONS, ids=map("-".join, COMBINATIONS))
@pytest.mark.parametrize("name", of_each_kind(STEPPERS))
def test_every_sampler_keeps_the_type_of_its_state(name, state, table, predictions):
    with jax.enable_x64(True):
        full, levels = (wide(TABLE), wide(LEVELS)) if table == "float64" else (TABLE, LEVELS)
        step, denoise = STEPPERS[name].make(full), half if predictions == "bfloat16" else guided()
        x = jax.ShapeDtypeStruct((3,), state)
        x_0, memory, _ = jax.eval_shape(lambda x: sampler.run(jax.random.key(0), denoise, step, x, levels), x)
        start = jax.eval_shape(step.init, x)
    assert x_0.dtype == state
    assert [leaf.dtype for leaf in jax.tree.leaves(memory)] == [leaf.dtype for leaf in jax.tree.leaves(start)]


@pytest.mark.parametrize("learned_variance", [False, True])
def test_guidance_does_not_round_to_the_half_precision_of_a_network(learned_variance):
    """A scale that is a number guides as one that is traced."""
    level, x = schedule.at(TABLE, 500), jnp.array([0.37, -1.1])

    def net(factor):
        half = lambda x, t: jnp.tile((factor * x).astype(jnp.bfloat16), 1 + learned_variance)  # noqa: E731
        return denoiser.from_network(half, "x_0", learned_variance)

    found = guidance.classifier_free(net(0.5), net(0.31), 3.3)(x, level)
    want = guidance.classifier_free(net(0.5), net(0.31), jnp.float32(3.3))(x, level)
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype("float32")}
    np.testing.assert_array_equal(found.x_0, want.x_0)


KNOBS = {
    "ddim": lambda: reverse.ddim(HALF),
    "dpm-2": lambda: reverse.dpm_solver(2, HALF),
    "dpm-3": lambda: reverse.dpm_solver(3, HALF),
    "dpm-2s": lambda: reverse.dpm_solver_2s(wide(TABLE), HALF),
    "reverse-sde": lambda: reverse.reverse_sde(HALF),
    "churned": lambda: reverse.churned(reverse.heun(), wide(TABLE), HALF, HALF, np.float64(50), np.float64(1.003)),
    "langevin": lambda: reverse.chain(reverse.langevin(np.float64(0.05)), reverse.ddim(HALF)),
    "annealed": lambda: reverse.annealed_langevin(np.float64(0.2), 2),
    "dps": lambda: reverse.dps(reverse.ddim(HALF), operators.mask(jnp.ones(3)), jnp.ones(3), HALF),
    "repaint": lambda: reverse.repaint(reverse.ddim(HALF), jnp.ones(3), jnp.ones(3), 2),
    "ddnm": lambda: reverse.ddnm(operators.mask(jnp.ones(3)), jnp.ones(3), HALF),
    "diffpir": lambda: reverse.diffpir(operators.mask(jnp.ones(3)), jnp.ones(3), HALF, TWO, HALF),
    "daps": lambda: reverse.daps(lambda x, level: -jnp.sum(HALF * x**2), wide(LEVELS), TWO, 2, 2, HALF, TWO),
    "split gibbs": lambda: reverse.split_gibbs(operators.mask(jnp.ones(3)), jnp.ones(3), HALF, wide(LEVELS), 2),
    "training free": lambda: reverse.training_free(
        reverse.ddim(HALF), lambda x, level: -jnp.sum(HALF * x**2), HALF, TWO, HALF, 2, 2, 2, wide(LEVELS)
    ),
    "off the shelf": lambda: reverse.off_the_shelf_ddpm(lambda x, level: -jnp.sum(x), TWO, wide(LEVELS), HALF),
    "optimal": lambda: reverse.ddpm(reverse.optimal_variance(reverse.normal_spread(HALF))),
    "function": lambda: reverse.ddpm(lambda prediction, now, then: HALF),
    "classifier": lambda: reverse.classifier_ddpm(lambda x, level: -jnp.sum(HALF * x), TWO),
    "stateful": lambda: reverse.with_state(
        guidance.projected(guided(), guided(), TWO, HALF, HALF, TWO), reverse.annealed_langevin(0.2, 2)
    ),
}


@pytest.mark.parametrize("name", KNOBS)
def test_numpys_float64_constants_do_not_widen_the_state(name):
    with jax.enable_x64(True):
        run = lambda x: sampler.sample(jax.random.key(0), guided(), KNOBS[name](), x, wide(LEVELS))  # noqa: E731
        assert jax.eval_shape(run, jax.ShapeDtypeStruct((3,), jnp.float32)).dtype == jnp.float32


def of_label(y):
    """A network of a few operations that takes a label, of float64 parameters in 64-bit mode."""
    return denoiser.from_network(lambda x, t: network(x, t) + y, "v")


@pytest.mark.parametrize("name", MEMBERS)
def test_every_guidance_keeps_the_type_of_the_state(name):
    log_prob = lambda y: lambda x, level: -jnp.sum((x - y) ** 2)  # noqa: E731

    def draw(x, y, scale, knob):
        made = MEMBERS[name].make(of_label, log_prob, y, scale, knob)
        step = reverse.with_state(made, reverse.heun()) if isinstance(made, Stateful) else reverse.heun()
        return sampler.sample(jax.random.key(0), as_denoiser(made), step, x, wide(LEVELS))

    with jax.enable_x64(True):
        x = jax.ShapeDtypeStruct(SHAPE, jnp.float32)
        found = jax.eval_shape(lambda x, y: draw(x, y, TWO, np.float64(0.3)), x, jax.ShapeDtypeStruct((), jnp.int32))
    assert found.dtype == jnp.float32


@pytest.mark.parametrize("name", ["mmps", "pigdm"])
@pytest.mark.parametrize(
    "types", [("float32", "float64"), ("float64", "float32"), ("float32", "bfloat16")], ids="-".join
)
def test_a_measurement_guides_a_network_of_another_type(name, types):
    """Of the state and the network: the backward passes and the solution in between have the types that each wants."""
    state, own = types
    net = lambda x_t, level: Prediction(*[(0.5 * x_t).astype(own)] * 2)  # noqa: E731
    with jax.enable_x64(True):
        guided = getattr(guidance, name)(net, operators.mask(jnp.ones(3)), jnp.zeros(3), HALF)
        run = lambda x: sampler.sample(jax.random.key(0), guided, reverse.ddim(), x, wide(LEVELS))  # noqa: E731
        assert jax.eval_shape(run, jax.ShapeDtypeStruct((3,), state)).dtype == state


@pytest.mark.parametrize("name", ["ddpm", "dpm-3m", "unipc-2", "deis-3", "heun-churned"])
def test_64_bit_mode_draws_the_same_from_a_float32_state(name):
    """Up to rounding: constants of 64 bits are rounded to the state's type, in which everything is computed."""

    def draw(x):
        step = STEPPERS[name].make(TABLE)
        return jax.jit(lambda x: sampler.sample(jax.random.key(0), guided(), step, x, LEVELS))(x)

    x = np.array([0.3, -1.2, 0.7], np.float32)
    want = np.asarray(draw(x))
    with jax.enable_x64(True):
        found = draw(jnp.asarray(x))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, want, rtol=1e-4, atol=1e-5)


LIKELIHOODS = {
    "density": lambda denoise, x: likelihood.log_density(denoise, x, wide(LEVELS), wide(TABLE)),
    "bound": lambda denoise, x: likelihood.variational_bound(jax.random.key(0), denoise, x, wide(LEVELS)).total,
}


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_a_likelihood_is_of_the_type_of_its_example_and_float32_at_least(name):
    with jax.enable_x64(True):
        types = {
            dtype: jax.eval_shape(
                lambda x: LIKELIHOODS[name](guided(), x), jax.ShapeDtypeStruct((3,), dtype)
            ).dtype.name
            for dtype in ("float32", "float64", "bfloat16")
        }
    assert types == {"float32": "float32", "float64": "float64", "bfloat16": "float32"}
    x = jnp.array([1, -1, 0])  # which bfloat16 and int32 hold exactly
    found = jax.jit(functools.partial(LIKELIHOODS[name], guided()))
    first, *others = (found(x.astype(dtype)) for dtype in ("float32", "bfloat16", "int32"))
    np.testing.assert_array_equal(others, first)
