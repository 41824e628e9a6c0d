"""Processes that a test starts; `tests/conftest.py` kills those that it leaves behind."""

import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
STARTED: list[subprocess.Popen] = []


def start(*words, **options):
    """Start `python *words` in the repository, its output in pipes. options: of `subprocess.Popen`."""
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    STARTED.append(subprocess.Popen([sys.executable, *map(str, words)], **{"cwd": ROOT, **pipes, **options}))
    return STARTED[-1]
