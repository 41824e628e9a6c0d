"""Grids of samples while the diffusion model trains."""

import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import parallel, sampler
from guided_jax.app import preview
from guided_jax.app import run as runs
from guided_jax.app.sample import draw
from guided_jax.app.sample.request import Method
from guided_jax.storage import images
from guided_jax.training import loop

ROWS, COLUMNS = 4, 16  # of a grid, at most


def default_method(run: runs.Run, scale: float, steps: str | None = None) -> Method:
    """Return the default sampler with classifier-free guidance where the network has a null label and scale is not 1.

    At scale 1 classifier-free guidance is the conditional model, which takes one network call instead of two. So does a
    network that is told the scale.
    """
    if run.scales is not None:
        return Method("distilled", steps=steps)
    guided = run.model.null is not None and scale != 1
    return Method("classifier-free" if guided else "none", steps=steps)


def warn_non_finite(step: int, wrong: int, count: int) -> None:
    """Print how many samples of a step are not finite; training goes on, since its own losses are watched."""
    if wrong:
        print(f"warning: at step {step} {wrong} of {count} samples are not finite", file=sys.stderr, flush=True)


def labels_of_columns(run: runs.Run) -> np.ndarray:
    """Return the label of each column: the classes, or those of the first training examples where they are no classes."""
    if run.facts.labelling == "class":
        return np.arange(min(run.facts.num_classes, COLUMNS))
    source = runs.source(run)
    return source.read(np.arange(min(len(source), COLUMNS)))["label"]


def make_hooks(run: runs.Run, out: Path) -> list[tuple[int, loop.Hook]]:
    """Return the hook that writes diffusion/samples-STEP.png, a column a label, of the averaged weights.

    There is none for an upsampler, which would need low-resolution pictures.
    """
    settings = run.experiment.diffusion
    if not settings.sample_every or run.low_res:
        return []
    labels = labels_of_columns(run)
    method = default_method(run, 2.0, str(min(25, run.model.levels.t.size - 1)))
    whole = run._replace(decode_size=None)  # pictures, and no latents that are decoded afterwards
    drawn = jax.vmap(draw.make_draw(whole, method, run.conditional), (None, 0, 0, None))
    draw_grid = parallel.jit(drawn)

    def save_grid(done: int, state: Any) -> None:
        indices = np.arange(ROWS * len(labels))
        keys = sampler.keys(jax.random.key(run.experiment.seed), indices)
        params = {"diffusion": run.complete(parallel.first_copy(state.ema))}
        samples = parallel.to_host(draw_grid(params, keys, jnp.asarray(labels[indices % len(labels)]), 2.0))
        if not parallel.primary():
            return
        warn_non_finite(done, len(images.non_finite(samples)), len(samples))
        path = out / "diffusion" / f"samples-{done:06d}.png"
        preview.save_grid(path, preview.stored(samples, run.facts), run.facts, columns=len(labels))

    return [(settings.sample_every, save_grid)]
