"""A process that trains the tiny layer on the digits, for tests that kill it or run several together.

python -m tests.training_process KIND RUN DATA STEPS DEVICES SAVE_EVERY [COORDINATOR PROCESSES ID]

KIND: whole, the state on every device; or parts, a part of it on each.
"""

import sys
from pathlib import Path

from guided_jax import data, parallel
from guided_jax.app import signals
from guided_jax.training import loop
from tests import tiny


def main(kind: str, out: Path, data_dir: Path, num_steps: int, devices: int, save_every: int) -> None:
    chosen = parallel.choose_devices(16, devices)
    make_step = {"whole": parallel.data_parallel, "parts": parallel.fully_sharded}[kind]
    init = {
        "whole": lambda: parallel.place(tiny.state(), chosen),
        "parts": lambda: parallel.init_sharded(tiny.state, chosen),
    }[kind]
    with (
        parallel.exit_if_peer_lost(),
        signals.defer(*(signals.STOP if parallel.single_process() else ())) as stop,
    ):
        job = loop.Job(
            make_step(tiny.train_step, chosen),
            init,
            data.loader(data.load("digits", "train", data_dir), 16, seed=5, flip=True, share=parallel.share()),
            num_steps,
            out,
            save_every=save_every,
            log_every=3,
        )
        state = loop.fit(job, stop)
    print(int(state.step))


if __name__ == "__main__":
    kind, out, data_dir, *numbers = sys.argv[1:7]
    steps, devices, save_every = (int(number) for number in numbers)
    parallel.use_cpu_devices(devices)
    if sys.argv[7:]:
        coordinator, processes, process = sys.argv[7:]
        parallel.join(coordinator, int(processes), int(process))
        devices *= int(processes)
    main(kind, Path(out), Path(data_dir), steps, devices, save_every)
