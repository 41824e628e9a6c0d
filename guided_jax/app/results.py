"""Results that a command wrote, and the request beside them: what is there is not replaced by something else."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from guided_jax.storage.files import is_result_of


def check_free(results: Sequence[Path], record: Path, request: Any, overwrite: bool) -> None:
    """Raise ValueError when one of these files is there and not of this request, unless it may be replaced.

    record: the JSON file that holds the request, as `is_result_of` reads it.
    """
    there = next((path for path in results if path.exists()), None)
    if there is not None and not overwrite and not is_result_of(record, request):
        raise ValueError(f"{there} is of another request; give another --out, or --overwrite")
