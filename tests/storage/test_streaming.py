"""Samples on disk: whole at the end, resumable before, never mixed."""

import errno
import os

import numpy as np
import pytest

from guided_jax.storage import images, streaming

PICTURES = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 1), np.uint8)
LABELS = np.arange(10)


def put(stream, start, stop):
    streaming.put(stream, start, PICTURES[start:stop], LABELS[start:stop])


def open_stream(target, seed=0):
    return streaming.open_stream(target, 10, (4, 4, 1), {"seed": seed})


def test_rows_become_adms_npz(tmp_path):
    target = tmp_path / "samples.npz"
    with open_stream(target) as (stream, done):
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
    with open_stream(target) as (stream, _):
        put(stream, 0, 6)
        stream.images[6:8] = 7  # a write that was under way, and never counted
    del stream
    with open_stream(target) as (stream, done):
        assert done == 6
        put(stream, 6, 10)
        streaming.finish(stream, target)
    np.testing.assert_array_equal(images.load_npz(target)[0], PICTURES)


@pytest.mark.parametrize("damage", ["another request", "no note", "half a note", "no images"])
def test_a_stream_of_another_request_or_damaged_starts_over(tmp_path, damage):
    target = tmp_path / "samples.npz"
    with open_stream(target) as (stream, _):
        put(stream, 0, 6)
    note = stream.folder / "progress.json"
    if damage == "no note":
        note.unlink()
    elif damage == "half a note":
        note.write_text(note.read_text()[:9])
    elif damage == "no images":
        (stream.folder / "arr_0.npy").unlink()
    with open_stream(target, 1 if damage == "another request" else 0) as (stream, done):
        assert done == 0
        assert not stream.images.any()


def test_a_second_writer_is_refused_and_named_the_first(tmp_path):
    """And the first one's file holds its rows alone."""
    target = tmp_path / "samples.npz"
    with open_stream(target) as (stream, _):
        put(stream, 0, 10)
        with (
            pytest.raises(ValueError, match=rf"in use by process {os.getpid()} on .* since .*; wait for its end"),
            open_stream(target, 1),
        ):
            pass
        streaming.finish(stream, target)
    np.testing.assert_array_equal(images.load_npz(target)[0], PICTURES)


def test_more_than_the_disk_has_is_refused_before_anything_is_written(tmp_path):
    with (
        pytest.raises(OSError, match=r"cannot reserve 953674316 MiB in .*: No space left on device"),
        streaming.opened(tmp_path / "samples.npz", 10**12, (1000, 1), {}),
    ):
        pass
    assert not list(tmp_path.iterdir())


def test_room_is_reserved_before_the_first_row(tmp_path):
    with streaming.open_stream(tmp_path / "samples.npz", 4096, (8, 8, 1), {}) as (stream, _):
        blocks = (stream.folder / "arr_0.npy").stat().st_blocks
    assert blocks * 512 >= 4096 * 64


def test_a_full_disk_is_refused_before_the_first_row(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "posix_fallocate", full)
    with (
        pytest.raises(OSError, match=r"cannot reserve \d+ MiB in .*: No space left on device"),
        open_stream(tmp_path / "samples.npz"),
    ):
        pass
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    with open_stream(tmp_path / "samples.npz") as (_, done):
        assert done == 0
