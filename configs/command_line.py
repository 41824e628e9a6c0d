"""What the scripts share: arguments into dataclasses, and wrong use into one sentence and exit code 2."""

import contextlib
import io
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import tyro

from guided_jax import wrong_use

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


def script(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None = None) -> None:
    """`wrong_use.script` for the scripts, the experiments and the library."""
    wrong_use.script(main, argv, HOME)
