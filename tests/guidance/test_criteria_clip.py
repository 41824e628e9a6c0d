"""CLIP guidance with a CLIP that is exact: the one of the mixture, whose u . v / temperature is log p(y | x_t)."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import criteria, guidance, reverse, sampler, schedule
from guided_jax.prediction import Prediction
from tests.oracle import MIXTURE, SCHEDULES, points, reparameterized

COLD = 1 / 512  # |log p| is less than 1 / COLD where the tests look
NAMES = 3.0 * jnp.eye(3)[:2]  # two names, of length 3; the third number only makes the embeddings of length 1
LEVELS = SCHEDULES["cosine"]
places = pytest.mark.parametrize(
    ("name", "position"), [("cosine", 300), ("cosine", 800), ("linear", 500), ("karras", 25)]
)


def embed(x_t, level):
    """Return 7 u, u the embedding whose first numbers are COLD log p(y | x_t) of both classes."""
    known = COLD * jnp.stack([MIXTURE.log_prob(label)(x_t, level) for label in (0, 1)])
    return 7 * jnp.append(known, jnp.sqrt(1 - jnp.sum(jnp.square(known))))


def drawn(name, position):
    level = schedule.at(SCHEDULES[name], position)
    return level, points(jax.random.key(position), level, 8)


def assert_same(found, want, atol=2e-3):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=2e-3, atol=atol), found, want)


@jax.jit
@functools.partial(jax.vmap, in_axes=(0, 0, 0, None))
def by_both(x, label, scale, level):
    """Return the predictions that a CLIP guides, that of classifier-free guidance, and the values of all criteria."""
    one = criteria.similarity(embed, NAMES[label], temperature=COLD)
    chosen = criteria.among(embed, NAMES, label, COLD)
    found = [guidance.classifier(MIXTURE.denoiser(), each, scale)(x, level) for each in (one, chosen)]
    values = jnp.stack([one(x, level), chosen(x, level), MIXTURE.log_prob(label)(x, level)])
    return found, guidance.classifier_free(MIXTURE.denoiser(label), MIXTURE.denoiser(), scale)(x, level), values


@places
def test_a_noised_clip_guides_as_bayes_rule_says(name, position):
    """By the similarity and by the softmax among all names, at any scale: the prediction of classifier-free guidance."""
    level, x_t = drawn(name, position)
    found, want, values = by_both(x_t, jnp.arange(8) % 2, jnp.linspace(0.0, 3.0, 8), level)
    np.testing.assert_allclose(values[:, 0], values[:, 2], rtol=1e-3, atol=1e-3)
    np.testing.assert_allclose(values[:, 1], values[:, 2], rtol=1e-3, atol=1e-3)
    for each in found:
        assert_same(each, want)


def test_the_softmax_among_names_is_a_law_and_any_of_all_names_is_certain():
    level, x_t = drawn("cosine", 600)
    names = jax.random.normal(jax.random.key(0), (5, 3))

    @jax.jit
    def compute(x):
        log_prob = lambda index: criteria.among(embed, names, index, 0.1)(x, level)  # noqa: E731
        return jax.vmap(log_prob)(jnp.arange(5)), log_prob(jnp.arange(5)), embed(x, level)

    each, any_of_all, embedding = map(np.asarray, compute(x_t[0]))
    cosines = np.asarray(names) @ embedding / np.linalg.norm(names, axis=1) / 7
    want = cosines / 0.1 - np.log(np.exp(cosines / 0.1).sum())
    np.testing.assert_allclose(each, want, atol=1e-5)
    np.testing.assert_allclose(any_of_all, 0, atol=1e-5)
    with pytest.raises(ValueError, match="label 5 is out of range"):
        jax.eval_shape(lambda x: criteria.among(embed, names, 5)(x, level), x_t[0])


U, V = jnp.array([3.0, 4.0]), jnp.array([[2.0, 0.0], [0.0, -5.0]])
LEVEL = schedule.at(LEVELS, 400)


def identity(x, level):
    return x


def test_several_prompts_count_by_their_weights_and_a_negative_one_repels():
    weights = jnp.array([1.0, 0.5])
    np.testing.assert_allclose(
        criteria.similarity(identity, V, weights, 0.1)(U, LEVEL), 10 * (0.6 - 0.5 * 0.8), rtol=1e-5
    )
    angles = np.arccos([0.6, -0.8])
    np.testing.assert_allclose(
        criteria.spherical(identity, V, weights)(U, LEVEL), -(angles**2 / 2) @ [1, 0.5], rtol=1e-5
    )
    for make in (criteria.similarity, criteria.spherical):
        toward, away = (jax.grad(make(identity, V[0], jnp.array(w)))(U, LEVEL) for w in (1.0, -1.0))
        np.testing.assert_allclose(toward, -away, rtol=1e-6)
        assert toward @ V[0] > 0
        np.testing.assert_allclose(make(identity, V)(U, LEVEL), make(identity, V, jnp.ones(2))(U, LEVEL))


def test_a_negative_prompt_draws_fewer_of_its_class():
    step, levels = reverse.ddim(), schedule.respace(LEVELS, 15)

    def draw(key, weights):
        criterion = criteria.similarity(embed, NAMES, weights, COLD)
        denoise = guidance.classifier(MIXTURE.denoiser(), criterion, 1.0)
        return sampler.sample(key, denoise, step, jax.random.normal(key, (2,)), levels)

    keys = jax.random.split(jax.random.key(0), 200)
    clean = schedule.at(LEVELS, 30)
    weights = jnp.array([[0.0, 0.0], [0.0, -1.0], [0.0, 1.0]])
    of_class_1 = lambda key, weights: jnp.exp(MIXTURE.log_prob(1)(draw(key, weights), clean))  # noqa: E731
    of_class_1 = np.asarray(jax.jit(jax.vmap(jax.vmap(of_class_1, (0, None)), (None, 0)))(keys, weights)).mean(1)
    assert of_class_1[1] < 0.2 < 0.4 < of_class_1[0] < 0.6 < 0.8 < of_class_1[2]


def test_the_spherical_distance_is_crowsons_and_has_a_gradient_everywhere():
    of = lambda x: criteria.spherical(identity, V[0])(x, LEVEL)  # noqa: E731
    for angle in (0.0, 1e-3, 0.5, 2.0, np.pi - 1e-2):
        x = 3 * jnp.array([np.cos(angle), np.sin(angle)], jnp.float32)
        u = np.array([np.cos(angle), np.sin(angle)])
        chord = np.linalg.norm(u - [1, 0])
        np.testing.assert_allclose(of(x), -2 * np.arcsin(chord / 2) ** 2, rtol=1e-4, atol=1e-9)
        want = -angle / 3 * np.array([-np.sin(angle), np.cos(angle)])  # along the circle, of radius 3
        np.testing.assert_allclose(jax.grad(of)(x), want, rtol=1e-3, atol=1e-4)
    assert jnp.isfinite(jax.grad(of)(-V[0])).all()
    assert jnp.isfinite(jax.grad(of)(0 * V[0])).all()


@pytest.mark.parametrize("guide", [guidance.classifier, guidance.universal])
def test_the_parameterization_of_the_network_does_not_matter(guide):
    """Whoever adds the gradient to the output of a network that predicts v as if it were eps gets mosaics."""
    level, x_t = drawn("cosine", 500)
    criterion = criteria.similarity(embed, NAMES, jnp.array([1.0, -0.5]), COLD)

    def predict(parameterization):
        return jax.vmap(
            lambda x: guide(reparameterized(MIXTURE.denoiser(), parameterization), criterion, 2.0)(x, level)
        )

    plain = jax.vmap(lambda x: MIXTURE.denoiser()(x, level))
    by_v, by_eps, unguided = jax.jit(lambda x_t: [*(predict(each)(x_t) for each in ("v", "eps")), plain(x_t)])(x_t)
    assert_same(by_v, by_eps)
    assert np.abs(np.asarray(by_v.x_0) - np.asarray(unguided.x_0)).max() > 0.1


def test_each_example_has_its_prompts_its_weights_and_its_crops():
    """Another prompt, weight or key of one example leaves the others as they are, bit for bit; one program for all."""
    chex.clear_trace_counter()
    pictures = jax.random.normal(jax.random.key(0), (3, 6, 6, 1))
    texts, weights = jax.random.normal(jax.random.key(1), (3, 2, 16)), jnp.array([[1.0, -0.3], [0.4, 0.2], [1.0, 1.0]])
    keys = jax.random.split(jax.random.key(2), 3)

    @chex.assert_max_traces(n=1)
    def guided(x, text, weight, key):
        criterion = criteria.over_cutouts(
            criteria.spherical(lambda x, level: x.reshape(-1), text, weight), key, count=3, size=4
        )
        return guidance.universal(lambda x, level: Prediction(jnp.tanh(x), x), criterion, 5.0)(x, LEVEL).x_0

    compiled = jax.jit(jax.vmap(guided))
    first = compiled(pictures, texts, weights, keys)
    changes = (
        (pictures, texts.at[1].multiply(-1), weights, keys),
        (pictures, texts, weights.at[1, 0].set(3.0), keys),
        (pictures, texts, weights, keys.at[1].set(jax.random.key(9))),
    )
    for changed in changes:
        other = compiled(*changed)
        np.testing.assert_array_equal(other[jnp.array([0, 2])], first[jnp.array([0, 2])])
        assert jnp.abs(other[1] - first[1]).max() > 1e-4


def test_what_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="2 prompts and weights of shape \\(3,\\)"):
        criteria.similarity(identity, V, jnp.ones(3))
    with pytest.raises(ValueError, match="take one CLIP's"):
        criteria.similarity(identity, V)(jnp.ones(3), LEVEL)
    with pytest.raises(ValueError, match="of one example's prompts"):
        criteria.spherical(identity, jnp.ones((2, 2, 2)))
