"""The folder of `guided-jax sample`: what an interruption leaves, and what is never lost; by an instant sampler."""

import dataclasses

import numpy as np
import pytest

from guided_jax import model, schedule
from guided_jax.app import facts
from guided_jax.app import run as runs
from guided_jax.app.sample import checks
from guided_jax.app.sample import command as sample
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.storage import images

RUN = runs.from_params(
    model.Model(None, schedule.cosine(10), shape=(8, 8, 1)), facts.Facts((8, 8, 1), 2, (0.5, 0.5)), {"diffusion": {}}
)


@pytest.fixture
def calls(monkeypatch):
    """The indices of each call of the sampler; a third call is interrupted."""
    calls = []

    def sampler(params, indices, *rest):
        calls.append(list(indices))
        if len(calls) == 3:
            raise KeyboardInterrupt
        shape = (len(indices), 8, 8, 1)
        return sample.draw.Drawn(np.zeros(shape, np.uint8), np.ones(len(indices), bool), {"clipped": np.ones((2, 3))})

    monkeypatch.setattr(sample.draw, "make_sampler", lambda *_: sampler)
    return calls


def request(out, **changes):
    options = Sampling(out, Method("none", steps="3"), num_samples=8, batch_size=2, devices=2, diagnose=True, out=out)
    return dataclasses.replace(options, **changes)


def write(options):
    return sample.make_writer(options, RUN)(options)


def interrupt(options):
    with pytest.raises(KeyboardInterrupt):
        write(options)


def test_diagnostics_of_the_first_batch_survive_an_interruption(calls, tmp_path):
    interrupt(request(tmp_path))
    assert (tmp_path / "diagnostics.npz").exists()
    write(request(tmp_path))
    assert calls == [[0, 1], [2, 3], [4, 5], [4, 5], [6, 7]]
    assert len(images.load_npz(tmp_path / "samples.npz")[0]) == 8
    assert (tmp_path / "diagnostics.npz").exists()
    assert (tmp_path / "diagnostics.png").exists()


def test_other_samples_do_not_keep_the_diagnostics(calls, tmp_path):
    write(request(tmp_path, num_samples=2))
    (tmp_path / "start.png").touch()
    write(request(tmp_path, num_samples=2, diagnose=False, overwrite=True))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["grid.png", "samples.json", "samples.npz"]


def test_unfinished_samples_of_another_request_are_kept(calls, tmp_path):
    interrupt(request(tmp_path))
    with pytest.raises(ValueError, match="holds unfinished samples of another request; give another --out, or --over"):
        write(request(tmp_path, seed=1))
    write(request(tmp_path))
    assert calls[-2:] == [[4, 5], [6, 7]]
    with pytest.raises(ValueError, match=r"samples\.npz is of another request; give another --out, or --overwrite"):
        write(request(tmp_path, seed=1))
    calls.clear()
    interrupt(request(tmp_path, seed=1, overwrite=True))
    calls.append("again")
    write(request(tmp_path, seed=2, overwrite=True))
    assert calls[calls.index("again") + 1] == [0, 1]


@pytest.mark.parametrize(("labels", "given"), [([1, 0, 1], True), ([1, -1, 0], False), (None, False)])
def test_the_labels_of_low_resolution_pictures_count_without_guidance(labels, given, tmp_path, monkeypatch):
    """As --labels do: a network with a null label is told the class, and the file has it."""
    images.save_npz(
        tmp_path / "low.npz", np.zeros((3, 4, 4, 1), np.uint8), None if labels is None else np.array(labels)
    )
    run = RUN._replace(model=RUN.model._replace(null=2), low_res=4)
    seen = []

    def make_sampler(run, method, labelled, *rest):
        def sampler(params, indices, labels, *rest):
            seen.append((labelled, list(labels)))
            return sample.draw.Drawn(np.zeros((len(indices), 8, 8, 1), np.uint8), np.ones(len(indices), bool))

        return sampler

    monkeypatch.setattr(sample.draw, "make_sampler", make_sampler)
    options = request(tmp_path / "out", base_samples=tmp_path / "low.npz", num_samples=4, batch_size=4, diagnose=False)
    sample.make_writer(options, run)(options)
    ((labelled, drawn),) = seen
    recorded = images.load_npz(tmp_path / "out" / "samples.npz")[1].tolist()
    assert (labelled, recorded) == (given, [1, 0, 1, 1] if given else [-1] * 4)
    assert not given or drawn == [1, 0, 1, 1]


OTHERS = {
    "name its run with --bad RUN": None,
    r"works on x of \(4, 4, 1\), and this one on \(8, 8, 1\)": {"model": RUN.model._replace(shape=(4, 4, 1))},
    r"works on x of \(8, 8, 1\) from pictures of side 4, and": {"low_res": 4},
    "has 3 classes, and this one 2": {"facts": RUN.facts._replace(num_classes=3)},
    "has other noise levels": {"model": RUN.model._replace(levels=schedule.linear(21))},
}


@pytest.mark.parametrize(("words", "fields"), OTHERS.items(), ids=OTHERS)
def test_a_worse_model_of_something_else_is_refused(words, fields, tmp_path):
    method = Method("autoguidance", bad=tmp_path, steps="3")
    own, other = RUN._replace(bad=RUN), None if fields is None else RUN._replace(**fields)
    checks.check(Sampling(tmp_path, method), own)
    with pytest.raises(ValueError, match=words):
        checks.check(Sampling(tmp_path, method), own._replace(bad=other))
