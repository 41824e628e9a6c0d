import contextlib

import numpy as np
import pytest

from guided_jax.storage import checkpoint, files, log


def test_a_failed_write_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "notes.txt"
    path.write_bytes(b"old")

    def fail():
        with files.replacing(path) as file:
            file.write(b"half of the new")
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_place_that_cannot_be_written_is_one_sentence(tmp_path):
    (tmp_path / "file").write_text("in the way")
    place = tmp_path / "file" / "below"
    with pytest.raises(OSError, match=r"^cannot write .*file/below: [^\n]+$"), files.replacing(place):
        pass
    for opened in (checkpoint.opened, lambda place: contextlib.nullcontext(files.writable_directory(place))):
        with pytest.raises(OSError, match=r"^cannot make the directory .*below: [^\n]+$"), opened(place):
            pass


def test_truncate_drops_later_rows_and_a_torn_line(tmp_path):
    path = tmp_path / "metrics.jsonl"
    assert log.read(path) == []
    for step in (10, 20, 30):
        log.append(path, {"step": step, "loss": 1 / step})
    with path.open("a") as file:
        file.write('{"step": 40, "lo')
    log.truncate(path, 20)
    assert log.read(path) == [{"step": 10, "loss": 0.1}, {"step": 20, "loss": 0.05}]


@pytest.mark.usefixtures("curves")
def test_curves_are_drawn(tmp_path):
    rows = np.random.default_rng(0).random(200)
    for step, value in enumerate(rows):
        log.append(tmp_path / "metrics.jsonl", {"step": step, "loss": value, "grad_norm": 2 * value})
    log.plot(tmp_path / "metrics.jsonl", tmp_path / "curves.png")
    assert (tmp_path / "curves.png").read_bytes().startswith(b"\x89PNG")
    with pytest.raises(ValueError, match="no metrics yet"):
        log.plot(tmp_path / "none.jsonl", tmp_path / "curves.png")
