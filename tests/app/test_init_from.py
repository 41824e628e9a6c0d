"""Fine-tuning: the state before the first step has the weights of another run, and what does not fit is named."""

import dataclasses
import json

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from guided_jax.app import run as runs
from guided_jax.app.train import command as train
from guided_jax.app.train import init_from, job, networks
from tests.scripts import SMALL, run_script

EMBEDDING = "params/label_emb/embedding"


def started(source, part="diffusion", facts=None, network=None, **changes):
    """A run whose network starts from `source`, whose own settings it has but for the changes."""
    run = runs.load(source)
    settings = getattr(run.experiment, part)
    settings = dataclasses.replace(settings, init_from=source, **changes)
    if network:
        settings = dataclasses.replace(settings, network=dataclasses.replace(settings.network, **network))
    experiment = dataclasses.replace(run.experiment, **{part: settings})
    return runs.assemble(experiment, run.facts._replace(**(facts or {})))


def flat(tree):
    return traverse_util.flatten_dict(jax.device_get(tree), sep="/")


def blank(run, part):
    """Params of the network that are not a number."""
    shapes = jax.eval_shape(lambda: networks.init_state(run, part).params)
    return jax.tree.map(lambda leaf: jnp.full(leaf.shape, jnp.nan), shapes)


def assert_starts_there(state, source):
    """Weights and their average are those of the run; the optimizer has not moved."""
    theirs = jax.device_get(runs.params(source, "diffusion"))
    chex.assert_trees_all_equal(jax.device_get((state.params, state.ema)), (theirs, theirs))
    assert int(state.step) == 0
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim]
    assert moments
    assert not any(np.any(leaf) for leaf in moments)


def test_a_state_that_is_divided_over_devices_starts_with_the_weights_of_the_run(tiny, tmp_path):
    run = started(tiny)
    run = run._replace(experiment=dataclasses.replace(run.experiment, shard_parameters=True, devices=2))
    task = networks.make_task(run, "diffusion", run.source)
    state = job.prepare(task, run.experiment.diffusion, tmp_path).start()
    assert_starts_there(state, tiny)
    assert {leaf.sharding.is_fully_replicated for leaf in jax.tree.leaves(state.params)} == {True, False}


@pytest.mark.parametrize(
    ("changes", "rows", "words"),
    [
        ({"facts": {"num_classes": 3}}, 0, "; new: label_emb, for 3 classes here and 10 classes there"),
        ({"facts": {"class_names": tuple("abcdefghij")}}, 0, "; new: label_emb, for 10 classes of other names"),
        ({"label_dropout": 0.0}, 10, "step 4"),
    ],
)
def test_a_label_embedding_of_other_classes_is_made_anew(changes, rows, words, tiny, tmp_path):
    """`rows` of it are theirs; all other weights are theirs."""
    run, theirs = started(tiny, **changes), flat(runs.params(tiny, "diffusion"))
    found = flat(init_from.merge(blank(run, "diffusion"), init_from.load(run, "diffusion")))
    np.testing.assert_array_equal(found[EMBEDDING][:rows], theirs[EMBEDDING][:rows])
    assert np.isnan(found[EMBEDDING][rows:]).all()
    chex.assert_trees_all_equal(*({**each, EMBEDDING: 0} for each in (found, theirs)))
    assert init_from.check(run, "diffusion", tmp_path).endswith(words)


def test_a_head_of_other_classes_is_made_anew(tiny, tmp_path):
    run = started(tiny, "classifier", {"num_classes": 3})
    found = flat(init_from.merge(blank(run, "classifier"), init_from.load(run, "classifier")))
    assert {name for name, weight in found.items() if np.isnan(weight).any()} == {
        "params/out_2/c_proj/kernel",
        "params/out_2/c_proj/bias",
    }
    assert "new: out_2/c_proj, for 3 classes here" in init_from.check(run, "classifier", tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        (
            {"network": {"model_channels": 32}},
            r"input_blocks_0_0/bias is \(16,\) there and \(32,\) here, and \d+ more; give the --diffusion.network",
        ),
        ({"network": {"channel_mult": (1, 1)}}, r"is absent there and \(\d+.*\) here, and \d+ more"),
        ({"network": {"num_groups": 4}}, "does not fit: num_groups is 8 there and 4 here; give"),
        ({"network": {"num_head_channels": None}}, "num_head_channels is 16 there and None here, num_heads is None"),
        (
            {"facts": {"image_shape": (8, 8, 3)}},
            r"input_blocks_0_0/kernel is \(3, 3, 1, 16\) there and \(3, 3, 3, 16\)",
        ),
        ({"num_steps": 0}, "has no effect with --diffusion.num-steps 0; leave it out"),
    ],
)
def test_a_network_that_does_not_fit_is_refused(changes, words, tiny, tmp_path):
    with pytest.raises(ValueError, match=rf"^--diffusion.init-from {tiny}.* {words}"):
        init_from.check(started(tiny, **changes), "diffusion", tmp_path)


def test_what_another_training_changes_is_said(tiny, tmp_path):
    said = init_from.check(started(tiny, parameterization="v"), "diffusion", tmp_path)
    assert said.splitlines()[1:] == ["note: what diffusion learns changes: diffusion.parameterization: eps -> v"]


def test_a_run_that_is_resumed_does_not_need_the_other(tiny, tmp_path):
    experiment = started(tiny).experiment
    gone = dataclasses.replace(experiment.diffusion, init_from=tmp_path / "gone")
    run = runs.assemble(dataclasses.replace(experiment, diffusion=gone), runs.load(tiny).facts)
    assert init_from.check(run, "diffusion", tiny) is None
    with pytest.raises(ValueError, match="gone is not a run"):
        init_from.check(run, "diffusion", tmp_path)


def test_the_command_says_what_it_starts_from_and_records_it(tiny, tmp_path, monkeypatch, capsys):
    def fit(prepared, stop):
        chex.assert_trees_all_equal(
            jax.device_get(prepared.start().ema), jax.device_get(runs.params(tiny, "diffusion"))
        )
        config = json.loads((tmp_path / "run" / "config.json").read_text())["experiment"]
        assert config["diffusion"]["init_from"] == prepared.config["diffusion"]["init_from"] == str(tiny)
        raise OSError("far enough")

    monkeypatch.setattr(train.loop, "fit", fit)
    monkeypatch.chdir(tiny.parent)
    arguments = ["digits", "--out", tmp_path / "run", "--data.dir", tiny.parent / "data", *SMALL]
    code, out, err = run_script(train.main, [*arguments, "--diffusion.init-from", tiny.name], capsys)
    assert (code, err) == (2, "error: far enough\n")
    assert f"diffusion starts from the averaged weights of {tiny}, step 4\n" in out
