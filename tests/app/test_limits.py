"""The table of ranges: every row from both sides of each end, and every number of every command has a row."""

import dataclasses
import importlib
import math
import typing
from pathlib import Path

import pytest

from guided_jax.app import experiments, limits
from guided_jax.app import settings as schema
from guided_jax.app.judge import Judging
from guided_jax.app.judge import main as judge_command
from guided_jax.app.posthoc import main as posthoc_command
from guided_jax.app.train import command as train
from tests.scripts import run_script


def settings_with(row, value):
    """Return a dataclass, of the class that the row names if any, with this field."""
    kind, _, name = row.rpartition(".")
    return dataclasses.make_dataclass(kind or "Settings", [(name, typing.Any)])(value)


def inside(allowed):
    """Yield values next to each end, or far out where there is none."""
    low, high = allowed.low, allowed.high
    yield -1e30 if low == -math.inf else math.nextafter(low, math.inf) if allowed.above else low
    yield 1e30 if high == math.inf else high


def outside(allowed):
    """Yield values just beyond each end, and those that no row accepts."""
    if allowed.low > -math.inf:
        yield from (allowed.low,) if allowed.above else (math.nextafter(allowed.low, -math.inf),)
        yield from (allowed.low - 1, -(10**400))
    if allowed.high < math.inf:
        yield from (math.nextafter(allowed.high, math.inf), allowed.high + 1, 10**400)
    yield from (math.nan, math.inf, -math.inf)


@pytest.mark.parametrize("row", limits.RANGES)
def test_a_row_accepts_its_ends_and_refuses_what_is_beyond(row):
    allowed, option = limits.RANGES[row], f"--{row.rpartition('.')[2]}".replace("_", "-")
    for value in inside(allowed):
        limits.check(settings_with(row, value))
        limits.check(settings_with(row, (value, value)))
    for value in outside(allowed):
        for wrong in (value, (value,), (next(inside(allowed)), value)):
            with pytest.raises(
                ValueError, match=f"^{option} is .*; give (a number|a finite number|one or more|at least)"
            ):
                limits.check(settings_with(row, wrong))
    limits.check(settings_with(row, None))
    if allowed.nonempty:
        with pytest.raises(ValueError, match=f"^{option} is empty; give one or more finite numbers"):
            limits.check(settings_with(row, ()))
    else:
        limits.check(settings_with(row, ()))


# Labels are compared with the classes of the run.
LABELS = {"labels", "also", "any_of", "negative"}
OF_LINES = {"prompt_scale", "prompt_seed"}  # no options: of the lines of --prompts, checked as these are read
COMMANDS = [
    *("guided_jax.app.train.command:Training", "guided_jax.app.judge:Judging", "guided_jax.app.posthoc:Reconstructing"),
    *("guided_jax.app.sample.command:Sampling", "guided_jax.app.nll:Nll", "guided_jax.app.together:Options"),
]


def numbers_of(kind):
    """Yield (class, field) of every number of a dataclass and its sections."""
    for name, hint in typing.get_type_hints(kind).items():
        if dataclasses.is_dataclass(hint):
            yield from numbers_of(hint)
        elif {int, float} & types_in(hint):
            yield kind.__name__, name


def types_in(hint):
    if typing.get_origin(hint) is typing.Literal:
        return set()
    return set().union(*map(types_in, typing.get_args(hint))) if typing.get_args(hint) else {hint}


@pytest.mark.parametrize("command", COMMANDS)
def test_every_number_of_a_command_has_a_row(command):
    module, _, kind = command.partition(":")
    fields = list(numbers_of(getattr(importlib.import_module(module), kind)))
    assert len(fields) > 1
    without = [
        (kind, name) for kind, name in fields if not {name, f"{kind}.{name}"} & {*limits.RANGES, *LABELS, *OF_LINES}
    ]
    assert not without


@pytest.mark.parametrize("name", experiments.names())
def test_the_built_in_experiments_are_in_range(name):
    limits.check(train.Training(experiments.load(name)))


# What is unusual and right: nothing of a network, no average, no clip, no warm-up, one step.
UNUSUAL = [
    schema.Diffusion(num_steps=0, ema_decay=0.0, sample_every=0, eval_every=0, label_dropout=0.0),
    schema.Diffusion(label_dropout=1.0, ema_decay=1.0, power_ema=(0.05, 0.2886), microbatches=7, measure_scale=-1.0),
    schema.Classifier(optimizer=schema.Optimizer(warmup_steps=0, clip_norm=None)),
    schema.UNet(channel_mult=(0.5, 1), attention_resolutions=(), num_head_channels=None, dropout=1.0),
    schema.Experiment(seed=2**32 - 1, schedule=schema.Schedule(num_steps=1)),
]


@pytest.mark.parametrize("settings", UNUSUAL, ids=lambda settings: type(settings).__name__)
def test_unusual_settings_that_are_right_are_accepted(settings):
    limits.check(settings)


def test_names_that_mean_different_things_have_rows_of_their_own():
    limits.check(schema.Diffusion(num_steps=0))
    for wrong in (Judging(Path("run"), num_steps=0), schema.Schedule(num_steps=0)):
        with pytest.raises(ValueError, match=r"^--num-steps is 0; give "):
            limits.check(wrong)


WRONG = {
    "--diffusion.optimizer.learning-rate is -1.0; give a finite number above 0": "--diffusion.optimizer.learning-rate -1",
    "--diffusion.optimizer.clip-norm is 0.0; give a finite number above 0": "--diffusion.optimizer.clip-norm 0",
    "--diffusion.network.dropout is 2.0; give a number from 0 to 1": "--diffusion.network.dropout 2",
    "--diffusion.network.channel-mult is empty; give one or more": "--diffusion.network.channel-mult",
    "--classifier.network.num-groups is 0; give at least 1": "--classifier.network.num-groups 0",
    "--diffusion.network.model-channels is 0; give at least 1": "--diffusion.network.model-channels 0",
    "--diffusion.network.num-head-channels is 0; give at least 1": "--diffusion.network.num-head-channels 0",
    "--data.image-size is 100000; give a number from 1 to 8192": "--data.image-size 100000",
    "--seed is -1; give a number from 0 to 4294967295": "--seed -1",
    "--seed is 4294967296; give a number from 0 to 4294967295": "--seed 4294967296",
    "--devices is 0; give at least 1": "--devices 0",
}


@pytest.mark.parametrize(("words", "arguments"), WRONG.items(), ids=WRONG.values())
def test_the_train_command_refuses_in_one_sentence_and_writes_nothing(words, arguments, tmp_path, capsys):
    code, _, err = run_script(train.main, ["digits", "--out", tmp_path / "run", *arguments.split()], capsys)
    assert (code, len(err.splitlines())) == (2, 1), err
    assert words in err
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("main", "arguments", "words"),
    [
        (judge_command, ["--num-steps", "0"], "--num-steps is 0; give at least 1"),
        (judge_command, ["--channels"], "--channels is empty; give one or more"),
        (judge_command, ["--learning-rate", "nan"], "--learning-rate is nan; give a finite number above 0"),
        (posthoc_command, ["--sigma-rel", "0.4"], "--sigma-rel is 0.4; give a number above 0, up to 0.2886"),
        (posthoc_command, ["--step", "0"], "--step is 0; give at least 1"),
    ],
)
def test_other_commands_refuse_too(main, arguments, words, tmp_path, capsys):
    code, _, err = run_script(main, [tmp_path, *arguments], capsys)
    assert (code, words in err) == (2, True), err
