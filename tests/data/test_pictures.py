"""One picture at a time: ADM's crops by its own numbers, channels, decoding, and bytes that are no picture."""

import contextlib
import io
import json
import pathlib
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from guided_jax.data import pictures
from guided_jax.storage.images import from_uint8

GOLDEN = np.load(pathlib.Path(__file__).parents[1] / "golden" / "image_preprocess.npz")
CASES = json.loads(str(GOLDEN["meta"]))["cases"]


def case(key, name):
    return GOLDEN[f"{key}/{name}"].astype(np.uint8)


def encoded(array, form="png", **options):
    file = io.BytesIO()
    Image.fromarray(array[..., 0] if array.shape[-1] == 1 else array).save(file, form, **options)
    return file.getvalue()


def noise(*shape, seed=0):
    return np.random.default_rng(seed).integers(0, 256, shape, dtype=np.uint8)


@pytest.mark.parametrize("found", CASES, ids=lambda found: found["key"])
def test_crops_are_those_of_adm(found):
    """Within one grey level, which is what versions of Pillow differ by."""
    image = case(found["key"], "image_hwc")
    centre = pictures.centre_crop(image, (found["image_size"],) * 2)
    np.testing.assert_allclose(centre.astype(int), case(found["key"], "center_crop_hwc").astype(int), atol=1)
    wanted = np.moveaxis(GOLDEN[f"{found['key']}/normalised_chw"], 0, -1)
    np.testing.assert_allclose(from_uint8(centre), wanted, atol=1.001 / 127.5)
    # The middle of the part of [0, 1) that stands for the drawn number.
    draws = np.array([(d["drawn"] - d["lo"] + 0.5) / (d["hi_exclusive"] - d["lo"]) for d in found["random_crop_draws"]])
    cropped = pictures.random_crop(image, (found["image_size"],) * 2, draws).astype(int)
    np.testing.assert_allclose(cropped, case(found["key"], "random_crop_hwc").astype(int), atol=1)


@pytest.mark.parametrize("draws", [(0.0, 0.0, 0.0), (1 - 2**-53,) * 3])
@pytest.mark.parametrize("shape", [(16, 16, 3), (15, 21, 1), (200, 33, 4), (1, 1, 2)])
def test_a_random_crop_is_inside_at_both_ends_of_its_draws(shape, draws):
    assert pictures.random_crop(noise(*shape), (16, 16), np.array(draws)).shape == (16, 16, shape[-1])


def test_random_sizes_and_places_are_uniform():
    """Columns of the crop say where it came from: the picture is a ramp, and of the final size already."""
    ramp = np.tile(np.arange(40, dtype=np.uint8)[None, :, None], (10, 1, 1))
    rng = np.random.default_rng(0)
    # The shorter side can only become 10, 11 or 12; at 10 nothing is resized.
    firsts = [pictures.random_crop(ramp, (10, 10), np.array([0.1, *rng.random(2)]))[0, 0, 0] for _ in range(3100)]
    counts = np.bincount(firsts, minlength=31)
    assert len(counts) == 31
    assert abs(counts - 100).max() < 5 * 10


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize("there", [1, 2, 3, 4])
def test_any_channels_become_any(there, channels):
    picture = noise(6, 5, there)
    got = pictures.with_channels(picture, channels)
    assert (got.shape, got.dtype) == ((6, 5, channels), np.uint8)
    if channels in (2, 4):
        np.testing.assert_array_equal(got[..., -1], picture[..., -1] if there in (2, 4) else 255)
    colour, kept = picture[..., : there - 1 + there % 2], got[..., : channels - 1 + channels % 2]
    if there in (2, 4) and channels in (1, 3):  # what is transparent shows a white background
        alpha = picture[..., -1:] / 255
        colour = np.round(alpha * colour + (1 - alpha) * 255).astype(np.uint8)
    if colour.shape == kept.shape:
        np.testing.assert_array_equal(kept, colour)
    elif channels in (3, 4):
        np.testing.assert_array_equal(kept, np.repeat(colour, 3, axis=-1))
    else:
        luma = colour @ np.array([0.299, 0.587, 0.114])
        np.testing.assert_allclose(kept[..., 0], luma, atol=1)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_a_file_is_decoded_as_it_is(channels):
    picture = noise(7, 9, channels)
    np.testing.assert_array_equal(pictures.decode(encoded(picture), "x"), picture)
    assert pictures.resize(picture, (4, 4)).shape == (4, 4, channels)
    assert pictures.centre_crop(picture, (4, 4)).shape == (4, 4, channels)


def saved(image, form, **options):
    file = io.BytesIO()
    image.save(file, form, **options)
    return pictures.decode(file.getvalue(), "x")


def test_rare_encodings():
    rgb = Image.fromarray(noise(8, 8, 3))
    assert saved(rgb.convert("P"), "png").shape == (8, 8, 3)
    assert saved(rgb.convert("P"), "gif").shape == (8, 8, 3)
    assert saved(rgb.convert("P"), "png", transparency=3).shape == (8, 8, 4)
    assert saved(rgb.convert("CMYK"), "jpeg").shape == (8, 8, 3)
    assert set(np.unique(saved(rgb.convert("1"), "png"))) == {0, 255}
    deep = np.array([[0, 255, 256, 40000, 65535]], np.uint16)
    np.testing.assert_array_equal(saved(Image.fromarray(deep), "png")[..., 0], [[0, 0, 1, 156, 255]])
    two = io.BytesIO()
    rgb.save(two, "gif", save_all=True, append_images=[Image.new("RGB", (8, 8))])
    np.testing.assert_array_equal(pictures.decode(two.getvalue(), "x"), saved(rgb, "gif"))


def bomb():
    """A PNG of a hundred bytes that claims 60,000 x 60,000 pixels."""
    head = bytearray(encoded(noise(4, 4, 1)))
    head[16:24] = np.array([60000, 60000], ">u4").tobytes()
    head[29:33] = zlib.crc32(head[12:29]).to_bytes(4, "big")
    return bytes(head)


POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(x) (w) file\nshowpage\n"
DAMAGED = {
    "it is empty": b"",
    "no JPEG, PNG, GIF, BMP, WEBP or TIFF": b"this is text",
    "truncated": encoded(noise(64, 64, 3), "jpeg")[:-200],
    "broken": encoded(noise(64, 64, 3))[:500],
    "pixels": bomb(),
}


@pytest.mark.parametrize(("words", "content"), DAMAGED.items(), ids=DAMAGED)
def test_a_damaged_picture_is_named_with_the_reason_and_the_way_out(words, content):
    with pytest.raises(pictures.Unreadable) as error:
        pictures.decode(content, "a/b.jpg")
    message = str(error.value)
    assert message.startswith("a/b.jpg is not a picture that can be read (")
    assert "corrupt='skip'" in message
    assert "\n" not in message
    assert words in message or words == "broken"


def test_postscript_is_not_handed_to_an_interpreter():
    assert Image.open(io.BytesIO(POSTSCRIPT)).format == "EPS"  # Pillow itself would run Ghostscript to load it
    with pytest.raises(pictures.Unreadable, match="no JPEG, PNG, GIF, BMP, WEBP or TIFF"):
        pictures.decode(POSTSCRIPT, "x.png")


GOOD = {form: encoded(noise(12, 12, 3), form) for form in ("jpeg", "png", "gif", "bmp")}


@settings(max_examples=150, deadline=None)
@given(st.sampled_from(sorted(GOOD)), st.data())
def test_mangled_bytes_give_a_picture_or_that_error(form, choose):
    content = bytearray(GOOD[form])
    for _ in range(choose.draw(st.integers(1, 4))):
        content[choose.draw(st.integers(0, len(content) - 1))] = choose.draw(st.integers(0, 255))
    content = content[: choose.draw(st.integers(0, len(content)))] if choose.draw(st.booleans()) else content
    with contextlib.suppress(pictures.Unreadable):
        assert pictures.decode(bytes(content), "x").shape[-1] in pictures.MODES
