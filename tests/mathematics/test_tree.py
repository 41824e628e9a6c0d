"""An x of several modalities, a pytree: every sampler and guidance on the vector of all its elements."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import analytic, denoiser, grid, guidance, reverse, sampler, schedule
from tests.oracle import MIXTURE

LEVELS = grid.karras(schedule.cosine(1000), 10, sigma_max=20.0)
SOUND = analytic.GaussianMixture(
    weights=jnp.array([0.5, 0.5]),
    means=jnp.array([[[0.7], [0.1], [-0.4]], [[-0.5], [0.3], [0.6]]]),
    stds=jnp.array([0.2, 0.3]),
)
EXAMPLE = {"sound": jnp.zeros((3, 1)), "image": jnp.zeros(2)}
PARTS = {"image": MIXTURE, "sound": SOUND}


def network(label):
    """Return the exact network of two independent modalities, x_0 from a level; label: of each, None for all."""

    def both(x, level):
        return {name: mixture.denoiser(label)(x[name], level).x_0 for name, mixture in PARTS.items()}

    return both


def whole(label=None, net=network):
    return denoiser.from_network(denoiser.from_tree(net(label), EXAMPLE), "x_0", time=lambda level: level)


def separate(label=None):
    return {name: mixture.denoiser(label) for name, mixture in PARTS.items()}


NOISE = {name: jax.random.normal(jax.random.key(i), leaf.shape) for i, (name, leaf) in enumerate(EXAMPLE.items())}
STEPS = {"ddim": reverse.ddim(), "dpm++": reverse.dpm_solver(2), "heun": reverse.heun()}


def draw(denoise, x_T, step):
    return sampler.sample(jax.random.key(0), denoise, step, x_T, LEVELS)


def assert_as_separate(found, want):
    tree = denoiser.unravel(found, EXAMPLE)
    assert tree.keys() == want.keys()
    for name in want:
        np.testing.assert_allclose(tree[name], want[name], atol=1e-5, err_msg=name)


@pytest.mark.parametrize("step", STEPS.values(), ids=STEPS)
def test_independent_modalities_are_drawn_as_if_alone(step):
    """Guided without a classifier too: the guidance of the vector is that of each part."""

    def guided(conditional, unconditional):
        return guidance.classifier_free(conditional, unconditional, 1.7)

    @jax.jit
    def both():
        alone = {name: draw(guided(separate(1)[name], separate()[name]), NOISE[name], step) for name in PARTS}
        return draw(guided(whole(1), whole()), denoiser.ravel(NOISE), step), alone

    assert_as_separate(*both())


def test_a_classifier_of_one_modality_guides_that_one():
    log_prob = MIXTURE.log_prob(1)

    @jax.jit
    def both():
        of_image = lambda x_t, level: log_prob(denoiser.unravel(x_t, EXAMPLE)["image"], level)  # noqa: E731
        found = draw(guidance.classifier(whole(), of_image, 2.0), denoiser.ravel(NOISE), reverse.ddim())
        alone = {**separate(), "image": guidance.classifier(separate()["image"], log_prob, 2.0)}
        return found, {name: draw(alone[name], NOISE[name], reverse.ddim()) for name in PARTS}

    assert_as_separate(*both())


def test_a_stateful_guidance_of_the_vector_is_that_of_each_modality():
    """Self-conditioning, whose state is the last x_0 of all modalities."""

    def told(estimate):
        own = denoiser.unravel(estimate, EXAMPLE)
        shifted = lambda x, level: jax.tree.map(lambda x_0, last: x_0 + 0.1 * last, network(None)(x, level), own)  # noqa: E731
        return whole(net=lambda label: shifted)

    def alone(mixture):
        def make(estimate):
            exact = lambda x, level: mixture.denoiser()(x, level).x_0 + 0.1 * estimate  # noqa: E731
            return denoiser.from_network(exact, "x_0", time=lambda level: level)

        return guidance.self_conditioned(make)

    def run(stateful, x_T):
        return draw(guidance.first_state(stateful), x_T, reverse.with_state(stateful, reverse.ddim()))

    @jax.jit
    def both():
        found = run(guidance.self_conditioned(told), denoiser.ravel(NOISE))
        return found, {name: run(alone(mixture), NOISE[name]) for name, mixture in PARTS.items()}

    assert_as_separate(*both())


def test_a_learned_variance_is_that_of_each_modality():
    def twice(x, time):
        return {name: jnp.concatenate([part, jnp.full_like(part, i)], -1) for i, (name, part) in enumerate(x.items())}

    flat = denoiser.from_tree(twice, EXAMPLE, learned_variance=True)
    x, level = jnp.arange(5.0), schedule.at(LEVELS, 5)
    prediction = denoiser.from_network(flat, "x_0", learned_variance=True)(x, level)
    np.testing.assert_array_equal(prediction.x_0, x)
    fractions = denoiser.unravel(prediction.variance_fraction, EXAMPLE)
    np.testing.assert_array_equal(fractions["image"], jnp.full(2, 0.5))
    np.testing.assert_array_equal(fractions["sound"], jnp.full((3, 1), 1.0))


def test_a_tree_becomes_a_vector_and_comes_back():
    shapes = jax.eval_shape(lambda: EXAMPLE)
    for tree in (NOISE, {"image": jnp.ones(2), "sound": jnp.zeros((3, 1))}):
        found = denoiser.unravel(denoiser.ravel(tree), shapes)
        jax.tree.map(np.testing.assert_array_equal, found, tree)
    assert denoiser.unravel(jnp.zeros(5, jnp.bfloat16), shapes)["image"].dtype == jnp.bfloat16


@pytest.mark.parametrize(
    ("output", "said"),
    [
        (
            lambda x: x["image"],
            r"the network returned \(2,\) where \{'image': \(2,\), 'sound': \(3, 1\)\} was expected",
        ),
        (lambda x: {**x, "sound": x["image"]}, r"'sound': \(2,\)\} where"),
        (lambda x: {"image": x["image"]}, r"the network returned \{'image': \(2,\)\} where"),
        (lambda x: {**x, "sound": None}, "'sound': None"),
        (lambda x: {**x, "sound": 1.0}, "'sound': 'float'"),
    ],
)
def test_another_output_is_named(output, said):
    flat = denoiser.from_tree(lambda x, time: output(x), EXAMPLE)
    with pytest.raises(ValueError, match=said):
        flat(jnp.zeros(5), 0.0)


def test_a_vector_of_another_length_is_named():
    with pytest.raises(ValueError, match=r"x has shape \(6,\); it has to be a vector of the 5 elements"):
        denoiser.unravel(jnp.zeros(6), EXAMPLE)
