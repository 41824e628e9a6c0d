"""The command line: `guided-jax COMMAND ...`, arguments into dataclasses, wrong use into one sentence and exit code 2."""

import contextlib
import functools
import importlib
import inspect
import io
import os
import re
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

T = TypeVar("T")
Main = Callable[[Sequence[str]], None]
PACKAGE = Path(__file__).resolve().parents[1]
# Command -> (the module whose `main` runs it, what it does).
COMMANDS: dict[str, tuple[str, str]] = {
    "train": ("train.command", "train every network of an experiment; resumes by itself"),
    "sample": ("sample.command", "draw guided samples from a run"),
    "sweep": ("sweep.command", "draw and measure samples at several scales; one page with the curves"),
    "metrics": ("metrics", "measure samples against a reference: FID, KID, precision, recall, ..."),
    "nll": ("nll", "bits per dimension of pictures under a run"),
    "convert": ("convert", "make a run of published weights"),
    "judge": ("judge", "train the classifier that judges samples"),
    "posthoc": ("posthoc", "make averaged weights of another length after training"),
    "curves": ("train.curves", "draw the curves of a run again"),
    "demo": ("demo", "train on digits, draw guided ones, judge them"),
}
EXAMPLES = """guided-jax demo
  guided-jax train digits
  guided-jax sample runs/digits --guidance classifier-free --scale 3 --labels 3 7"""


def main(argv: Sequence[str] | None = None) -> None:
    """Run the command that the first word names with the words after it; `guided-jax` itself."""
    name, *rest = list(sys.argv[1:] if argv is None else argv) or ["--help"]
    if name in ("-h", "--help"):
        print(overview())
    elif name == "--version":
        from guided_jax import __version__

        print(__version__)
    else:
        script(functools.partial(_dispatch, name), rest)


def _dispatch(name: str, args: Sequence[str]) -> None:
    if name not in COMMANDS:
        raise ValueError(f"there is no command {name!r}; there is {', '.join(COMMANDS)}")
    importlib.import_module(f"guided_jax.app.{COMMANDS[name][0]}").main(args)


def overview() -> str:
    """Return the page that lists the commands."""
    width = max(map(len, COMMANDS))
    rows = [f"  {name:{width}}  {line}" for name, (_, line) in COMMANDS.items()]
    title = "usage: guided-jax COMMAND [OPTIONS]\n\nGuidance for diffusion models in JAX: train, sample, measure."
    return "\n".join([title, "", *rows, "", f"  {EXAMPLES}", "", "guided-jax COMMAND --help: one page on a command"])


def parse(kind: type[T], prog: str, args: Sequence[str], default: Any = None, description: str = "") -> T:
    """Return the dataclass that a command line describes.

    --help prints `description`, the command's page, and exits; --help-all prints every option. Wrong arguments raise
    ValueError in one sentence.
    """
    if any(word in ("-h", "--help") for word in args):
        print(f"{inspect.cleandoc(description)}\n\n{prog} --help-all: every option")
        raise SystemExit(0)
    words = ["--help" if word == "--help-all" else word for word in args]
    settings = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, args=words, description=description, **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_sentence(complaint.getvalue())}; see {prog} --help") from None


def _sentence(box: str) -> str:
    """Return the first paragraph inside the frame, of lines or of dashes, that tyro draws around an error."""
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]  # without the title
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if set(line) <= set("─-╰╯+"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    first = next(filter(None, paragraphs), ["wrong arguments"])
    return re.sub(r"\s+", " ", " ".join(first)).strip().rstrip(".")


def script(run: Main, argv: Sequence[str] | None = None) -> None:
    """Call run(arguments), those of the process if None; wrong use becomes one sentence on stderr and exit code 2.

    A ValueError raised by code outside the package and outside the file of `run` is a bug of ours and keeps its traceback,
    as every error does when the variable GUIDED_JAX_TRACEBACK is set.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show_warning, warnings.showwarning)
            run(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError, FloatingPointError) as error:
        if os.environ.get("GUIDED_JAX_TRACEBACK") or not (_raised_here(error, run) or isinstance(error, OSError)):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        raise SystemExit(130) from None


def _raised_here(error: BaseException, run: Main) -> bool:
    """Return whether the package, or the file that defines `run`, raised the error: its message is meant for the user."""
    file = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
    return file.is_relative_to(PACKAGE) or file == Path(inspect.getfile(inspect.unwrap(run))).resolve()


def _show_warning(otherwise, message, category, filename, lineno, file=None, line=None):
    """Print a warning of the package as one line, without the code that raised it."""
    if category.__module__.startswith("guided_jax"):
        print(f"warning: {message}", file=sys.stderr)
    else:
        otherwise(message, category, filename, lineno, file, line)
