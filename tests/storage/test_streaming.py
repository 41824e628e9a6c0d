"""Samples on disk: whole at the end, resumable before, never mixed."""

import numpy as np
import pytest

from guided_jax.storage import images, streaming

PICTURES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
LABELS = np.arange(10)


def put(stream, start, stop):
    streaming.put(stream, start, PICTURES[start:stop], LABELS[start:stop])


def test_rows_become_adms_npz(tmp_path):
    target = tmp_path / "samples.npz"
    stream, done = streaming.begin(target, 10, (4, 4, 1), {"seed": 0})
    assert done == 0
    put(stream, 0, 6)
    assert not target.exists()
    put(stream, 6, 10)
    streaming.finish(stream, target)
    found, labels = images.load_npz(target)
    np.testing.assert_array_equal(found, PICTURES)
    np.testing.assert_array_equal(labels, LABELS)
    assert list(tmp_path.iterdir()) == [target]


def test_an_interrupted_stream_resumes(tmp_path):
    target = tmp_path / "samples.npz"
    stream, _ = streaming.begin(target, 10, (4, 4, 1), {"seed": 0})
    put(stream, 0, 6)
    stream.images[6:8] = 7  # a write that was under way, and never counted
    del stream
    stream, done = streaming.begin(target, 10, (4, 4, 1), {"seed": 0})
    assert done == 6
    put(stream, 6, 10)
    streaming.finish(stream, target)
    np.testing.assert_array_equal(images.load_npz(target)[0], PICTURES)


@pytest.mark.parametrize("damage", ["another request", "no note", "half a note", "no images"])
def test_a_stream_of_another_request_or_damaged_starts_over(tmp_path, damage):
    target = tmp_path / "samples.npz"
    stream, _ = streaming.begin(target, 10, (4, 4, 1), {"seed": 0})
    put(stream, 0, 6)
    note = stream.folder / "progress.json"
    if damage == "no note":
        note.unlink()
    elif damage == "half a note":
        note.write_text(note.read_text()[:9])
    elif damage == "no images":
        (stream.folder / "arr_0.npy").unlink()
    stream, done = streaming.begin(target, 10, (4, 4, 1), {"seed": 1 if damage == "another request" else 0})
    assert done == 0
    assert not stream.images.any()
