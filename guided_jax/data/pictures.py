"""One picture at a time, uint8 (h, w, c): from bytes, to another number of channels, to the size asked for.

c is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA). Sizes, filters and draws are those of Dhariwal & Nichol's ADM.
"""

import io
import math

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image, ImageOps

Picture = UInt8[np.ndarray, "h w c"]
Resized = UInt8[np.ndarray, "h2 w2 c"]
Size = tuple[int, int]  # height and width in pixels

# The mode that Pillow gives a picture of so many channels.
MODES = {1: "L", 2: "LA", 3: "RGB", 4: "RGBA"}

# A file is decoded by its content, not by its name, and by these alone: Pillow hands some formats to other programs.
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF")
ORIENTATION = 0x0112  # the EXIF tag: 1 upright, 2 to 8 mirrored or turned
# 16-bit values that all stay below this are data of 14 bits or fewer, of which 8 bits would keep a few levels only.
LEAST_DEPTH = 2**14


class Unreadable(ValueError):
    """A picture that cannot be read; the message names it, the reason and the way out."""

    def __init__(self, name: str, reason: object):
        super().__init__(
            f"{name} is not a picture that can be read ({reason}); repair or remove it, "
            "or leave such pictures out with corrupt='skip'"
        )


def decode(content: bytes, name: str) -> Picture:
    """Return the first frame of a JPEG, PNG, GIF, BMP, WebP or TIFF file with the channels that it has.

    The picture is turned upright as its EXIF orientation says (ADM ignores it). A palette becomes RGB, or RGBA if it has
    transparent colours. 16 bits become 8; data of 14 bits or fewer in a 16-bit file is refused, for few levels would be
    left. name: what error messages call the picture. Raises `Unreadable` for a damaged or refused one.
    """
    if not content:
        raise Unreadable(name, "it is empty")
    try:
        with Image.open(io.BytesIO(content), formats=FORMATS) as picture:
            is_deep = _has_16_bits(picture)  # before `load`, which forgets it
            picture.load()
            return _to_array(_upright(picture), is_deep)
    except Exception as error:  # a decoder that meets arbitrary bytes raises nearly anything
        unknown = isinstance(error, Image.UnidentifiedImageError)
        reason = f"no {', '.join(FORMATS[:-1])} or {FORMATS[-1]}" if unknown else error
        raise Unreadable(name, str(reason).partition("\n")[0] or type(error).__name__) from error


def _has_16_bits(picture: Image.Image) -> bool:
    """Return whether the file has 16 bits a channel. Of colour Pillow itself keeps the upper 8 and does not say so."""
    arguments = [tile[3] for tile in getattr(picture, "tile", [])]
    raw_modes = [each if isinstance(each, str) else str(each[0]) for each in arguments if each]
    return any(";16" in mode for mode in (picture.mode, *raw_modes))


def _upright(picture: Image.Image) -> Image.Image:
    """Return the picture turned as its EXIF orientation says; as it is when the EXIF data is missing or damaged."""
    try:
        turned = picture.getexif().get(ORIENTATION, 1) in range(2, 9)
        return ImageOps.exif_transpose(picture) if turned else picture
    except Exception:  # a parser that meets arbitrary bytes raises nearly anything
        return picture


def _to_array(picture: Image.Image, is_deep: bool) -> Picture:
    if picture.mode == "F":
        raise ValueError("it holds floating-point numbers, which belong into an npz file of float arrays")
    if picture.mode.startswith("I"):  # 16-bit grey, which Pillow's own conversion would clip at 255
        values = np.asarray(picture).astype(np.int64)
        if values.min() < 0 or values.max() >= 2**16:
            raise ValueError(f"its values go from {values.min()} to {values.max()}, beyond 16 bits")
        _check_depth(int(values.max()), black=int(values.max()) == 0)
        return (values >> 8).astype(np.uint8)[..., None]
    mode = "L" if picture.mode == "1" else picture.mode
    if mode not in MODES.values():
        mode = "RGBA" if picture.has_transparency_data else "RGB"
    array = _from_pillow(picture.convert(mode))
    if is_deep:
        _check_depth(256 * int(_colour(array).max()) + 255)
    return array


def _check_depth(highest: int, black: bool = False) -> None:
    if highest < LEAST_DEPTH and not black:
        raise ValueError(
            f"its 16-bit values stay below {highest + 1}, which leaves {highest // 256 + 1} levels of 8 bits: "
            "scale it to 0..65535, or save it with 8 bits"
        )


def _colour(picture: Picture) -> np.ndarray:
    """Return the picture without its alpha channel."""
    return picture[..., : picture.shape[-1] - 1 + picture.shape[-1] % 2]


def with_channels(picture: Picture, channels: int, background: int = 255) -> UInt8[np.ndarray, "h w channels"]:
    """Return the picture with so many channels.

    A missing alpha channel is added opaque; one that is left out mixes the colour with `background`, a grey value (0 to
    255, white by default): alpha c + (1 - alpha) background. Grey is the luma of ITU-R 601.
    """
    if picture.shape[-1] == channels:
        return picture
    if picture.shape[-1] in (2, 4) and channels in (1, 3):
        alpha = picture[..., -1:].astype(np.int64)
        mixed = (_colour(picture) * alpha + background * (255 - alpha) + 127) // 255
        picture = mixed.astype(np.uint8)
        if picture.shape[-1] == channels:
            return picture
    return _from_pillow(_to_pillow(picture).convert(MODES[channels]))


def resize(picture: Picture, size: Size) -> Resized:
    """Return the whole picture at this (height, width), by bicubic interpolation; its proportions may change."""
    if picture.shape[:2] == size:
        return picture
    return _from_pillow(_to_pillow(picture).resize(size[::-1], Image.Resampling.BICUBIC))


def centre_crop(picture: Picture, size: Size) -> Resized:
    """Return the middle part of this (height, width), after the picture was scaled to just cover it."""
    scaled = _cover(picture, size)
    height, width = scaled.shape[:2]
    return _cut(scaled, (height - size[0]) // 2, (width - size[1]) // 2, size)


def random_crop(picture: Picture, size: Size, draws: Float[np.ndarray, "3"]) -> Resized:
    """Return a part of this (height, width) out of the picture scaled to a random size.

    It is scaled to cover a rectangle of the same proportions, whose height is an integer from `height` to
    ceil(height / 0.8); then row and column are any that fit. All are uniform: `draws` are three numbers in [0, 1), one for
    each in that order.
    """
    height, width = size
    larger = height + _choice(draws[0], math.ceil(height / 0.8) - height + 1)
    scaled = _cover(picture, (larger, -(-larger * width // height)))
    rows, columns = scaled.shape[:2]
    return _cut(scaled, _choice(draws[1], rows - height + 1), _choice(draws[2], columns - width + 1), size)


def _choice(draw, count):
    """Return a number in [0, 1) as one of 0 .. count - 1."""
    return int(draw * count)


def _cut(picture, top, left, size):
    return picture[top : top + size[0], left : left + size[1]]


def _cover(picture: Picture, size: Size) -> Resized:
    """Scale the picture until one side is that of `size` and the other is no smaller.

    It is halved by averages while both sides are twice as long or more, and goes the rest of the way by bicubic
    interpolation.
    """
    if _scale(picture.shape[:2], size) == 1:
        return picture
    image = _to_pillow(picture)
    while min(image.height / size[0], image.width / size[1]) >= 2:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = _scale((image.height, image.width), size)
    # At least `size`: the product may round to one pixel less.
    new = max(size[1], round(image.width * scale)), max(size[0], round(image.height * scale))
    return _from_pillow(image.resize(new, Image.Resampling.BICUBIC))


def _scale(size: Size, covered: Size) -> float:
    """Return the factor by which a picture of `size` just covers `covered`."""
    return max(covered[0] / size[0], covered[1] / size[1])


def _to_pillow(picture):
    return Image.fromarray(picture[..., 0] if picture.shape[-1] == 1 else picture)


def _from_pillow(image):
    array = np.asarray(image)
    return array[..., None] if array.ndim == 2 else array
