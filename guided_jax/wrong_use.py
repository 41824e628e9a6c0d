"""What every command does with wrong use: one sentence on stderr and exit code 2. A warning of ours is one line too."""

import functools
import os
import sys
import traceback
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path


def _show(otherwise, message, category, filename, lineno, file=None, line=None):
    """Ours without the line of code that gave it."""
    if category.__module__.startswith("guided_jax"):
        print(f"warning: {message}", file=sys.stderr)
    else:
        otherwise(message, category, filename, lineno, file, line)


def script(main: Callable[[Sequence[str]], None], argv: Sequence[str] | None, home: Path) -> None:
    """Runs main(arguments), those of the process if None. What its user did wrong becomes one sentence and exit code 2.

    A ValueError raised outside the folder `home`, by somebody else's code, is a bug of ours and keeps its traceback.
    """
    try:
        with warnings.catch_warnings():
            warnings.showwarning = functools.partial(_show, warnings.showwarning)
            main(sys.argv[1:] if argv is None else argv)
    except (ValueError, OSError, FloatingPointError) as error:
        raised_in = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve()
        ours = raised_in.is_relative_to(home) and ".venv" not in raised_in.relative_to(home).parts
        if not (ours or isinstance(error, OSError)) or os.environ.get("GUIDED_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
    except KeyboardInterrupt:
        print("stopped; the same command goes on from what is saved", file=sys.stderr)
        raise SystemExit(130) from None
