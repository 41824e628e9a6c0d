"""What `benchmarks.speed.peers` compares is the same thing: other libraries' pictures are ours, their calls as counted."""

import importlib.util

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks.speed import ours
from benchmarks.speed.peers import __main__ as peers
from benchmarks.speed.peers import ours as side
from benchmarks.speed.peers import worker
from benchmarks.speed.sizes import Size

TINY = Size(8, 1, 8, (1, 2), 1, (2,), 8, 4, True, images=2, steps=4, batch=2, train_steps=1)
INSTALLED = [
    pytest.param(who, marks=pytest.mark.skipif(not importlib.util.find_spec(name), reason=f"{who} is not installed"))
    for who, name in peers.PACKAGES.items()
]


class Smooth(nn.Module):
    """Cheap, with one weight, dependent on everything it is given; of one picture or a batch."""

    @nn.compact
    def __call__(self, x, t, label):
        gain = self.param("gain", nn.initializers.constant(0.5), ())
        shift = 0.1 * jnp.asarray(label, jnp.float32) + 1e-3 * jnp.asarray(t, jnp.float32)
        return gain * jnp.tanh(x) + shift.reshape(shift.shape + (1,) * (x.ndim - shift.ndim))


VARIABLES = {"params": {"gain": jnp.float32(0.4)}}


@pytest.mark.parametrize("job", ["one scale", "interval"])
@pytest.mark.parametrize("who", INSTALLED)
def test_another_librarys_pictures_are_ours_of_the_same_levels(who, job):
    found = worker.module_of(who)
    assert worker.apart(TINY, job, who, Smooth(), VARIABLES) < 1e-5
    draw = found.sampling(TINY, job, who, Smooth(), VARIABLES)
    traced = found.sampling(TINY, job, f"{who}, traced", Smooth(), VARIABLES)
    np.testing.assert_allclose(traced(3.0), draw(3.0), rtol=1e-5, atol=1e-5)
    assert np.abs(draw(3.0) - draw(2.0)).max() > 0.01
    always = found.sampling(TINY, "one scale", who, Smooth(), VARIABLES)
    assert (np.abs(draw(2.0) - always(2.0)).max() > 0.01) == (job == "interval")


@pytest.mark.parametrize("who", INSTALLED)
def test_another_library_makes_both_calls_outside_the_interval_too(who):
    assert [worker.calls(TINY, job, who) for job in ("one scale", "interval")] == [8, 8]


@pytest.mark.slow
@pytest.mark.parametrize("who", INSTALLED)
def test_another_librarys_training_changes_the_network(who):
    run = worker.module_of(who).train(TINY._replace(batch=8), who)  # a picture for each device
    first, then = run(), run()
    assert 0 < first < 10
    assert 0 < then < 10
    assert first != then


@pytest.mark.parametrize(("job", "calls"), [("one scale", 8), ("interval", 6)])
def test_our_calls_are_those_that_a_picture_needs(job, calls):
    assert worker.calls(TINY, job, "ours, 1 device") == calls


def test_our_two_drawings_are_one_and_take_the_scale_as_an_input():
    draw = side.sampling(TINY, "one scale", "ours, 1 device", Smooth(), VARIABLES)
    again = side.reference(TINY, Smooth(), VARIABLES, ours.levels_of(TINY.steps), None)
    for scale in (2.0, 3.0):
        np.testing.assert_allclose(draw(scale), again(scale), rtol=1e-5, atol=1e-5)
    assert np.abs(draw(3.0) - draw(2.0)).max() > 0.01


def test_single_operations_are_no_compilations():
    assert worker.programs([0.01, 4.0, 0.02, 5.0]) == 2


def test_the_table_has_ratios_within_a_round_calls_by_job_and_the_difference():
    shared = {"size": "digits", "job": "one scale", "load": 0.5, "versions": {"jax": "1"}}
    shared["machine"] = {"cpu": "a CPU", "cores": 2, "python": "3.12"}
    seconds = {"ours": [1.0, 4.0, 2.0], "Dew, traced": [2.0, 8.0, 6.0]}
    rows = [{**shared, "who": who, "seconds": each, "programs": 1, "memory": 9.6} for who, each in seconds.items()]
    counts = {"ours": {"calls": {"one scale": 20.0}, "apart": {}}}
    counts["Dew"] = {"calls": {"one scale": 20.0}, "apart": {"one scale": 1.2e-6}}
    body = peers.lines({"rows": rows, "counts": counts}).splitlines()[2:]
    assert body[0] == "| digits | one scale | ours | 2 | 1.00 | 1 | 20 | 10 |  |"
    assert body[1] == "| digits | one scale | Dew, traced | 6 | 2.00 | 1 | 20 | 10 | 1e-06 |"
    assert body[3].startswith("a CPU, 2 cores, Python 3.12; jax 1. The load average was 0.5 to 0.5")


def test_libraries_that_are_not_installed_are_left_out(monkeypatch, capsys, tmp_path):
    monkeypatch.setattr(peers, "find_spec", lambda name: None)
    peers.main(["--out", str(tmp_path)])
    assert capsys.readouterr().out.count("is left out") == 2
    monkeypatch.setattr(peers, "find_spec", lambda name: name == "dew" or None)
    with pytest.raises(ValueError, match="without hackable_diffusion"):
        peers.main(["--page", "--out", str(tmp_path)])
    assert not list(tmp_path.iterdir())
