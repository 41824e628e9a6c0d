"""The built-in experiments: every network that they train can be made of the shapes of their data."""

import dataclasses

import jax
import pytest

from guided_jax.app import experiments, facts
from guided_jax.app import run as runs
from guided_jax.app.train import checks, networks

SHAPES = {"digits": (8, 8, 1), "emoji": (32, 32, 3), "emoji:64": (64, 64, 3), "npz:signals.npz": (64, 1, 2)}


# Its network is made in the fast suite by tests/pretrained/test_adm_weights.py.
LONG = "imagenet64_adm"


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=pytest.mark.slow if name == LONG else ()) for name in experiments.names()]
)
@pytest.mark.parametrize("text", ["words", "minilm"])
def test_every_network_can_be_made(name, text):
    experiment = experiments.load(name)
    data = experiment.data
    if data.text == "none" and text == "minilm":
        pytest.skip("no captions")
    if data.text != "none":
        experiment = dataclasses.replace(experiment, data=dataclasses.replace(data, text=text))
    side = data.image_size or 28
    shape = SHAPES.get(data.name, (side, side, 3))
    kind, labelling = "signals" if data.signals else "pictures", "class" if data.text == "none" else "text"
    known = facts.Facts(shape, 10, (0.1,) * 10, kind=kind, labelling=labelling, words=("a", "cat"))
    checks.check(experiment)
    run = runs.assemble(experiment, known)
    trained = networks.trained_parts(experiment)
    assert trained
    for part in trained:
        state = jax.eval_shape(lambda part=part: networks.init_state(run, part))
        assert sum(leaf.size for leaf in jax.tree.leaves(state.params)) > 1000
