"""The loop around a train step: batches in, checkpoints and metrics out, the same end whatever interrupts it."""

import dataclasses
import functools
import math
import os
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from tqdm import tqdm

from guided_jax import parallel
from guided_jax.storage import checkpoint, log
from guided_jax.training.step import TrainState, numbers


def never() -> None:
    """Nobody asks to stop."""


def fit(
    step: Callable,
    state: TrainState,
    batches: Any,
    num_steps: int,
    *,
    directory: str | os.PathLike,
    config: Mapping[str, Any] | None = None,
    ignore: Sequence[str] = (),
    save_every: int = 500,
    log_every: int = 50,
    keep: int = 2,
    keep_best: str | None = None,
    keep_highest: bool = False,
    evaluate: Sequence[tuple[int, Callable[[TrainState], Mapping[str, float]]]] = (),
    hooks: Sequence[tuple[int, Callable[[int, TrainState], Any]]] = (),
    dispatch: int = 1,
    stop: Callable[[], Any] = never,
    label: str = "training",
) -> TrainState:
    """Repeats the compiled `step(state, batch)` until `num_steps` are done, from the last checkpoint if there is one.

    `state` is placed on its devices, and destroyed if `step` donates. `batches` is an iterator with `get_state()` and
    `set_state()`, such as `data.loader` gives. `directory` receives `metrics.jsonl`, a row every `log_every` steps, and
    `checkpoints/`, one every `save_every` steps and at the end, with the position of `batches` and `config`; the last
    `keep` stay, and the one whose metric `keep_best` was lowest, or with `keep_highest` highest. A resumed run repeats an
    uninterrupted one bit for bit on the same devices.

    `evaluate` are (every, function): what they say of the state, then and at the end, joins the row of that step and the
    metrics of its checkpoint. `hooks` are (every, function): called with (steps done, state). Neither may keep the
    state, whose memory the next step reuses. With `dispatch` = k, `step(state, batch_1, ..., batch_k)` makes k steps
    wherever nothing falls due in between, and returns metrics (k,). When `stop()` is true the state is saved and
    returned early. Of several processes, the first evaluates, calls the hooks and writes.

    Raises ValueError when the checkpoint was made with another `config` (the dotted names in `ignore` may differ) or
    the data ends, FloatingPointError when the loss, the gradients or the parameters are no longer finite, OSError when
    `directory` cannot be written. What was saved before stays as it is.
    """
    cadence = [num_steps, save_every, *(every for every, _ in [*hooks, *evaluate])]
    with checkpoint.opened(Path(directory) / "checkpoints", keep, keep_best, keep_highest) as saved:
        state = _resume(saved, state, batches, config, ignore)
        report = _Report(Path(directory) / "metrics.jsonl", log_every, num_steps, saved)
        report.start()
        held_out: Mapping[str, float] = {}
        for done, group in _progress(
            batches, report, num_steps, functools.partial(_group, dispatch, cadence), stop, label
        ):
            state, metrics = step(state, *group)
            report.add(done - len(group) + 1, metrics)
            held_out = _evaluate(evaluate, done, num_steps, state)
            if held_out:
                report.write(held_out)
            if done % save_every == 0:
                _save(report, done, state, batches, config, held_out)
            for every, hook in hooks:
                if done % every == 0 and parallel.primary():
                    hook(done, state)
        report.write()
        if int(state.step) > (saved.last or 0):
            _save(report, int(state.step), state, batches, config, held_out)
    return state


def _resume(saved, state, batches, config, ignore):
    if saved.last is None:
        return state
    found = checkpoint.restore(saved.directory, state, config=config, ignore=ignore)
    parallel.same_everywhere(found.step, f"checkpoints in {saved.directory}; it has to be one directory, shared")
    checkpoint.set_aside(saved, found.step)
    batches.set_state(found.data_state)
    return found.state


def _group(dispatch, cadence, done):
    """How many steps to send off at once: all of a dispatch or one, so that only two programs are compiled."""
    free = min((done // every + 1) * every for every in cadence) - done
    return dispatch if free >= dispatch else 1


def _progress(batches, report, num_steps, group, stop, label):
    """(steps done after it, its batches) for each dispatch, under a progress bar that is drawn rarely where no one
    watches."""
    pause, done = 0.2 if sys.stderr.isatty() else 20.0, report.saved.last or 0
    options = {"desc": label, "mininterval": pause, "unit": "step", "disable": not parallel.primary()}
    with tqdm(total=num_steps, initial=min(done, num_steps), **options) as bar:
        while done < num_steps and not parallel.stop_requested(stop, done):
            found = [_next(batches, done + i, num_steps) for i in range(1, group(done) + 1)]
            done += len(found)
            yield done, found
            bar.set_postfix(report.shown, refresh=False)
            bar.update(len(found))


def _next(batches, number, num_steps):
    try:
        return next(batches)
    except StopIteration:
        raise ValueError(f"the data ended before step {number} of {num_steps}; let the loader repeat it") from None


def _evaluate(evaluate, done, num_steps, state):
    due = [said for every, said in evaluate if done % every == 0 or done == num_steps] if parallel.primary() else []
    return {name: float(value) for said in due for name, value in said(state).items()}


def _save(report, done, state, batches, config, held_out):
    """Only what is known to be good: the losses of all steps so far, and the parameters themselves."""
    report.write()
    if not all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(jax.device_get((state.params, state.ema)))):
        raise FloatingPointError(report.trouble("the parameters are no longer finite", done))
    checkpoint.save(report.saved, done, state, batches.get_state(), config, held_out)


@dataclasses.dataclass
class _Report:
    """The rows of a run. The metrics of a dispatch wait until the next one was sent off, so that the device never waits
    for them; those of every step are looked at."""

    path: Path
    log_every: int
    num_steps: int
    saved: checkpoint.Checkpoints
    waiting: tuple[int, Any] | None = None
    shown: dict[str, str] = dataclasses.field(default_factory=dict)

    def start(self):
        """Drops what was written after the checkpoint, and is about to be written again."""
        if parallel.primary():
            log.truncate(self.path, self.saved.last or 0)

    def add(self, first, metrics):
        """Metrics of the steps from `first` on, after those that wait."""
        self.write()
        self.waiting = (first, metrics)

    def write(self, held_out=None):
        """Writes what waits; `held_out` joins the last step of it, which then has a row in any case."""
        waiting, self.waiting = self.waiting, None
        if waiting is None:
            return
        first, metrics = waiting[0], jax.tree.map(np.atleast_1d, jax.device_get(dict(waiting[1])))
        last = first + len(metrics["loss"]) - 1
        for step in range(first, last + 1):
            row = numbers(jax.tree.map(lambda leaf, i=step - first: float(leaf[i]), metrics))
            self._check(step, row)
            said = (held_out or {}) if step == last else {}
            if parallel.primary() and (said or step % self.log_every == 0 or step == self.num_steps):
                log.append(self.path, {"step": step, "loss": row["loss"], **row, **said})
        self.shown = {"loss": f"{row['loss']:.4f}"}

    def _check(self, step, row):
        for name, what in (("loss", "the loss is"), ("grad_norm", "the norm of the gradients is")):
            if not math.isfinite(row.get(name, 0.0)):
                raise FloatingPointError(self.trouble(f"{what} {row[name]}", step))

    def trouble(self, what, step):
        """One sentence: what happened, when, and what there is to go back to."""
        last, place = self.saved.last, self.saved.directory
        good = f"the last good checkpoint is {last} in {place}" if last else "no checkpoint was saved yet"
        return f"{what} at step {step}; {good}; try a lower learning rate"
