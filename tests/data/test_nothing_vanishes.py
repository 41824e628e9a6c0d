"""Data that could be read wrongly or left out without a word: each kind is read rightly, or refused and counted."""

import io
import logging

import numpy as np
import pytest
from PIL import Image

from guided_jax import data
from guided_jax.data import pictures
from tests.kinds import IMAGES, LABELS, everything, noise, png, write


def pictures_of(place, *classes, form="png", name="{}"):
    """Write twelve pictures for each class, and return the name to load."""
    file = io.BytesIO()
    Image.new("RGB" if form == "webp" else "L", (4, 4)).save(file, form)
    for label in classes:
        for i in range(12):
            write(place / label / f"{name.format(i)}.{form}", file.getvalue())
    return f"folder:{place}"


# Folders.


def test_train_alone_is_a_split_and_not_a_class(tmp_path):
    name = pictures_of(tmp_path / "train", "cat", "dog").replace("/train", "")
    train, test = (data.load(name, split) for split in ("train", "test"))
    assert (train.num_classes, train.class_names) == (2, ("cat", "dog"))
    assert (len(train), len(test)) == (22, 2)  # undivided: every tenth of each class is held out


def test_a_split_without_train_is_no_class_either(tmp_path):
    name = pictures_of(tmp_path / "val", "cat", "dog").replace("/val", "")
    assert data.load(name, "val").class_names == ("cat", "dog")
    with pytest.raises(ValueError, match="has no split 'train'; it has val"):
        data.load(name, "train")


def test_folders_without_pictures_change_nothing(tmp_path):
    name = pictures_of(tmp_path / "train", "cat", "dog").replace("/train", "")
    write(tmp_path / "metadata" / "notes.txt", b"")
    assert data.load(name, "train").class_names == ("cat", "dog")


def test_a_stray_picture_beside_class_folders_is_refused_and_counted(tmp_path):
    name = pictures_of(tmp_path, "cat", "dog", name="IMG_{}")
    np.testing.assert_allclose(data.class_frequencies(data.load(name, "train")), [0.5, 0.5])
    write(tmp_path / "contact_sheet.png", png(noise(4, 4, 1)))
    with pytest.raises(ValueError, match=r"^1 of the 25 pictures in .* the first is contact_sheet.png; move"):
        data.load(name, "train")


def test_a_few_folders_beside_named_files_are_counted(tmp_path, caplog):
    """ADM's names count wherever a file lies; the log says so where some lie deeper."""
    for name in ("n02_7.png", "deep/n01_3.png", "n02_1.png"):
        write(tmp_path / name, png(noise(2, 2, 1)))
    with caplog.at_level(logging.WARNING):
        assert data.load(f"folder:{tmp_path}", "train").class_names == ("n01", "n02")
    (record,) = caplog.records
    assert "2 pictures lie in" in record.getMessage()
    assert "1 in folders" in record.getMessage()


@pytest.mark.parametrize("form", ["webp", "bmp", "tiff", "gif", "jpeg"])
def test_every_listed_ending_is_read_beside_png(form, tmp_path):
    pictures_of(tmp_path, "cat", "dog")
    name = pictures_of(tmp_path, "cat", "dog", form=form, name="other{}")
    found = [data.load(name, split) for split in ("train", "test")]
    assert (sum(map(len, found)), found[0].image_shape) == (48, (4, 4, 1))


def test_pictures_that_nothing_decodes_are_refused_or_skipped_and_counted(tmp_path, caplog):
    name = pictures_of(tmp_path, "cat", "dog")
    for i in range(3):
        write(tmp_path / "cat" / f"x{i}.heic", b"....ftypheic")
    write(tmp_path / "dog" / "x.JXL", b"\xff\x0a")
    with pytest.raises(ValueError, match=r"^4 of the 28 pictures .*\(3 .heic, 1 .jxl\); convert .*corrupt='skip'"):
        data.load(name, "train")
    with caplog.at_level(logging.WARNING):
        found = [data.load(name, split, corrupt="skip") for split in ("train", "test")]
    assert sum(map(len, found)) == 24
    assert sum(int(record.getMessage().split()[0]) for record in caplog.records) == 4


def test_files_of_unknown_endings_are_counted(tmp_path, caplog):
    name = pictures_of(tmp_path, "cat", "dog")
    for file in ("cat/1.dat", "cat/2.dat", "dog/picture", "notes.txt", "dog/labels.csv"):
        write(tmp_path / file, b"")
    with caplog.at_level(logging.WARNING):
        data.load(name, "train")
    (record,) = caplog.records
    assert "3 files" in record.getMessage()
    assert record.getMessage().endswith("2 .dat, 1 no ending")


# Arrays.


def test_float_arrays_stay_as_they_are(tmp_path):
    """In memory and in a file, to the batches of training: 0.9 is 0.9, whatever the channels."""
    latents = np.random.default_rng(0).normal(size=(30, 4, 4, 6)).astype(np.float32)
    np.savez(tmp_path / "set.npz", latents.astype(np.float64), LABELS)
    for found in (data.in_memory(latents, LABELS, 3), data.load(f"npz:{tmp_path}/set.npz", "train", image_size=4)):
        assert (found.dtype, found.image_shape, found.num_classes) == (np.float32, (4, 4, 6), 3)
        batch = next(data.loader(found, 8, seed=0, shuffle=False, flip=False))
        np.testing.assert_array_equal(batch["image"], found.read(np.arange(8))["image"])
        assert np.isin(batch["image"], latents).all()
        assert batch["image"].dtype == np.float32


def test_flips_reach_float_arrays():
    ramp = np.tile(np.linspace(-1, 1, 4, dtype=np.float32)[None, None, :, None], (30, 4, 1, 1))
    batch = next(data.loader(data.in_memory(ramp, LABELS, 3), 30, seed=0, flip=True))["image"]
    assert set(batch[:, 0, 0, 0].tolist()) == {-1.0, 1.0}


@pytest.mark.parametrize(
    ("images", "words"),
    [
        (np.full((4, 2, 2, 1), 255.0), "float64, whole numbers from 255 to 255: convert pictures to uint8"),
        (np.full((4, 2, 2, 1), np.nan), "4 of the images are not finite"),
        (np.full((4, 2, 2, 1), 256), "int64 from 256 to 256; integers from 0 to 255"),
        (np.full((4, 2, 2, 1), -1), "int64 from -1 to -1"),
        (np.full((4, 2, 2, 1), True), "are bool"),
    ],
)
def test_arrays_that_would_change_are_refused(images, words):
    with pytest.raises(ValueError, match=words):
        data.in_memory(images, np.zeros(4), 1)


def test_integers_of_any_type_become_pictures_and_floats_of_zero_and_one_stay():
    assert everything(data.in_memory(IMAGES.astype(np.int64), LABELS, 3))["image"].dtype == np.uint8
    assert everything(data.in_memory(np.ones((4, 2, 2, 1)), np.zeros(4), 1))["image"].dtype == np.float32


def test_float_arrays_are_neither_cropped_nor_converted(tmp_path):
    np.savez(tmp_path / "set.npz", np.zeros((30, 8, 8, 4), np.float32), LABELS)
    for options in ({"image_size": 6}, {"channels": 3}, {"image_size": 6, "crop": "random"}):
        with pytest.raises(ValueError, match=r"these are 8 x 8 x 4 .*leave out image_size, crop and channels"):
            data.load(f"npz:{tmp_path}/set.npz", "train", **options)


# Pixels.


def saved(array, form="png", **options):
    file = io.BytesIO()
    Image.fromarray(array).save(file, form, **options)
    return file.getvalue()


@pytest.mark.parametrize("bits", [8, 10, 12, 14])
@pytest.mark.parametrize("form", ["png", "tiff"])
def test_fewer_bits_in_16_bit_files_are_refused(bits, form):
    values = np.linspace(0, 2**bits - 1, 64).astype(np.uint16).reshape(8, 8)
    with pytest.raises(pictures.Unreadable, match=f"16-bit values stay below {2**bits}.*scale it to 0..65535"):
        pictures.decode(saved(values, form), "x")


def test_16_bits_become_8():
    values = np.arange(4096, dtype=np.uint16).reshape(64, 64) * 16
    found = pictures.decode(saved(values), "x")
    np.testing.assert_array_equal(found[..., 0], values >> 8)
    assert len(np.unique(found)) == 256
    assert not pictures.decode(saved(np.zeros((4, 4), np.uint16)), "x").any()  # black is black in any number of bits


def test_floating_point_pictures_are_refused():
    with pytest.raises(pictures.Unreadable, match="npz file of float arrays"):
        pictures.decode(saved(np.full((4, 4), 0.9, np.float32), "tiff"), "x")


UPRIGHT = np.zeros((6, 4, 3), np.uint8)
UPRIGHT[:3, :2], UPRIGHT[:3, 2:], UPRIGHT[3:, :2] = 250, 150, 60  # all four corners differ
# What a camera stores for each orientation, so that a viewer shows UPRIGHT.
STORED = {
    1: UPRIGHT,
    2: UPRIGHT[:, ::-1],
    3: UPRIGHT[::-1, ::-1],
    4: UPRIGHT[::-1],
    5: UPRIGHT.swapaxes(0, 1),
    6: np.rot90(UPRIGHT),
    7: UPRIGHT[::-1, ::-1].swapaxes(0, 1),
    8: np.rot90(UPRIGHT, -1),
}


@pytest.mark.parametrize("orientation", STORED)
def test_pictures_are_turned_as_a_viewer_shows_them(orientation):
    exif = Image.Exif()
    exif[pictures.ORIENTATION] = orientation
    found = pictures.decode(saved(np.ascontiguousarray(STORED[orientation]), exif=exif), "x")
    np.testing.assert_array_equal(found, UPRIGHT)


def test_a_damaged_orientation_is_no_damaged_picture():
    content = saved(noise(4, 4, 3), "png", exif=b"Exif\0\0II*\0\xff\xff\xff\xff")
    np.testing.assert_array_equal(pictures.decode(content, "x"), noise(4, 4, 3))


@pytest.mark.parametrize(("background", "seen"), [(255, 255), (0, 0)])
def test_a_transparent_picture_shows_the_background(background, seen, tmp_path):
    for i in range(2):
        write(tmp_path / "a" / f"{i}.png", png(np.full((4, 4, 4), (255, 0, 0, 0), np.uint8)))
    for channels in (1, 3):
        found = data.load(f"folder:{tmp_path}", "train", channels=channels, background=background)
        assert (everything(found)["image"] == seen).all()
    kept = data.load(f"folder:{tmp_path}", "train")
    assert everything(kept)["image"][0, 0, 0].tolist() == [255, 0, 0, 0]
    with pytest.raises(ValueError, match="background is 256"):
        data.load(f"folder:{tmp_path}", "train", background=256)


# Rectangles and names.

ONE = data.Examples(1, 1, lambda rows: [(noise(4, 4, 1), 0)], np.zeros_like, str)


@pytest.mark.parametrize("shape", [(64, 96), (96, 64), (50, 301), (8, 12), (5, 5)])
@pytest.mark.parametrize("crop", ["centre", "random", "none"])
def test_rectangles(shape, crop, tmp_path):
    for i in range(3):
        write(tmp_path / "a" / f"{i}.png", png(noise(*shape, 3)))
    found = data.load(f"folder:{tmp_path}", "train", image_size=(8, 12), crop=crop)
    assert found.image_shape == (8, 12, 3)
    assert next(data.loader(found, 3, seed=0))["image"].shape == (3, 8, 12, 3)


def test_a_rectangle_is_cut_from_the_middle():
    """Columns 4..11 of 16, all rows: no scaling is needed."""
    ramp = np.tile(np.arange(16, dtype=np.uint8)[None, :, None], (6, 1, 1))
    np.testing.assert_array_equal(pictures.centre_crop(ramp, (6, 8))[0, :, 0], np.arange(4, 12))
    np.testing.assert_array_equal(pictures.centre_crop(ramp.swapaxes(0, 1), (8, 6))[:, 0, 0], np.arange(4, 12))


def test_random_rectangles_stay_inside_at_both_ends_of_their_draws():
    for draws in ((0.0,) * 3, (1 - 2**-53,) * 3):
        for shape in ((16, 16, 3), (15, 41, 1), (200, 33, 4), (1, 1, 2)):
            assert pictures.random_crop(noise(*shape), (12, 20), np.array(draws)).shape == (12, 20, shape[-1])


@pytest.mark.parametrize("size", [(0, 8), (8, 0), -1])
def test_sizes_that_are_none_are_refused(size):
    with pytest.raises(ValueError, match="image_size is"):
        data.make_source(ONE, size)


def test_class_names_are_kept(tmp_path):
    name = pictures_of(tmp_path, "cat", "dog")
    assert data.load(name, "train").class_names == ("cat", "dog")
    assert data.load(name, "train", labelled=False).class_names is None
    assert data.load("tfds:tensor_tiles", "train", tmp_path).class_names == ("a", "b", "c")
    assert data.load("digits", "test", tmp_path).class_names == tuple("0123456789")
