"""The built-in experiments: every network that they train can be made of the shapes of their data."""

import dataclasses

import jax
import pytest

from guided_jax.app import experiments, facts
from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.train import checks, command, networks

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


@pytest.mark.parametrize(
    ("name", "chosen", "ignored"), [("digits", "dit", "network"), ("digits_latent", "unet", "transformer")]
)
def test_the_command_line_may_choose_the_other_architecture(name, chosen, ignored):
    """What the file says of the network that is replaced is left out; what an option says of it too is refused."""
    of_file = experiments.load(name)
    assert command.leave_out_ignored(of_file, of_file) is of_file
    asked = dataclasses.replace(of_file, diffusion=dataclasses.replace(of_file.diffusion, architecture=chosen))
    with pytest.raises(ValueError, match="has no effect with"):
        checks.check(asked)
    made = command.leave_out_ignored(asked, of_file)
    checks.check(made)
    assert getattr(made.diffusion, ignored) == getattr(schema.Diffusion(), ignored)
    own = dataclasses.replace(getattr(of_file.diffusion, ignored), dtype="bfloat16")
    both = dataclasses.replace(asked, diffusion=dataclasses.replace(asked.diffusion, **{ignored: own}))
    with pytest.raises(
        ValueError, match=f"--diffusion.{ignored}.dtype has no effect with --diffusion.architecture {chosen}"
    ):
        checks.check(command.leave_out_ignored(both, of_file))
