"""What each sample of a request is drawn with: its label, its scale, its seed and its pictures."""

from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from guided_jax import data
from guided_jax.app import run as runs
from guided_jax.app.sample import guidances, inverse, labels, named_pictures
from guided_jax.app.sample.parts import Pictures
from guided_jax.app.sample.request import Sampling
from guided_jax.storage import images


class Inputs(NamedTuple):
    """What the samples of some indices are drawn with, a row each.

    recorded: the labels as the file has them. seeds, numbers: which determine a sample, the one of each seed.
    """

    labels: np.ndarray
    recorded: np.ndarray
    scales: np.ndarray
    pictures: Pictures
    seeds: np.ndarray
    numbers: np.ndarray


def make_inputs(options: Sampling, run: runs.Run) -> Callable[[np.ndarray], Inputs]:
    """Return indices -> `Inputs`; ValueError for pictures that the run does not take."""
    method = options.method
    base = None if options.base_samples is None else load_base(options.base_samples, run)[0]
    given = given_labels(options, run)
    measured = "measurement" in guidances.row_of(method).needs
    measure = inverse.make_measure(method, run, options.seed) if measured else None
    image = named_pictures.read(method.image, run, "--image") if method.image else None
    masks = inverse.read_masks(method.measurement.mask, run.facts.image_shape) if inverse.paints(method) else None
    control = named_pictures.read(method.control_image, run, "--control-image") if method.control_image else None
    labels_of = labels.make_labels(options, run, given)

    def inputs(indices: np.ndarray) -> Inputs:
        row = labels_of(indices)
        low_res = None if base is None else images.from_uint8(base[indices % len(base)])
        rounds = indices // len(options.labels or (0,))
        scales = _of_prompts(options.prompt_scale, row, np.asarray(options.scale)[rounds % len(options.scale)])
        seeds = _of_prompts(options.prompt_seed, row, np.full(len(indices), options.seed))
        # The samples of a prompt with a seed of its own are those that it alone would be drawn with.
        numbers = np.where(_of_prompts(options.prompt_seed, row, np.full(len(indices), -1)) < 0, indices, rounds)
        start = None if image is None else data.scale(image(indices))
        y, observed, truth = (None, None, None) if measure is None else measure(indices)
        masked = None
        if start is not None and masks is not None:
            observed = masks[indices % len(masks)]
            masked = start * observed if run.text is not None and run.text.takes_mask else None
        shown = None if control is None else np.float32(control(indices)) / 255
        pictures = Pictures(start, masked, y, observed, low_res, truth, shown)
        recorded = labels.recorded(options, run, row, given is not None)
        return Inputs(row, recorded, scales, pictures, seeds, numbers)

    return inputs


def _of_prompts(own: tuple[Any, ...], row: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Return what the prompts of some samples have of their own, and the others where they have nothing."""
    if not own:
        return others
    return np.array([other if own[i] is None else own[i] for i, other in zip(row, others, strict=True)])


def given_labels(options: Sampling, run: runs.Run) -> np.ndarray | None:
    """Return the labels that a request gives, in turn over the samples: --labels, or those of --base-samples.

    None where it gives none, and for those of --base-samples where nothing reads a label.
    """
    if options.labels:
        return labels.rows_of(options.labels, run)
    if options.base_samples is None or not (run.conditional or guidances.row_of(options.method).labelled):
        return None
    found = load_base(options.base_samples, run)[1]
    return None if found is None or np.isnan(found).all() else found


def load_base(path: Path, run: runs.Run) -> tuple[np.ndarray, np.ndarray | None]:
    """Return (low-resolution pictures, their labels or None); ValueError for a size that the run does not start from."""
    pictures, found = images.load_npz(path)
    side = run.low_res
    if pictures.shape[1:] != (side, side, run.facts.image_shape[-1]):
        raise ValueError(f"{path} has pictures of {pictures.shape[1:]}; the run starts from {side}x{side}")
    return pictures, labels.of_file(run.facts, found)
