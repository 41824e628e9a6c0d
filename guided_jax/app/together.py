"""Commands that several processes run together: each is started with the same words, and the first of them writes."""

import contextlib
import dataclasses
import os
import signal
from collections.abc import Iterator, Sequence

PREFIX, FLAGS = "--distributed.", ("auto", "no-auto")
# Commands whose work is divided over processes; the others refuse the options.
COMMANDS = ("train", "sample", "sweep", "metrics", "nll", "judge")


@dataclasses.dataclass(frozen=True)
class Distributed:
    """Several processes that work together, each started with the same command; see docs/howto/machines.md."""

    auto: bool = False
    """Take the addresses from the environment of a TPU pod, Slurm or Open MPI."""
    coordinator: str | None = None
    """Host and port of process 0, such as host0:1234."""
    num_processes: int | None = None
    """How many processes there are."""
    process_id: int | None = None
    """The number of this process, from 0."""


@dataclasses.dataclass(frozen=True)
class Options:
    """The options of every command that several processes run together."""

    distributed: Distributed = dataclasses.field(default_factory=Distributed)


def take_options(words: Sequence[str]) -> tuple[list[str], list[str]]:
    """Return the words of the options --distributed.*, and the words that remain."""
    taken, rest, remaining = [], [], iter(words)
    for word in remaining:
        name, equals, _ = word.partition("=")
        if not name.startswith(PREFIX):
            rest.append(word)
            continue
        taken.append(word)
        if not equals and name.removeprefix(PREFIX) not in FLAGS:
            taken.extend(each for each in [next(remaining, None)] if each is not None)
    return taken, rest


@contextlib.contextmanager
def joined(command: str, settings: Distributed) -> Iterator[None]:
    """Run a command as one of several processes, of which the first prints; alone where the settings name no others.

    ValueError for a command that runs in one process, and where the other processes are not found.
    """
    if settings == Distributed():
        yield
        return
    if command not in COMMANDS:
        raise ValueError(f"guided-jax {command} runs in one process; leave out {PREFIX}*")
    from guided_jax import parallel

    parallel.use_cpu_devices()
    parallel.join(settings.coordinator, settings.num_processes, settings.process_id, settings.auto)
    if command != "train":  # which agrees on the step after which to stop; the others go on from what is on disk
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
    with parallel.exit_if_peer_lost(), _quiet(not parallel.primary()):
        yield


@contextlib.contextmanager
def _quiet(quiet: bool) -> Iterator[None]:
    """Discard what is printed, if `quiet`; errors and warnings are shown."""
    if not quiet:
        yield
        return
    with open(os.devnull, "w") as nowhere, contextlib.redirect_stdout(nowhere):
        yield
