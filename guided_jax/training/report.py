"""The rows of a training: what metrics.jsonl holds, and the check that everything is finite."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np

from guided_jax import parallel
from guided_jax.storage import checkpoint, log
from guided_jax.training.step import TrainState, numbers

FINITE = {"loss": "the loss is", "grad_norm": "the norm of the gradients is"}


class Report:
    """Writer of metrics.jsonl.

    The metrics of one dispatch are read after the next one has started, so that the device never waits for them. Those
    of every step are checked, and every `log_every`-th is written. `shown` are values for the progress bar.
    """

    def __init__(self, path: Path, log_every: int, num_steps: int, saved: checkpoint.Checkpoints):
        """Open the file, without the rows that follow the last checkpoint, which are about to be written again."""
        self.path, self.log_every, self.num_steps, self.saved = path, log_every, num_steps, saved
        self.pending: tuple[int, Any] | None = None
        self.shown: dict[str, str] = {}
        if parallel.primary():
            log.truncate(path, saved.last or 0)

    def add(self, first: int, metrics: Any) -> None:
        """Take the metrics of the steps from `first` on, after writing the pending ones."""
        self.write()
        self.pending = (first, metrics)

    def write(self, evaluation: Mapping[str, float] | None = None) -> None:
        """Write the pending metrics. `evaluation` joins the row of the last step, which is then written in any case."""
        if self.pending is None:
            return
        first, metrics = self.pending[0], jax.tree.map(np.atleast_1d, jax.device_get(dict(self.pending[1])))
        self.pending = None
        last = first + len(metrics["loss"]) - 1
        for step in range(first, last + 1):
            row = numbers(jax.tree.map(lambda leaf, i=step - first: float(leaf[i]), metrics))
            self._check_row(step, row)
            more = (evaluation or {}) if step == last else {}
            if parallel.primary() and (more or step % self.log_every == 0 or step == self.num_steps):
                log.append(self.path, {"step": step, "loss": row["loss"], **row, **more})
        self.shown = {"loss": f"{row['loss']:.4f}"}

    def _check_row(self, step: int, row: Mapping[str, float]) -> None:
        for name, words in FINITE.items():
            if not math.isfinite(row.get(name, 0.0)):
                raise FloatingPointError(self._diverged(f"{words} {row[name]}", step))

    def check_finite(self, state: TrainState, step: int) -> None:
        """Raise FloatingPointError when the parameters or their average are not finite."""
        if not parallel.all_finite((state.params, state.ema)):
            raise FloatingPointError(self._diverged("the parameters are no longer finite", step))

    def _diverged(self, what: str, step: int) -> str:
        """Return one sentence: what happened, at which step, and which checkpoint to go back to."""
        last, place = self.saved.last, self.saved.directory
        good = f"the last good checkpoint is {last} in {place}" if last else "no checkpoint was saved yet"
        return f"{what} at step {step}; {good}; try a lower learning rate"
