"""A process that trains the tiny layer on the digits, for tests that end it in the middle.

python -m tests.training_process RUN DATA STEPS DEVICES
"""

import signal
import sys
from pathlib import Path

from guided_jax import data, loop, parallel, stopping
from tests import tiny


def main(out: Path, data_dir: Path, num_steps: int, devices: int) -> int:
    parallel.use_cpu_devices(devices)
    chosen = parallel.choose_devices(16, devices)
    with stopping.remembered(signal.SIGTERM, signal.SIGINT) as stop:
        state = loop.fit(
            parallel.data_parallel(tiny.train_step, chosen),
            parallel.place(tiny.state(), chosen),
            data.loader(data.load("digits", "train", data_dir), 16, seed=5, flip=True),
            num_steps,
            directory=out,
            save_every=2,  # most of the time is spent writing
            log_every=3,
            stop=stop,
        )
    print(int(state.step))
    return 0


if __name__ == "__main__":
    raise SystemExit(main(Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])))
