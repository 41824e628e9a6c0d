"""A picture of a certificate: samples beside the laws that they may have."""

from typing import Any

import matplotlib
import numpy as np

from guided_jax.certificate import EXTENT, SIDE, Law

matplotlib.use("Agg")
from matplotlib import pyplot


def draw(samples: np.ndarray, laws: dict[str, Law], shown: float = 3.0) -> Any:
    """Return a figure: the samples, then for each law its density with the samples on it.

    samples: (count, 2). shown: half the side of the part of the plane that is drawn.
    """
    figure, axes = pyplot.subplots(1, len(laws) + 1, figsize=(3.2 * (len(laws) + 1), 3.4), layout="constrained")
    axes[0].scatter(*samples.T, s=2, color="tab:orange")
    axes[0].set_title("samples", fontsize="medium")
    for panel, (name, law) in zip(axes[1:], laws.items(), strict=True):
        square = law.masses.reshape(SIDE, SIDE).T
        panel.imshow(square, origin="lower", extent=(-EXTENT, EXTENT) * 2, cmap="Blues", vmax=square.max())
        panel.contour(square, [law.level], colors="tab:blue", linewidths=1, extent=(-EXTENT, EXTENT) * 2)
        panel.scatter(*samples[:500].T, s=1, color="tab:orange")
        panel.set_title(name, fontsize="medium")
    for panel in axes:
        panel.set(xlim=(-shown, shown), ylim=(-shown, shown), aspect="equal", xticks=[], yticks=[])
    return figure
