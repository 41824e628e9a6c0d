"""The loop around a train step: batches in, checkpoints and metrics out, resumed bit for bit after any interruption."""

import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from guided_jax import parallel, progress
from guided_jax.storage import checkpoint
from guided_jax.training.report import Report
from guided_jax.training.step import TrainState

Evaluation = Callable[[TrainState], Mapping[str, float]]
Hook = Callable[[int, TrainState], Any]  # called with (steps done, state)


class Job(NamedTuple):
    """Everything that one training needs, prepared; `fit` runs it.

    step: compiled (state, batch_1, ..., batch_k) -> (state, metrics), such as `parallel.data_parallel` returns.
    init: () -> the state before the first step, placed on its devices.
    batches: an iterator with `get_state()` and `set_state()`, such as `data.loader` returns.
    num_steps: the step at which training ends.
    directory: receives `metrics.jsonl` and `checkpoints/`.
    config: saved with each checkpoint; a checkpoint with another one is not resumed, except for the dotted names in
      `may_change`.
    save_every, log_every: steps between checkpoints, and between rows of metrics; there is a checkpoint at the end too.
    keep: how many of the last checkpoints stay, beside the one whose metric `keep_best` is lowest, or with
      `keep_highest` highest.
    evaluations: (every, state -> metrics), called every so many steps and at the end. Their metrics join the row of that
      step and its checkpoint.
    hooks: (every, function), called with (steps done, state). Neither may keep the state, whose memory is reused.
    steps_per_dispatch: how many steps one call of `step` makes where nothing is due in between; its metrics are (k,).
    label: the name of the network, for messages.
    start: () -> the state before the first step where it is not that of `init`, such as the weights of another training;
      never called where a checkpoint is resumed, which `init` then only describes.
    """

    step: Callable
    init: Callable[[], TrainState]
    batches: Any
    num_steps: int
    directory: str | os.PathLike
    config: Mapping[str, Any] | None = None
    may_change: Sequence[str] = ()
    save_every: int = 500
    log_every: int = 50
    keep: int = 2
    keep_best: str | None = None
    keep_highest: bool = False
    evaluations: Sequence[tuple[int, Evaluation]] = ()
    hooks: Sequence[tuple[int, Hook]] = ()
    steps_per_dispatch: int = 1
    label: str = "training"
    start: Callable[[], TrainState] | None = None


def never() -> bool:
    """Return False: the `stop` of a training that only ends at its last step."""
    return False


def fit(job: Job, stop: Callable[[], Any] = never) -> TrainState:
    """Run a job to its last step, from its last checkpoint if there is one, and return the final state.

    A resumed run equals an uninterrupted one bit for bit on the same devices. When `stop()` is true the state is saved
    and returned early. Of several processes, the first evaluates, calls the hooks and writes; where the state is divided
    over them all evaluate and call the hooks, which then write in the first alone.

    Raises ValueError when the checkpoint was made with another `config` or the data ends, FloatingPointError when the
    loss, the gradients or the parameters are not finite, OSError when `directory` cannot be written. Checkpoints saved
    before stay as they are.
    """
    place, evaluation = Path(job.directory), {}
    with checkpoint.opened(place / "checkpoints", job.keep, job.keep_best, job.keep_highest) as saved:
        state = _resume(job, saved)
        report = Report(place / "metrics.jsonl", job.log_every, job.num_steps, saved)
        for done, batches in _dispatches(job, report, stop):
            state, metrics = job.step(state, *batches)
            report.add(done - len(batches) + 1, metrics)
            if evaluation := _evaluate(job, done, state):
                report.write(evaluation)
            if done % job.save_every == 0:
                _save(job, report, done, state, evaluation)
            _call_hooks(job, done, state)
        report.write()
        if int(state.step) > (saved.last or 0):
            _save(job, report, int(state.step), state, evaluation)
    parallel.wait_for_all()  # until the last checkpoint is there
    return state


def _resume(job: Job, saved: checkpoint.Checkpoints) -> TrainState:
    """Return the state of the last whole checkpoint, and put the data back to it; the initial state if there is none."""
    if saved.last is None:
        return (job.start or job.init)()
    state = job.init()
    found = checkpoint.restore(saved.directory, state, config=job.config, ignore=job.may_change)
    parallel.same_everywhere(found.step, f"checkpoints in {saved.directory}; it has to be one directory, shared")
    checkpoint.set_aside(saved, found.step)
    job.batches.set_state(found.data_state)
    if parallel.primary():
        doing = f"resuming {job.label} from" if found.step < job.num_steps else f"{job.label} is trained:"
        print(f"{doing} step {found.step} of {job.num_steps}", flush=True)
    return found.state


def _dispatches(job: Job, report: Report, stop: Callable[[], Any]) -> Iterator[tuple[int, list[Any]]]:
    """Yield (steps done after it, its batches) for each call of the step, and show the progress."""
    done = report.saved.last or 0
    with progress.bar(job.num_steps, job.label, "step", initial=done, disable=not parallel.primary()) as bar:
        while done < job.num_steps and not parallel.stop_requested(stop, done):
            batches = [_next(job, done + i) for i in range(1, _steps_until_due(job, done) + 1)]
            done += len(batches)
            yield done, batches
            bar.update(len(batches), **report.shown)


def _steps_until_due(job: Job, done: int) -> int:
    """Return `steps_per_dispatch` or 1, so that only two programs are compiled and nothing is due inside a dispatch."""
    cadences = [job.num_steps, job.save_every, *(every for every, _ in [*job.hooks, *job.evaluations])]
    free = min((done // every + 1) * every for every in cadences) - done
    return job.steps_per_dispatch if free >= job.steps_per_dispatch else 1


def _next(job: Job, number: int) -> Any:
    try:
        return next(job.batches)
    except StopIteration:
        raise ValueError(f"the data ended before step {number} of {job.num_steps}; let the loader repeat it") from None


def _evaluate(job: Job, done: int, state: TrainState) -> dict[str, float]:
    due = [call for every, call in job.evaluations if done % every == 0 or done == job.num_steps]
    calls = due if parallel.takes_part(state) else []
    return {name: float(value) for call in calls for name, value in call(state).items()}


def _call_hooks(job: Job, done: int, state: TrainState) -> None:
    for every, hook in job.hooks:
        if done % every == 0 and parallel.takes_part(state):
            hook(done, state)


def _save(job: Job, report: Report, done: int, state: TrainState, metrics: Mapping[str, float]) -> None:
    """Save a checkpoint, once all losses so far and the parameters themselves are known to be finite."""
    report.write()
    report.check_finite(state, done)
    checkpoint.save(report.saved, done, state, job.batches.get_state(), job.config, metrics)
