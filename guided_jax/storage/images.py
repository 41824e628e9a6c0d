"""Pictures: float images in [-1, 1] to uint8 and back, grids, PNG files and the npz format that evaluators read.

Arrays are numpy, (N, H, W, C) or (H, W, C); C is 1 (grey), 2 (grey, alpha), 3 (RGB) or 4 (RGBA).
"""

import math
import os
from collections.abc import Sequence
from typing import Any

import jax
import numpy as np
from jaxtyping import Array, Float, Float32, Int, Num, UInt8
from PIL import Image, ImageDraw, ImageFont

from guided_jax.storage import npz
from guided_jax.storage.files import replacing


def to_uint8(x: jax.typing.ArrayLike, allow_non_finite: bool = False) -> UInt8[np.ndarray, "..."]:
    """floor(clamp((x + 1) 127.5, 0, 255)): [-1, 1] to 0..255, as Dhariwal & Nichol's ADM does it.

    ValueError when a value is not finite, unless `allow_non_finite`, which makes nan and -inf 0 and inf 255.

    >>> to_uint8(np.array([-1.0, 0.0, 1.0, 3.0]))
    array([  0, 127, 255, 255], dtype=uint8)
    """
    x = np.asarray(x, np.float32)
    if not allow_non_finite and len(wrong := non_finite(x)):
        shown = ", ".join(map(str, wrong[:10])) + (", ..." if len(wrong) > 10 else "")
        raise ValueError(f"{len(wrong)} of {len(x) if x.ndim else 1} pictures are not finite: {shown}")
    x = np.nan_to_num(x, nan=-1, posinf=1, neginf=-1) if allow_non_finite else x
    return np.clip((x + 1) * np.float32(127.5), 0, 255).astype(np.uint8)


def non_finite(x: Float[Array | np.ndarray, "..."]) -> Int[np.ndarray, " k"]:
    """Return the indices along the first axis at which some value is nan or infinite; [0] or [] for a scalar."""
    x = np.asarray(x)
    return np.flatnonzero(~np.isfinite(x).reshape(len(x) if x.ndim else 1, -1).all(1))


def from_uint8(x: np.ndarray) -> Float32[np.ndarray, "..."]:
    """x / 127.5 - 1: 0..255 to [-1, 1]. ValueError for other arrays than uint8, whose range is another."""
    if x.dtype != np.uint8:
        raise ValueError(f"the pictures are {x.dtype}; uint8 from 0 to 255 is expected")
    return x.astype(np.float32) / np.float32(127.5) - 1


def grid(
    images: UInt8[np.ndarray, "n h w c"],
    columns: int | None = None,
    scale: int = 1,
    gap: int = 2,
    labels: Sequence[Any] | None = None,
) -> UInt8[np.ndarray, "height width c"]:
    """Return the images row by row on white, each pixel drawn as `scale` x `scale`, `gap` pixels apart.

    `columns` is about the square root of N by default. `labels` are written to the left of the rows, one a row
    (ValueError if their number differs). The cells left over stay white.

    >>> grid(np.zeros((6, 8, 8, 3), np.uint8), columns=3).shape
    (22, 32, 3)
    """
    columns = columns or max(1, math.ceil(math.sqrt(len(images))))
    rows = math.ceil(len(images) / columns)
    images = images.repeat(scale, axis=1).repeat(scale, axis=2)
    _, h, w, c = images.shape
    canvas = np.full((rows * (h + gap) + gap, columns * (w + gap) + gap, c), 255, np.uint8)
    for i, image in enumerate(images):
        top, left = gap + (i // columns) * (h + gap), gap + (i % columns) * (w + gap)
        canvas[top : top + h, left : left + w] = image
    return canvas if labels is None else _with_labels(canvas, labels, rows, gap)


def _with_labels(canvas, labels, rows, gap):
    if len(labels) != rows:
        raise ValueError(f"{len(labels)} labels were given for the {rows} rows of the grid")
    font = ImageFont.load_default()
    margin = math.ceil(max(font.getlength(str(label)) for label in labels)) + 2 * gap + 2
    text = Image.new("L", (margin, canvas.shape[0]), 255)
    height = (canvas.shape[0] - gap) / rows
    for row, label in enumerate(labels):
        ImageDraw.Draw(text).text((gap + 1, gap + (row + 0.4) * height), str(label), fill=0, font=font, anchor="lm")
    side = np.repeat(np.asarray(text)[..., None], canvas.shape[-1], axis=-1)
    if canvas.shape[-1] in (2, 4):
        side[..., -1] = 255
    return np.concatenate([side, canvas], axis=1)


def save_png(path: str | os.PathLike, image: UInt8[np.ndarray, "h w c"]) -> None:
    """Write one image, whole or not at all. ValueError unless it has 1 to 4 channels, OSError if it cannot be written."""
    if image.shape[-1] not in (1, 2, 3, 4):
        raise ValueError(f"a PNG has 1 to 4 channels, this image has {image.shape[-1]}")
    with replacing(path) as file:
        Image.fromarray(image[..., 0] if image.shape[-1] == 1 else image).save(file, format="png")


def shrink(images: Float[Array | np.ndarray, "*n h w c"], side: int) -> Float[Array | np.ndarray, "*n h2 w2 c"]:
    """Return the means over equal blocks of pixels, (side, side, c): ADM's low-resolution input of upsamplers.

    Raises ValueError when the pictures are not square or `side` does not divide theirs.
    """
    *n, h, w, c = images.shape
    if h != w or side < 1 or h % side:
        raise ValueError(f"pictures of {h}x{w} cannot be shrunk to {side}x{side}; give a side that divides theirs")
    return images.reshape(*n, side, h // side, side, h // side, c).mean((-4, -2))


def save_npz(
    path: str | os.PathLike, images: UInt8[np.ndarray, "n h w c"], labels: Int[np.ndarray, " n"] | None = None
) -> None:
    """Write samples in ADM's format, `arr_0` the images and `arr_1` the labels if any, whole or not at all."""
    with replacing(path) as file:
        np.savez(file, images, *(() if labels is None else (labels,)))


def load_npz(path: str | os.PathLike) -> tuple[UInt8[np.ndarray, "n h w c"], Num[np.ndarray, "n *k"] | None]:
    """Return images (N, H, W, C) and labels, or None, from a file in ADM's format; pickled objects are refused.

    Labels are int (N,), or (N, K) where pictures have several labels or a vector each.

    Raises ValueError in one sentence when the file does not hold that, OSError when it cannot be read.
    """
    images, labels = npz.read(path, ("arr_0", "arr_1")).values()
    if images is None:
        raise ValueError(f"{path} holds no samples: an npz file with uint8 images under arr_0 is expected")
    if images.dtype != np.uint8 or images.ndim != 4:
        raise ValueError(f"arr_0 of {path} is {images.dtype} {images.shape}, uint8 (N, H, W, C) is expected")
    if labels is not None:
        classes = labels.ndim == 1 and np.issubdtype(labels.dtype, np.integer)
        if labels.shape[:1] != images.shape[:1] or not (classes or labels.ndim == 2):
            raise ValueError(f"arr_1 of {path} is {labels.dtype} {labels.shape}, {len(images)} integers are expected")
    return images, labels
