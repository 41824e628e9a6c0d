"""One picture at a time, uint8 (h, w, c): from bytes, to another number of channels, to a square of the size asked for.

c is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). Sizes, filters and draws are those of Dhariwal & Nichol's ADM.
"""

import io
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

Picture = UInt8[np.ndarray, "h w c"]
Square = UInt8[np.ndarray, "side side c"]

# The mode that Pillow gives a picture of so many channels.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# A file is decoded by what it holds, not by its name, and by these alone: Pillow hands some formats to other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP")


class Unreadable(ValueError):
    """A damaged picture; the message names it and the way out."""

    def __init__(self, name: str, reason: object):
        super().__init__(
            f"{name} is not a picture that can be read ({reason}); repair or remove it, "
            "or leave such pictures out: corrupt='skip' (--data.corrupt skip)"
        )


def decode(content: bytes, name: str) -> Picture:
    """The first frame of a JPEG, PNG, GIF or BMP with the channels that it has; `Unreadable` when it is damaged.

    A palette becomes RGB, or RGBA if it has transparent colours; 16 bits become 8; the orientation that a camera noted
    is ignored, as ADM does.
    """
    if not content:
        raise Unreadable(name, "it is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            picture.load()
            return _array(picture)
    except Exception as error:  # a decoder that meets arbitrary bytes raises nearly anything
        reason = "no JPEG, PNG, GIF or BMP" if isinstance(error, Image.UnidentifiedImageError) else error
        raise Unreadable(name, str(reason).partition("\n")[0] or type(error).__name__) from error


def _array(picture: Image.Image) -> Picture:
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        return np.clip(np.asarray(picture).astype(np.int64) >> 8, 0, 255).astype(np.uint8)[..., None]
    mode = "L" if picture.mode == "1" else picture.mode
    if mode not in MODES.values():
        mode = "RGBA" if picture.has_transparency_data else "RGB"
    return _from_pillow(picture.convert(mode))


def with_channels(picture: Picture, channels: int) -> UInt8[np.ndarray, "h w channels"]:
    """The same picture in so many channels: alpha is dropped or added opaque, grey is the luma of ITU-R 601."""
    if picture.shape[-1] == channels:
        return picture
    return _from_pillow(_to_pillow(picture).convert(MODES[channels]))


def resize(picture: Picture, size: int) -> Square:
    """The whole picture as a square of side `size`; proportions change if it was none."""
    if picture.shape[:2] == (size, size):
        return picture
    return _from_pillow(_to_pillow(picture).resize((size, size), Image.Resampling.BICUBIC))


def centre_crop(picture: Picture, size: int) -> Square:
    """The middle square of side `size`, after the shorter side was scaled to `size`."""
    scaled = _scaled(picture, size)
    height, width = scaled.shape[:2]
    return _cut(scaled, (height - size) // 2, (width - size) // 2, size)


def random_crop(picture: Picture, size: int, draws: Float[np.ndarray, "3"]) -> Square:
    """A square of side `size` out of the picture scaled to a random size: (size, size, c).

    The shorter side becomes an integer from size to ceil(size / 0.8), then row and column are any that fit, all
    uniform: `draws` are three numbers in [0, 1), one for each in that order.
    """
    scaled = _scaled(picture, size + _choice(draws[0], math.ceil(size / 0.8) - size + 1))
    height, width = scaled.shape[:2]
    return _cut(scaled, _choice(draws[1], height - size + 1), _choice(draws[2], width - size + 1), size)


def _choice(draw, count):
    """A number in [0, 1) as one of 0 .. count - 1."""
    return int(draw * count)


def _cut(picture, top, left, size):
    return picture[top : top + size, left : left + size]


def _scaled(picture, shorter):
    """The shorter side made `shorter`: halved by averages while twice as long or more, the rest of the way bicubic."""
    if min(picture.shape[:2]) == shorter:
        return picture
    image = _to_pillow(picture)
    while min(image.size) >= 2 * shorter:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = shorter / min(image.size)
    size = round(image.width * scale), round(image.height * scale)
    return _from_pillow(image.resize(size, Image.Resampling.BICUBIC))


def _to_pillow(picture):
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _from_pillow(image):
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
