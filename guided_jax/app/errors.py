"""Which errors are the user's to mend: each as one sentence. Every other error keeps its traceback."""

import os
import sys
import traceback
from pathlib import Path

from guided_jax import extras

PACKAGE = Path(__file__).resolve().parents[1]
VARIABLE = "GUIDED_JAX_TRACEBACK"


def sentence(error: BaseException, own: Path) -> str | None:
    """Return what to tell the user, or None for an error that is a bug and needs its traceback.

    A ValueError is meant for the user if it was raised in this package, or in the package that contains `own`, the file of
    the command; where no package contains it, in that file. A missing package is the user's to install if it is one of an
    extra. None for every error when the variable GUIDED_JAX_TRACEBACK is set.
    """
    if os.environ.get(VARIABLE):
        return None
    if isinstance(error, OSError):
        return str(error)
    if isinstance(error, ModuleNotFoundError):
        return str(error) if _raised_in(error) == Path(extras.__file__).resolve() else None
    if isinstance(error, (ValueError, FloatingPointError)):
        file = _raised_in(error)
        return str(error) if file.is_relative_to(PACKAGE) or file.is_relative_to(_package(own)) else None
    if isinstance(error, MemoryError) or "RESOURCE_EXHAUSTED" in str(error):
        return f"out of memory ({_first_line(error)}); make it smaller, for example with a smaller --batch-size"
    if isinstance(error, (RuntimeError, AssertionError)) and (failure := _device_failure()) is not None:
        return _no_accelerator(failure)
    return None


def _device_failure() -> BaseException | None:
    """Return the error with which JAX finds no device, None if it has one: JAX cuts its own frames out of tracebacks."""
    if "jax" not in sys.modules:
        return None
    import jax

    try:
        jax.devices()
    except (RuntimeError, AssertionError) as error:
        return error
    return None


def _no_accelerator(error: BaseException) -> str:
    """Return the sentence for a platform that JAX cannot start; for cuda JAX gives a failed assertion and no message."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    reason = _first_line(error).removesuffix("(set JAX_PLATFORMS='' to automatically choose an available backend)")
    extra = next((name for name in ("cuda", "tpu") if name in platforms), "cuda")
    return (
        f"JAX cannot use JAX_PLATFORMS={platforms} ({reason.strip() or 'there is no such device'}); "
        f"unset it to take the devices that are there, or {extras.install_line(extra)}"
    )


def _raised_in(error: BaseException) -> Path:
    frames = traceback.extract_tb(error.__traceback__)
    return Path(frames[-1].filename).resolve() if frames else Path()


def _package(file: Path) -> Path:
    """Return the folder of the outermost package that a file is in, the file itself where it is in none."""
    place = file.resolve()
    while (place.parent / "__init__.py").is_file():
        place = place.parent
    return place


def _first_line(error: BaseException) -> str:
    return str(error).strip().partition("\n")[0].rstrip(".")
