"""config.json with missing facts, other types and other bytes: one sentence that says what is wrong and what to do."""

import copy
import json

import pytest

from guided_jax.app import config_file, experiments, facts, settings
from guided_jax.app import run as runs

KNOWN = facts.Facts((8, 8, 1), 3, (0.5, 0.25, 0.25), 100, ("a", "b", "c"))
GOOD = {"experiment": settings.to_dict(experiments.load("digits")), "facts": KNOWN._asdict()}

BYTES = {
    b"": "Expecting value",
    b"\0\1\2\xfe": "Expecting value",
    b'{"experiment": "\xe9"}': "'utf-8' codec can't decode byte 0xe9",
    b"[]": "it is not an object",
    b"null": "it is not an object",
    b"{}": "it has no 'experiment'",
    b'{"experiment": {}}': "it has no 'facts'",
    b'{"experiment": [], "facts": {}}': "Experiment is []",
    b"[" * 100_000: "maximum recursion depth",
    json.dumps(GOOD).encode()[:-1]: "Expecting",
}


@pytest.mark.parametrize("content", BYTES, ids=list(BYTES.values()))
def test_other_bytes(content, tmp_path):
    (tmp_path / "config.json").write_bytes(content)
    refused(tmp_path, BYTES[content])


VALUES = {
    "facts": (None, "facts is None"),
    "facts.image_shape": ([8, 8], "image_shape is [8, 8]"),
    "facts.num_classes": ("3", "num_classes is '3'"),
    "facts.class_frequencies": ([0.5, 0.5], "class_frequencies is [0.5, 0.5]"),
    "facts.class_names": (["a", "b", 3], "class_names is ['a', 'b', 3]"),
    "facts.num_examples": (0.5, "num_examples is 0.5"),
    "experiment.seed": (None, "Experiment.seed is None"),
    "experiment.data": ("digits", "Data is 'digits'"),
    "experiment.tensorboard": (1, "Experiment.tensorboard is 1"),
    "experiment.schedule.num_steps": ("50", "Schedule.num_steps is '50'"),
    "experiment.schedule.name": ("quadratic", "Schedule.name is 'quadratic'"),
    "experiment.data.image_size": ([8, 8, 8], "Data.image_size is (8, 8, 8)"),
    "experiment.diffusion.network.channel_mult": ([1, "2"], "UNet.channel_mult is (1, '2')"),
    "experiment.diffusion.from_run": (3, "Diffusion.from_run is 3"),
}


def changed(name, *value):
    """Return the description with another value, or without it."""
    found = copy.deepcopy(GOOD)
    *path, last = name.split(".")
    section = found
    for word in path:
        section = section[word]
    section.pop(last)
    section.update(dict.fromkeys([last], *value) if value else {})
    return json.dumps(found)


@pytest.mark.parametrize("name", VALUES)
def test_other_values(name, tmp_path):
    value, reason = VALUES[name]
    (tmp_path / "config.json").write_text(changed(name, value))
    refused(tmp_path, reason)


@pytest.mark.parametrize("name", ["image_shape", "num_classes", "class_frequencies"])
def test_missing_facts(name, tmp_path):
    (tmp_path / "config.json").write_text(changed(f"facts.{name}"))
    refused(tmp_path, f"it has no '{name}'")


def test_what_is_right_is_read(tmp_path):
    """Settings and facts that are newer than the run may be missing; a whole number stands for a float."""
    for name in ("facts.num_examples", "facts.class_names", "experiment.diffusion.times", "experiment.devices"):
        (tmp_path / "config.json").write_text(changed(name))
        assert runs.load(tmp_path).facts.image_shape == (8, 8, 1)
    (tmp_path / "config.json").write_text(changed("experiment.diffusion.ema_decay", 0))
    assert runs.load(tmp_path).experiment.diffusion.ema_decay == 0
    (tmp_path / "config.json").write_text(json.dumps(GOOD))
    assert runs.load(tmp_path).facts == KNOWN
    assert runs.load(tmp_path).experiment == experiments.load("digits")


def refused(place, reason):
    for read in (runs.load, lambda place: config_file.create(place, experiments.load("digits"), KNOWN)):
        with pytest.raises(ValueError, match=r"; restore it, or make the run again with another --out$") as error:
            read(place)
        assert str(error.value).startswith(f"{place / 'config.json'} is damaged ({reason}")
        assert len(str(error.value)) < 400
