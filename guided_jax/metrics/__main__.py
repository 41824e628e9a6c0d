"""python -m guided_jax.metrics samples.npz reference.npz"""

from collections.abc import Sequence
from pathlib import Path

from guided_jax import wrong_use
from guided_jax.metrics import command

HOME = Path(__file__).resolve().parent.parent


def script(args: Sequence[str] | None = None) -> None:
    """Runs the command; what its user did wrong becomes one sentence on stderr and exit code 2."""
    wrong_use.script(command.main, args, HOME)


if __name__ == "__main__":
    script()
