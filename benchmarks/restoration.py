"""How well each method restores held-out digits, and whether its samples vary as much as they are wrong.

    python -m benchmarks.restoration RUN           # prints the table; RUN: of `guided-jax train digits`
    python -m benchmarks.restoration RUN --page    # puts it into docs/methods.md

Of each of PICTURES held-out digits, measured once, each method draws SAMPLES, without a label:

- PSNR of a sample, and of the mean of the samples, which is higher by 3 dB where these are exact;
- accuracy: the share of samples that a support vector machine of clean digits takes for the true class;
- coverage: the share of hidden or blurred pixels whose true value lies between the 0.05 and 0.95 quantiles of the samples:
  of pixels that vary; 0.9 where samples are exact, less by about 0.05 as the quantiles are of few samples.

Calls are those of the network for a sample, F forward and B backward passes.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from benchmarks import sampler_pages
from guided_jax import data, guidance, operators, reverse, sampler, schedule
from guided_jax.app import run as runs
from guided_jax.app.demo import comparison
from guided_jax.app.sample import inverse

PAGE = Path(__file__).parent.parent / "docs" / "methods.md"
PICTURES, SAMPLES = 60, 16
VARIES = 0.02  # of a pixel in [-1, 1]: the corners of digits are black in all samples
NOISE = 0.05
MEASUREMENTS = {
    "right half hidden": lambda shape: operators.mask(inverse.observed("right", shape)),
    "means of 2x2": lambda shape: operators.average_pool(2),
    "blur of 1 pixel": lambda shape: operators.gaussian_blur(*shape[:2], 1.0),
}


class Case(NamedTuple):
    """A method: (denoise, operator, y, table) -> (denoiser, step), the number of levels, and the calls at each."""

    make: Callable[..., Any]
    levels: int
    forward: int = 1
    backward: int = 0


CASES = {
    "pigdm": Case(lambda d, a, y, t: (guidance.pigdm(d, a, y, NOISE, 0.53), reverse.ddim()), 50, 1, 1),
    "mmps, 3 iterations": Case(lambda d, a, y, t: (guidance.mmps(d, a, y, NOISE, 3), reverse.ddim()), 50, 1, 3),
    "dps, scale 0.5": Case(lambda d, a, y, t: (d, reverse.dps(reverse.ddim(1.0), a, y, 0.5)), 50, 1, 1),
    "ddnm": Case(lambda d, a, y, t: (d, reverse.ddnm(a, y, NOISE)), 100),
    "diffpir, 3 and 0.3": Case(lambda d, a, y, t: (d, reverse.diffpir(a, y, NOISE, 3.0, 0.3)), 100),
    "daps": Case(
        lambda d, a, y, t: (d, reverse.daps(guidance.likelihood(a, y, NOISE), t, NOISE**-2)),
        *(40, 5),
    ),
    "split_gibbs": Case(lambda d, a, y, t: (d, reverse.split_gibbs(a, y, NOISE, t, 10)), 40, 10),
}


def restore(run: runs.Run, params: Any, case: Case, operator: operators.Operator, truth: jax.Array) -> np.ndarray:
    """Return samples of each of n pictures in [-1, 1], (SAMPLES, n, *shape)."""
    levels = schedule.respace(run.model.levels, case.levels)

    def draw(params: Any, key: Any, number: Any, y: jax.Array) -> jax.Array:
        denoise = guidance.clip(runs.make_denoiser(run, params, run.model.null))
        key_noise, key_run = jax.random.split(jax.random.fold_in(key, number))
        x_T = levels.sigma[-1] * jax.random.normal(key_noise, run.model.shape)
        guided, step = case.make(denoise, operator, y, run.model.levels)
        return sampler.sample(key_run, guidance.clip(guided) if guided is not denoise else guided, step, x_T, levels)

    keys = sampler.keys(jax.random.key(0), jnp.arange(len(truth)))
    seen = operator.forward(jnp.ones(run.model.shape)) != 0  # no noise in the hole
    y = jax.vmap(lambda key, x: inverse.measure(operator, x, NOISE, key, seen))(keys, truth)
    each = jax.jit(jax.vmap(draw, (None, 0, None, 0)))
    return np.stack([np.asarray(each(params, keys, number, y)) for number in range(SAMPLES)])


def psnr(found: np.ndarray, truth: np.ndarray) -> float:
    """Return the mean peak signal-to-noise ratio of pictures in [-1, 1], in dB."""
    error = np.square(np.clip(found, -1, 1) - truth).mean((-3, -2, -1))
    return float((10 * np.log10(4 / error)).mean())


def measure(drawn: np.ndarray, truth: np.ndarray, labels: np.ndarray, judge: Any) -> list[float]:
    """Return PSNR of a sample and of the mean, accuracy and coverage of samples (SAMPLES, n, *shape)."""
    shown = np.clip(np.round(127.5 * (drawn + 1)), 0, 255)
    accuracy = np.mean([judge.score(comparison.pixels(each), labels) for each in shown])
    low, high = np.quantile(drawn, [0.05, 0.95], 0)
    inside = ((low <= truth) & (truth <= high))[drawn.std(0) > VARIES]
    return [psnr(drawn, truth[None]), psnr(drawn.mean(0), truth), float(accuracy), float(inside.mean())]


def rows(folder: Path) -> list[list[str]]:
    """Return the rows of the table, and print each once it is there."""
    run = runs.load(folder)
    known, held = (comparison.everything(runs.source(run, held_out)) for held_out in (False, True))
    judge, params = comparison.fit_judge(known), run.params("diffusion")
    truth, labels = data.scale(held["image"][:PICTURES]), held["label"][:PICTURES]
    found = []
    for title, make in MEASUREMENTS.items():
        operator = make(run.model.shape)
        for name, case in CASES.items():
            numbers = measure(restore(run, params, case, operator, jnp.asarray(truth)), truth, labels, judge)
            calls = f"{case.levels * case.forward} F" + (f", {case.levels * case.backward} B" if case.backward else "")
            cells = [f"{numbers[0]:.1f}", f"{numbers[1]:.1f}", f"{numbers[2]:.2f}", f"{numbers[3]:.2f}"]
            found.append([title, f"`{name}`", calls, *cells])
            print(" | ".join(found[-1]), flush=True)
    return found


HEAD = ("measurement, noise 0.05", "method", "calls", "PSNR of a sample", "of the mean", "accuracy", "coverage of 0.9")


def main(args: list[str]) -> None:
    """Measure, and with --page fill the table of the page."""
    table = sampler_pages.table(HEAD, rows(Path(args[0])))
    if "--page" in args:
        PAGE.write_text(sampler_pages.fill(PAGE.read_text(), {"restoration": table}))


if __name__ == "__main__":
    main(sys.argv[1:])
