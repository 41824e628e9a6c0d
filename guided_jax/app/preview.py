"""What grid.png shows: pictures as they are, the channels of other arrays in grey side by side, and signals as curves."""

from pathlib import Path
from typing import Any

import numpy as np

from guided_jax.app.facts import Facts, zoom
from guided_jax.storage import images
from guided_jax.storage.files import replacing


def stored(x: np.ndarray, facts: Facts, finite: np.ndarray | None = None) -> np.ndarray:
    """Return samples (N, H, W, C) as they are stored: uint8 pictures, or floats, of signals (N, length, channels).

    finite: (N,), which pictures are not black; by default only values that are not finite are.
    """
    if facts.kind != "pictures":
        return np.asarray(x, np.float32).reshape(len(x), *facts.stored_shape)
    if finite is None:
        return images.to_uint8(x, allow_non_finite=True)
    return images.to_uint8(np.where(finite.reshape(-1, *(1,) * (x.ndim - 1)), x, -1.0))


def save_grid(path: Path, samples: np.ndarray, facts: Facts, columns: int) -> None:
    """Write samples, as `stored` returns them, row by row as a PNG of at most so many columns."""
    columns = min(columns, len(samples))
    if facts.kind == "signals":
        _save_curves(path, samples, columns)
    else:
        shown = samples if facts.kind == "pictures" else _in_grey(samples)
        images.save_png(path, images.grid(shown, columns=columns, scale=zoom(facts)))


def _in_grey(arrays: np.ndarray) -> np.ndarray:
    """Return uint8 pictures (N, H, C W, 1) of the channels of arrays (N, H, W, C); black to white is the range of most."""
    count, height, width, channels = arrays.shape
    low, high = _range(arrays)
    beside = np.moveaxis(arrays, -1, 2).reshape(count, height, channels * width, 1)
    return images.to_uint8(2 * (beside - low) / (high - low) - 1, allow_non_finite=True)


def _range(arrays: np.ndarray) -> tuple[float, float]:
    """Return the range of all values but the outermost hundredth; (0, 1) where there is none."""
    finite = arrays[np.isfinite(arrays)]
    low, high = np.quantile(finite, (0.005, 0.995)) if finite.size else (0.0, 1.0)
    return float(low), float(high) if high > low else float(low) + 1


def _save_curves(path: Path, signals: np.ndarray, columns: int) -> None:
    """Draw signals (N, length, channels) in cells of one common scale, a curve a channel."""
    from matplotlib.collections import LineCollection  # slow to import, and only needed here
    from matplotlib.figure import Figure

    count, length, channels = signals.shape
    low, high = _range(signals)
    cells, rows = np.arange(count), -(-count // columns)
    across = cells[:, None] % columns + np.linspace(0.05, 0.95, length)
    figure = Figure(figsize=(1.2 * columns + 0.2, 0.8 * rows + 0.2), layout="constrained")
    axes: Any = figure.subplots()
    for channel in range(channels):
        up = 0.05 + 0.9 * (signals[:, :, channel] - low) / (high - low) - 1 - cells[:, None] // columns
        axes.add_collection(LineCollection(list(np.stack([across, up], -1)), colors=f"C{channel % 10}", linewidths=0.8))
    axes.set(xlim=(0, columns), ylim=(-rows, 0))
    axes.axis("off")
    with replacing(path) as file:
        figure.savefig(file, format="png", dpi=120)
