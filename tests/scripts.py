"""The two scripts as tests call them, and the tiny run that `tests/conftest.py` makes with them."""

import os
from pathlib import Path

from guided_jax.app import cli

ROOT = Path(__file__).parent.parent
NETWORKS = [
    *("--diffusion.network.model-channels", "16", "--diffusion.network.channel-mult", "1"),
    *("--diffusion.network.num-groups", "8", "--diffusion.network.num-head-channels", "16"),
    *("--classifier.network.model-channels", "16", "--classifier.network.channel-mult", "1"),
    *("--classifier.network.num-groups", "8", "--classifier.network.num-head-channels", "16"),
]
STEPS = [
    *("--diffusion.num-steps", "4", "--diffusion.batch-size", "8", "--diffusion.checkpoint-every", "2"),
    *("--diffusion.log-every", "1", "--diffusion.sample-every", "4", "--schedule.num-steps", "20"),
    *("--classifier.num-steps", "3", "--classifier.batch-size", "8", "--classifier.log-every", "1"),
    *("--diffusion.eval-examples", "16", "--classifier.eval-examples", "16"),
]
SMALL = [*STEPS, *NETWORKS]


def run_script(main, argv, capsys):
    """(exit code, stdout, stderr) of a script called in this process."""
    code = 0
    try:
        cli.script(main, [str(argument) for argument in argv])
    except SystemExit as stop:
        code = stop.code or 0
    out, err = capsys.readouterr()
    return code, out, err


OURS = ("JAX_COMPILATION_CACHE_DIR", "JAX_DISABLE_MOST_OPTIMIZATIONS", "XLA_FLAGS")  # of tests/conftest.py


def alone(**settings):
    """The environment of a process that compiles for itself, as a user's does, and not as the tests do."""
    kept = {name: value for name, value in os.environ.items() if name not in OURS}
    return {**kept, "GUIDED_JAX_CACHE": "off", **settings}
