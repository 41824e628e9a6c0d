"""What the scripts share: arguments into dataclasses, and wrong use into one sentence and exit code 2."""

import contextlib
import functools
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
HOME = Path(__file__).resolve().parent.parent


def parse(kind: type[T], prog: str, args: Sequence[str], default: Any = None, description: str = "") -> T:
    """The dataclass from its command line; wrong arguments raise ValueError in one sentence, --help prints and exits."""
    settings = {} if default is None else {"default": default}
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint):
            return tyro.cli(kind, prog=prog, args=list(args), description=description, **settings)
    except SystemExit as stop:
        if not stop.code:
            raise
        raise ValueError(f"{_sentence(complaint.getvalue())}; see {prog} --help") from None


def _sentence(box: str) -> str:
    """The first paragraph inside the frame that tyro draws around its complaint, of lines or of dashes."""
    lines = [line.strip("│| ") for line in box.splitlines()[1:]]  # without the title
    paragraphs: list[list[str]] = [[]]
    for line in lines:
        if set(line) <= set("─-╰╯+"):
            paragraphs.append([])
        else:
            paragraphs[-1].append(line)
    first = next(filter(None, paragraphs), ["wrong arguments"])
    return re.sub(r"\s+", " ", " ".join(first)).strip().rstrip(".")


def _show(otherwise, message, category, filename, lineno, file=None, line=None):
    """Ours without the line of code that gave it."""
    if category.__module__.startswith("guided_jax"):
        print(f"warning: {message}", file=sys.stderr)
    else:
        otherwise(message, category, filename, lineno, file, line)


def script(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """Runs main(arguments). What its user did wrong becomes one sentence on stderr and exit code 2, without a traceback.

    A ValueError raised by somebody else's code is a bug of ours and keeps its traceback. A warning is one line too.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show, warnings.showwarning)
            main(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError, FloatingPointError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        ours = raised_in.is_relative_to(HOME) and ".venv" not in raised_in.relative_to(HOME).parts
        if not (ours or isinstance(error, OSError)) or os.environ.get("GUIDED_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        raise SystemExit(130) from None
