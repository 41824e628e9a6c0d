"""Npz files that are damaged or something else: whoever reads them, one sentence that names the file."""

import numpy as np
import pytest

from guided_jax.app import posthoc
from guided_jax.data import arrays
from guided_jax.metrics import files
from guided_jax.storage import images, npz

READERS = {
    "samples": images.load_npz,
    "data": arrays.read_npz,
    "statistics": files.load_statistics,
    "averages": lambda path: list(posthoc.load_snapshot(path)),
}


def write(path, reader):
    """Write a compressed file of what that reader takes."""
    pictures = np.random.default_rng(0).integers(0, 256, (30, 8, 8, 1), np.uint8)
    rest = {"0.1/kernel": pictures} if reader == "averages" else {"mu": np.zeros(300), "sigma": np.eye(300)}
    np.savez_compressed(path, **({} if reader == "averages" else {"arr_0": pictures}), **rest)
    return path


def damage(path):
    """Change bytes within each compressed array, and leave the directory of the archive as it is."""
    content = bytearray(path.read_bytes())
    for start in (400, 2300, 2600):
        content[start : start + 40] = bytes(range(40))
    path.write_bytes(content)


@pytest.mark.parametrize("reader", READERS)
def test_a_damaged_compressed_array_is_one_sentence_with_the_name(reader, tmp_path):
    file = write(tmp_path / "a.npz", reader)
    assert READERS[reader](file) is not None
    damage(file)
    with pytest.raises(ValueError, match=r"a\.npz is damaged, or no npz file of arrays \(") as error:
        READERS[reader](file)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("reader", READERS)
def test_a_file_that_is_not_there_is_not_called_damaged(reader, tmp_path):
    with pytest.raises(OSError, match=r"^cannot read .*a\.npz"):
        READERS[reader](tmp_path / "a.npz")


def test_arrays_that_are_not_there_are_none(tmp_path):
    found = npz.read(write(tmp_path / "a.npz", "samples"), ("mu", "labels"))
    np.testing.assert_array_equal(found["mu"], np.zeros(300))
    assert found["labels"] is None
