"""The data of a run that was moved: every command that reads it says so and takes --data.dir."""

import json

import numpy as np
import pytest

from guided_jax.app import judge, nll, own_data
from guided_jax.app import run as runs
from guided_jax.app.facts import Facts
from guided_jax.app.sample import command as sample
from guided_jax.app.settings import NO_DATA, Data
from guided_jax.app.sweep import command as sweep
from guided_jax.storage import images
from tests.scripts import run_script

PICTURES = np.random.default_rng(0).integers(0, 256, (100, 8, 8, 1), dtype=np.uint8)
LABELS = np.arange(100) % 10


@pytest.fixture
def run(tiny, tmp_path):
    """The tiny run, as if trained on /gone/data.npz, which lies in new/ now."""
    config = json.loads((tiny / "config.json").read_text())
    config["experiment"]["data"].update(name="npz:/gone/data.npz", dir=None)
    config["facts"].update(class_names=None)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "config.json").write_text(json.dumps(config))
    for part in ("diffusion", "classifier"):
        (tmp_path / "run" / part).symlink_to(tiny / part)
    (tmp_path / "new").mkdir()
    images.save_npz(tmp_path / "new" / "data.npz", PICTURES, LABELS)
    return tmp_path / "run"


COMMANDS = {
    "sample": (sample.main, ["--guidance", "pigdm", "--measure", "held-out", "--steps", "2"]),
    "nll": (nll.main, ["--pictures", "train"]),
    "judge": (judge.main, []),
    "sweep": (sweep.main, ["--guidance", "classifier-free", "--steps", "2"]),
}


@pytest.mark.parametrize("command", COMMANDS)
def test_data_that_is_not_there_is_one_sentence_with_the_option(command, run, capsys):
    main, words = COMMANDS[command]
    code, _, err = run_script(main, [run, *words], capsys)
    said = (
        f"error: the data of {run} is not there (no /gone/data.npz); if it was moved, give its folder by --data.dir\n"
    )
    assert (code, err) == (2, said)
    code, _, err = run_script(main, [run, *words, "--data.dir", run / "nowhere"], capsys)
    assert (code, f"(no {run / 'nowhere'})" in err) == (2, True)


@pytest.mark.parametrize("place", ["new", "new/data.npz"])
def test_moved_data_is_read_from_its_folder_or_by_its_own_path(run, place):
    found, labels = nll.pictures_of(nll.Nll(run, pictures="train"), runs.load(run, run.parent / place))
    held = np.arange(100) // 10 == 9  # the tenth of each class is held out
    np.testing.assert_array_equal(found, PICTURES[~held])
    np.testing.assert_array_equal(labels, LABELS[~held])


def test_data_in_a_relative_place_and_prepared_data_move_as_in_training(tmp_path):
    assert Data("npz:a/data.npz").moved(tmp_path).name == f"npz:{tmp_path}"
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "data.npz").touch()
    assert Data("npz:a/data.npz").moved(tmp_path).name == f"npz:{tmp_path / 'a' / 'data.npz'}"
    assert Data("tfds:mnist").moved(tmp_path) == Data("tfds:mnist", dir=tmp_path)
    assert Data("digits").moved(tmp_path) == Data("digits", dir=tmp_path)


@pytest.mark.parametrize(
    ("pictures", "labels", "said"),
    [
        (PICTURES[:, :4], LABELS, "has pictures of (4, 8, 1) in 10 classes, "),
        (PICTURES, LABELS % 3, "has pictures of (8, 8, 1) in 3 classes, "),
    ],
)
def test_other_data_than_the_runs_is_refused(run, pictures, labels, said, capsys):
    images.save_npz(run.parent / "new" / "data.npz", pictures, labels)
    code, _, err = run_script(nll.main, [run, "--data.dir", run.parent / "new"], capsys)
    assert (code, len(err.splitlines())) == (2, 1)
    assert f"{said}{run} was trained on pictures of (8, 8, 1) in 10 classes; give another --data.dir" in err


@pytest.mark.parametrize(
    ("main", "words"), [(sample.main, ["--steps", "2"]), (nll.main, ["--pictures", "samples.npz"])]
)
def test_the_option_is_refused_where_nothing_of_the_run_is_read(main, words, run, capsys):
    code, _, err = run_script(main, [run, *words, "--data.dir", run.parent / "new"], capsys)
    assert (code, "error: --data.dir has no effect" in err) == (2, True)


def test_where_the_data_lies_is_no_part_of_a_request(run):
    options = sample.Sampling(run)
    assert sample.request(options) == sample.request(sample.Sampling(run, data_dir=run))
    assert "data_dir" not in nll.recorded(nll.Nll(run, data_dir=run))


def test_other_pictures_in_the_place_of_the_data_are_refused_too(tmp_path):
    images.save_npz(tmp_path / "data.npz", PICTURES[:, :4], LABELS)
    read = own_data.make_reader(Data(f"npz:{tmp_path / 'data.npz'}"), Facts((8, 8, 1), 10, (0.1,) * 10), tmp_path)
    said = r"pictures of \(4, 8, 1\) in 10 classes, .* was trained on pictures of \(8, 8, 1\) in 10 classes; give"
    with pytest.raises(ValueError, match=said):
        read(True)


def test_data_is_read_once(tmp_path, monkeypatch):
    images.save_npz(tmp_path / "data.npz", PICTURES, LABELS)
    read = own_data.make_reader(Data(f"npz:{tmp_path / 'data.npz'}"), Facts((8, 8, 1), 10, (0.1,) * 10), tmp_path)
    first, other = read(True), read(False)
    (tmp_path / "data.npz").unlink()
    assert read(True) is first
    assert read(False) is other


@pytest.mark.parametrize(
    ("settings", "shape", "has_data"),
    [
        (Data(NO_DATA), (64, 64, 3), False),
        (Data(), (64, 64, 3), False),  # as conversions of before wrote it
        (Data(), (8, 8, 1), True),
        (Data(image_size=64), (64, 64, 1), True),
    ],
)
def test_a_converted_run_has_no_data(settings, shape, has_data, tmp_path):
    read = own_data.make_reader(settings, Facts(shape, 1000, (0.001,) * 1000), tmp_path)
    assert (read is not None) == has_data
