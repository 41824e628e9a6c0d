"""Which numbers are images, and which are the labels of images: arrays of other numbers are refused, never changed."""

from typing import Literal

import numpy as np
from jaxtyping import Float32

Labelling = Literal["class", "labels", "vector", "text"]


def checked(image: np.ndarray, name: str) -> np.ndarray:
    """Return the array as uint8 if it holds integers, as float32 if it holds floats; no value changes but by rounding.

    ValueError for integers outside 0..255, for floats that are not finite, and for floats that are the whole numbers of
    uint8 pictures. name: what the message calls the array.
    """
    if image.dtype == np.uint8:
        return image
    low, high = (image.min(), image.max()) if image.size else (0, 0)
    if np.issubdtype(image.dtype, np.integer):
        if low < 0 or high > 255:
            raise ValueError(f"{name} are {image.dtype} from {low} to {high}; integers from 0 to 255 are pictures")
        return image.astype(np.uint8)
    if not np.issubdtype(image.dtype, np.floating):
        raise ValueError(f"{name} are {image.dtype}; integers from 0 to 255 or floats are images")
    if not np.isfinite(image).all():
        count = np.sum(~np.isfinite(image).reshape(len(image), -1).all(1))
        raise ValueError(f"{count} of {name} are not finite; leave them out or repair them")
    if low >= 0 and 1 < high <= 255 and not (image % 1).any():
        raise ValueError(
            f"{name} are {image.dtype}, whole numbers from {low:g} to {high:g}: convert pictures to uint8, or scale them "
            "to [-1, 1]"
        )
    return image.astype(np.float32)


def checked_labels(label: np.ndarray, name: str) -> tuple[Labelling, Float32[np.ndarray, "n k"]]:
    """Return ("labels", label) of integers (N, K), 0 or 1 for each of K labels, or ("vector", label) of floats (N, K).

    ValueError for other numbers. name: what the message calls them.
    """
    if label.ndim != 2 or not label.shape[1]:
        raise ValueError(f"{name} is {label.dtype} {label.shape}; (N,) or (N, K) with K of 1 or more is expected")
    if np.issubdtype(label.dtype, np.floating):
        if np.isinf(label).any():
            raise ValueError(f"{name} holds infinite numbers; a number that is not known is NaN")
        return "vector", label.astype(np.float32)
    if not (label.dtype == bool or np.issubdtype(label.dtype, np.integer)) or not np.isin(label, (0, 1)).all():
        raise ValueError(
            f"{name} is {label.dtype} {label.shape} with other values than 0 and 1; integers (N, K) say of each of K "
            "labels whether a picture has it, and numbers to condition on are floats"
        )
    return "labels", label.astype(np.float32)
