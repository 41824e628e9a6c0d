"""+anneal: which part of a condition the noise is put in, of prompts, of numbers and of classes."""

import dataclasses
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from guided_jax import model, schedule
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.sample import annealing, guidances
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method

LEVELS = schedule.cosine(100)
REQUEST = Method("classifier-free+anneal", anneal=annealing.Annealing(anneal_mix=0.0))
SHAPE = (2, 2, 1)


def told(found, params, label, position, text=None, request=REQUEST, **of_model):
    """What the network is called with, params and condition, for the label and for none, at a level."""
    seen = []

    def network(params, x, time, condition):
        seen.append((params, condition))
        return x

    made = model.Model(network, LEVELS, "x_0", shape=SHAPE, **of_model)
    run = runs.from_params(made, found, {"diffusion": params}, text=text)
    parts = Parts(run, request, {"diffusion": params}, label, key=jax.random.key(3))
    guidances.guide(request, parts)(jnp.zeros(SHAPE), schedule.at(LEVELS, position))
    return seen


@pytest.mark.parametrize("table", ["label_emb", "y_embedder"])
def test_of_a_class_the_row_of_its_embedding_is_noisy(table):
    params = {"params": {table: {"embedding": jnp.arange(12.0).reshape(4, 3)}, "out": {"embedding": jnp.ones((4, 3))}}}
    ten = facts.Facts((2, 2, 1), 3, (0.3, 0.3, 0.4))
    for position, noisy in ((50, False), (95, True)):
        (with_label, one), (without, null) = told(ten, params, 1, position, null=3)
        assert (one, null) == (1, 3)
        moved = np.abs(with_label["params"][table]["embedding"] - params["params"][table]["embedding"]).max(1)
        assert list(moved > 0) == [False, noisy, False, False]
        np.testing.assert_array_equal(with_label["params"]["out"]["embedding"], 1)
        jax.tree.map(np.testing.assert_array_equal, without, params)  # the unconditional model as it is
    annealing.check_tables(params)
    with pytest.raises(ValueError, match="no table of the embeddings of its classes; leave out"):
        annealing.check_tables({"params": {"out": params["params"]["out"]}})


def test_of_numbers_those_that_are_known_are_noisy():
    """0 stays where a number is not known, and so does which are."""
    two = facts.Facts((2, 2, 1), 3, (), labelling="vector")
    label, null = jnp.array([0.5, jnp.nan, 2.0]), jnp.full(3, jnp.nan)
    (_, with_label), (_, without) = told(two, {}, label, 95, null=null, condition=model.known_values)
    np.testing.assert_array_equal(with_label[3:], [1, 0, 1])
    assert with_label[1] == 0
    assert (np.abs(with_label[:3:2] - np.array([0.5, 2.0])) > 1e-3).all()
    np.testing.assert_array_equal(without, 0)
    (_, late), _ = told(two, {}, label, 60, null=null, condition=model.known_values)
    np.testing.assert_array_equal(late, model.known_values(None, label))


def test_of_a_prompt_the_states_of_the_text_are_noisy():
    """And not the sizes that the network is told."""

    def condition(params, raw):
        return {"context": jnp.full((4, 5), raw + 0.0), "pooled": jnp.full(6, raw + 1.0), "time_ids": jnp.arange(6.0)}

    prompts = facts.Facts((2, 2, 1), 2, (0.5, 0.5))
    (_, with_text), (_, without) = told(
        prompts, {}, 7, 80, text=SimpleNamespace(takes_mask=False), null=0, condition=condition
    )
    jax.tree.map(np.testing.assert_array_equal, without, condition({}, 0))
    np.testing.assert_array_equal(with_text["time_ids"], jnp.arange(6.0))
    for name, own in condition({}, 7).items():
        assert (np.std(with_text[name] - own) > 0.05) == (name != "time_ids")


def test_of_a_caption_the_tokens_that_there_are():
    """Where there is none it stays so, and the noise has the mean and the deviation of the others alone."""
    states = jnp.stack([jnp.arange(40.0), 3 - jnp.arange(40.0), jnp.full(40, jnp.nan)])
    prompts = facts.Facts((2, 2, 1), 2, (0.5, 0.5))
    given = {"text": SimpleNamespace(takes_mask=False), "null": jnp.full((3, 40), jnp.nan)}
    (_, with_text), (_, without) = told(prompts, {}, states, 95, **given)
    np.testing.assert_array_equal(np.isnan(with_text), np.isnan(states))
    assert np.isnan(without).all()
    assert np.abs(with_text - states)[:2].min() > 0
    request = dataclasses.replace(REQUEST, anneal=annealing.Annealing())
    (_, mixed), _ = told(prompts, {}, states, 95, request=request, **given)
    np.testing.assert_allclose(np.nanmean(mixed), np.nanmean(states), rtol=1e-5)
    np.testing.assert_allclose(np.nanstd(mixed), np.nanstd(states), rtol=1e-5)
