"""python -m guided_jax.metrics samples.npz reference.npz"""

import os
import sys
import traceback
from pathlib import Path

from guided_jax.metrics import command

HOME = Path(__file__).resolve().parent.parent


def script(args: list[str]) -> None:
    """Runs the command: what its user did wrong becomes one sentence on stderr and exit code 2.

    A ValueError raised by somebody else's code is a bug of ours and keeps its traceback.
    """
    try:
        command.main(args)
    except (ValueError, OSError) as error:
        ours = Path(traceback.extract_tb(error.__traceback__)[-1].filename).resolve().is_relative_to(HOME)
        if not (ours or isinstance(error, OSError)) or os.environ.get("GUIDED_JAX_TRACEBACK"):
            raise
        print(f"error: {error}", file=sys.stderr)
        raise SystemExit(2) from None


if __name__ == "__main__":
    script(sys.argv[1:])
