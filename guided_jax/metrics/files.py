"""Pictures and statistics on disk, in the formats of ADM's evaluator and of pytorch-fid.

An npz file with any of

    arr_0, arr_1            uint8 pictures (N, H, W, C), integer labels (N,)              ADM
    mu, sigma               mean (d,) and covariance (d, d) of the features               ADM and pytorch-fid
    mu_s, sigma_s           the same of the spatial features                              ADM
    mu_dinov2, sigma_dinov2, features_dinov2   the same of DINOv2's features beside       ours: others do not read them
    count, features         how many pictures are behind them, which features they are    ours

Sources: the evaluator of [ADM] Dhariwal & Nichol 2105.05233 (its reference batches); pytorch-fid's `--save-stats`.
"""

import contextlib
import math
import os
import zipfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

import numpy as np
from jaxtyping import Float, Int, UInt8

from guided_jax.metrics.frechet import Moments
from guided_jax.metrics.summary import Summary
from guided_jax.storage import npz
from guided_jax.storage.files import replacing

# The features of statistics whose file does not name them, such as those of ADM and pytorch-fid.
INCEPTION = "inception"
DINO = "dinov2"  # the first word of the names of DINOv2's features
NAMES = ("mu", "sigma", "mu_s", "sigma_s", "mu_dinov2", "sigma_dinov2", "features_dinov2")
MEMBER = "arr_0.npy"


class Statistics(NamedTuple):
    """Means and covariances of features, float64.

    spatial: those of the spatial features, None where there are none. size: the number of pictures, None if unknown.
    features: the name of the feature space. dino: those of the same pictures by DINOv2, None where there are none.
    """

    mean: Float[np.ndarray, " d"]
    covariance: Float[np.ndarray, "d d"]
    spatial: tuple[Float[np.ndarray, " s"], Float[np.ndarray, "s s"]] | None = None
    size: int | None = None
    features: str = INCEPTION
    dino: "Statistics | None" = None

    @property
    def moments(self) -> Moments:
        """The moments, which `merge` takes. ValueError when the number of pictures is unknown."""
        if self.size is None:
            raise ValueError("statistics without their number of pictures cannot be merged: their weight is unknown")
        return Moments(self.size, self.mean, self.covariance * (self.size - 1))


def statistics_of(summary: Summary, features: str = INCEPTION) -> Statistics:
    """Return the statistics of a summary; features: the name of the feature space."""
    spatial = None if summary.spatial is None else (summary.spatial.mean, summary.spatial.covariance)
    return Statistics(summary.moments.mean, summary.moments.covariance, spatial, summary.moments.size, features)


def save_statistics(
    path: str | os.PathLike,
    statistics: Statistics,
    pictures: UInt8[np.ndarray, "n h w c"] | None = None,
    labels: Int[np.ndarray, " n"] | None = None,
) -> None:
    """Write statistics under the names above, with pictures and labels if given; the file is whole or absent."""
    named = {
        "mu": statistics.mean,
        "sigma": statistics.covariance,
        "mu_s": statistics.spatial and statistics.spatial[0],
        "sigma_s": statistics.spatial and statistics.spatial[1],
        "mu_dinov2": statistics.dino and statistics.dino.mean,
        "sigma_dinov2": statistics.dino and statistics.dino.covariance,
        "features_dinov2": statistics.dino and statistics.dino.features,
        "count": statistics.size,
        "features": statistics.features,
        "arr_0": pictures,
        "arr_1": labels,
    }
    with replacing(path) as file:
        np.savez(file, **{name: np.asarray(value) for name, value in named.items() if value is not None})  # type: ignore[arg-type]


def load_statistics(path: str | os.PathLike) -> Statistics | None:
    """Return the statistics of a file, None if it has none. ValueError for wrong shapes, OSError if it cannot be read."""
    found = npz.read(path, (*NAMES, "count", "features"))
    own, spatial, beside = (_pair(path, found, suffix) for suffix in ("", "_s", "_dinov2"))
    if own is None:
        return None
    size = None if found["count"] is None else int(found["count"])
    features = _text(found["features"], INCEPTION)
    dino = (
        None if beside is None else Statistics(beside[0], beside[1], None, size, _text(found["features_dinov2"], DINO))
    )
    return Statistics(own[0], own[1], spatial, size, features, dino)


def select(stored: Statistics | None, features: str) -> Statistics | None:
    """Return those of the statistics of a file that are of these features, None if there are none."""
    own = (stored, stored.dino) if stored is not None else ()
    return next((each for each in own if each is not None and each.features == features), None)


def _text(array: np.ndarray | None, default: str) -> str:
    return default if array is None else str(array)


def _pair(path, found, suffix):
    """Return (mean, covariance) under mu and sigma with this suffix, None if absent; ValueError for wrong shapes."""
    pair = [found[name + suffix] for name in ("mu", "sigma")]
    what = f"mu{suffix} and sigma{suffix} of {path}"
    if all(part is None for part in pair):
        return None
    if any(part is None for part in pair):
        raise ValueError(f"{what}: one is missing, and both are needed")
    mean, covariance = (np.asarray(part, np.float64) for part in pair)
    if mean.ndim != 1 or covariance.shape != 2 * mean.shape:
        raise ValueError(f"{what} are {mean.shape} and {covariance.shape}; (d,) and (d, d) are expected")
    if not (np.isfinite(mean).all() and np.isfinite(covariance).all()):
        raise ValueError(f"{what} are not finite")
    return mean, covariance


class Pictures(NamedTuple):
    """The pictures of a file, read in chunks; the labels are in memory."""

    path: str
    size: int
    shape: tuple[int, ...]  # (H, W, C)
    labels: Int[np.ndarray, " n"] | None

    def chunks(self, chunk: int) -> Iterator[UInt8[np.ndarray, "_ h w c"]]:
        """Yield `chunk` pictures at a time, straight from the archive, in constant memory whatever the file's size."""
        with _member(self.path) as (file, _):
            for start in range(0, self.size, chunk):
                rows = min(chunk, self.size - start)
                content = file.read(rows * math.prod(self.shape))
                if len(content) < rows * math.prod(self.shape):
                    raise ValueError(f"arr_0 of {self.path} ends before its last picture; it is damaged")
                yield np.frombuffer(content, np.uint8).reshape(rows, *self.shape)


def open_pictures(path: str | os.PathLike) -> Pictures | None:
    """Return the pictures `arr_0` of a file and their classes `arr_1`, None if it has no pictures.

    ValueError when they are not uint8 (N, H, W, C) and integers (N,), OSError when the file cannot be read.
    """
    labels = npz.read(path, ["arr_1"])["arr_1"]
    with zipfile.ZipFile(path) as archive:
        if MEMBER not in archive.namelist():
            return None
    with _member(path) as (_, shape):
        if labels is not None and labels.ndim == 2:  # several labels or a vector each, and no class
            labels = None
        if labels is not None and (labels.shape != shape[:1] or not np.issubdtype(labels.dtype, np.integer)):
            raise ValueError(f"arr_1 of {path} is {labels.dtype} {labels.shape}, {shape[0]} integers are expected")
        return Pictures(os.fspath(path), shape[0], shape[1:], labels)


@contextlib.contextmanager
def _member(path: str | os.PathLike) -> Iterator[tuple[IO[bytes], tuple[int, ...]]]:
    """Yield (the bytes of arr_0 after its header, its shape)."""
    try:
        with zipfile.ZipFile(path) as archive, archive.open(MEMBER) as file:
            version = np.lib.format.read_magic(file)
            read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, fortran, dtype = read(file)
            if dtype != np.uint8 or len(shape) != 4 or fortran:
                raise ValueError(f"arr_0 of {path} is {dtype} {shape}, uint8 (N, H, W, C) is expected")
            yield file, shape
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise ValueError(f"arr_0 of {path} is damaged ({error})") from error
