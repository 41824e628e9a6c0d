from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from guided_jax.storage import images

OPS = np.load(Path(__file__).parents[1] / "golden" / "ops.npz")
RANDOM = np.random.default_rng(0).integers(0, 256, (5, 4, 6, 3), dtype=np.uint8)


def test_to_uint8_is_the_reference_implementation_to_the_bit():
    np.testing.assert_array_equal(images.to_uint8(OPS["to_uint8/x"]), OPS["to_uint8/out"].astype(np.uint8))


def test_every_byte_but_rounding_survives_the_round_trip():
    x = np.arange(256, dtype=np.uint8)
    back = images.to_uint8(images.from_uint8(x))
    assert images.from_uint8(x)[[0, 255]].tolist() == [-1, 1]
    assert np.abs(back.astype(int) - x).max() <= 1  # truncation may lose one


def test_values_that_are_not_finite_are_refused_and_counted():
    """Overflow is no white pixel and nan no black one, unless that is asked for."""
    x = np.zeros((4, 2, 2, 1), np.float32)
    x[1, 0, 0, 0], x[3, 1, 1, 0] = np.nan, np.inf
    with pytest.raises(ValueError, match="2 of 4 pictures are not finite: 1, 3"):
        images.to_uint8(x)
    with pytest.raises(ValueError, match=r"20 of 20 .*: 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, \.\.\."):
        images.to_uint8(np.full(20, -np.inf))
    np.testing.assert_array_equal(images.non_finite(x), [1, 3])
    found = images.to_uint8(x, allow_non_finite=True)
    assert (found[1, 0, 0, 0], found[3, 1, 1, 0], found[0, 0, 0, 0]) == (0, 255, 127)
    assert images.non_finite(np.ones(())).size == 0
    with pytest.raises(ValueError, match="not finite"):
        images.to_uint8(np.float64(1e39))  # beyond float32


def test_only_bytes_are_scaled_from_bytes():
    with pytest.raises(ValueError, match="the pictures are float32; uint8"):
        images.from_uint8(np.zeros(3, np.float32))


def test_grid_puts_image_i_at_row_i_over_columns():
    canvas = images.grid(RANDOM, columns=2, scale=3, gap=1)
    assert canvas.shape == (3 * 13 + 1, 2 * 19 + 1, 3)
    cell = canvas[1 + 13 : 1 + 13 + 12, 1 + 19 : 1 + 19 + 18]  # row 1, column 1
    np.testing.assert_array_equal(cell[::3, ::3], RANDOM[3])
    np.testing.assert_array_equal(cell[2::3, 1::3], RANDOM[3])
    assert (canvas[-13:, 20:] == 255).all()  # the cell without an image


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_round_trip_with_labelled_rows(tmp_path, channels):
    batch = np.random.default_rng(1).integers(0, 256, (4, 8, 8, channels), dtype=np.uint8)
    canvas = images.grid(batch, columns=2, scale=2, labels=["three", 7])
    plain = images.grid(batch, columns=2, scale=2)
    np.testing.assert_array_equal(canvas[:, -plain.shape[1] :], plain)
    assert (canvas[:, : -plain.shape[1], 0] < 128).any()  # something was written
    images.save_png(tmp_path / "sub" / "grid.png", canvas)
    read = np.asarray(Image.open(tmp_path / "sub" / "grid.png"))
    np.testing.assert_array_equal(read.reshape(canvas.shape), canvas)


def test_wrong_pictures_are_refused(tmp_path):
    with pytest.raises(ValueError, match="1 labels were given for the 3 rows"):
        images.grid(RANDOM, columns=2, labels=["a"])
    with pytest.raises(ValueError, match="has 5"):
        images.save_png(tmp_path / "a.png", np.zeros((2, 2, 5), np.uint8))


@pytest.mark.parametrize("labels", [None, np.array([3, 1, 4, 1, 5], np.int32)])
def test_npz_round_trip_in_the_evaluators_format(tmp_path, labels):
    path = tmp_path / "samples.npz"
    images.save_npz(path, RANDOM, labels)
    assert sorted(np.load(path)) == (["arr_0"] if labels is None else ["arr_0", "arr_1"])
    read, read_labels = images.load_npz(path)
    np.testing.assert_array_equal(read, RANDOM)
    np.testing.assert_array_equal(read_labels, labels)
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize(
    ("arrays", "message"),
    [
        ({"images": RANDOM}, "holds no samples"),
        ({"arr_0": np.array([{}], object)}, "Object arrays cannot be loaded"),
        ({"arr_0": RANDOM.astype(np.float32)}, "float32"),
        ({"arr_0": RANDOM, "arr_1": np.zeros(3, np.int32)}, "5 integers are expected"),
    ],
)
def test_other_npz_files_are_refused_in_one_sentence(tmp_path, arrays, message):
    np.savez(tmp_path / "x.npz", **arrays)
    with pytest.raises(ValueError, match=message):
        images.load_npz(tmp_path / "x.npz")


def test_what_is_no_npz_file_is_refused(tmp_path):
    (tmp_path / "x.npz").write_bytes(b"PK\x03\x04 torn")
    with pytest.raises(ValueError, match="no npz file of arrays"):
        images.load_npz(tmp_path / "x.npz")
    np.save(tmp_path / "y.npy", RANDOM)
    with pytest.raises(ValueError, match="no npz file of arrays"):
        images.load_npz(tmp_path / "y.npy")
    with pytest.raises(OSError, match="cannot read"):
        images.load_npz(tmp_path / "none.npz")
