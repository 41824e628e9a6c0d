"""Experiments: Python files with an `EXPERIMENT`, the built-in ones by their name and those of the user by their path."""

import importlib.util
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

from guided_jax.app.settings import Experiment

PACKAGE = Path(__file__).resolve().parents[1]


def directory() -> Path:
    """Return the folder of the built-in experiments: inside an installed package, `configs` beside it in a checkout."""
    installed = PACKAGE / "configs"
    return installed if installed.is_dir() else PACKAGE.parent / "configs"


def names() -> list[str]:
    """Return the names of the built-in experiments."""
    return sorted(path.stem for path in directory().glob("*.py"))


def load(name: str) -> Experiment:
    """Return the experiment of a built-in name, or of a Python file given by its path, which is executed.

    Raises ValueError for a name that is not known, and for a file that has no `EXPERIMENT`.
    """
    if name in names():
        return _read(directory() / f"{name}.py")
    if name.endswith(".py"):
        return _read(Path(name))
    raise ValueError(
        f"there is no experiment {name!r}; there is {', '.join(names())}, or give the path of a file such as ./mine.py"
    )


def execute(path: Path) -> ModuleType:
    """Return the module of a Python file that the user names, executed. The file has to exist."""
    spec = importlib.util.spec_from_file_location(path.stem, path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def load_function(words: str, option: str, form: str) -> Callable[..., Any]:
    """Return a function of a Python file that the user names as FILE.py:function; the file is executed.

    option: that names it, and form: its arguments and result, for the ValueError where it is not there.
    """
    place, _, name = words.rpartition(":")
    if not Path(place).is_file():
        raise ValueError(f"there is no file {place}; give {option} FILE.py:function of a file that is there")
    found = getattr(execute(Path(place)), name, None)
    if not callable(found):
        raise ValueError(f"{place} has no function {name}; define it as {name}{form}")
    return found


def _read(path: Path) -> Experiment:
    if not path.is_file():
        raise ValueError(f"there is no file {path}; give the path of a Python file with an EXPERIMENT")
    found = getattr(execute(path), "EXPERIMENT", None)
    if not isinstance(found, Experiment):
        raise ValueError(f"{path} has no EXPERIMENT; set it to a guided_jax.app.settings.Experiment")
    return found
