"""Posterior samplers on laws whose posterior is known: how far each is from it, and how far exact draws are.

    python -m benchmarks.posteriors                      # T1 at 8 dimensions, T2 of normal increments, pictures and page
    python -m benchmarks.posteriors --all                # every table of the page
    python -m benchmarks.posteriors --quick              # to see that all works: no numbers to quote
    python -m benchmarks.posteriors --dims --laws        # draws tables and pictures from the files alone

T1, mixtures whose posterior is a mixture: `mixtures`. T2, random walks of normal, Laplace, Bernoulli-Laplace and
Student increments: `levy`.
"""

import dataclasses
import itertools
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks import mixture
from benchmarks.measured import keep_rows, known_rows
from benchmarks.posteriors import levy, mixtures, pages, pictures
from benchmarks.posteriors.laws import LAWS
from benchmarks.posteriors.methods import BEST, FLOOR
from guided_jax.app import cli

Case = tuple[str, Callable[[], dict[str, Any]]]  # the name of the method, what measures a row
FILE = "posteriors.json"
WALKS = {"normal": (20, 50)}  # problems, and samples of each; of the other laws, whose denoiser takes longer:
OTHER_WALKS = (20, 20)
FEWER = {80: 10, 800: 5}  # problems of T1 by dx


@dataclasses.dataclass(frozen=True)
class Options:
    """Measure posterior samplers on laws whose posterior is known."""

    dims: tuple[int, ...] = (8,)
    """T1: dx, of those which to measure; what is not named is taken from the file."""
    laws: tuple[str, ...] = ("normal",)
    """T2: which laws of the increments to measure."""
    methods: tuple[str, ...] = ()
    """Which methods to measure; all if empty."""
    steps: tuple[int, ...] = (20, 100)
    """T1: numbers of steps, of 20, 100 and 500."""
    problems: int = 20
    """T1: problems for each number of measurements, of the seeds 0, 1, ...; at most 10 at dx = 80, 5 at 800."""
    samples: int = 1000
    """T1: samples of each problem."""
    all: bool = False
    """All dimensions and laws, other numbers of particles and other steps of `guidance.mmps` too."""
    quick: bool = False
    """Two problems and few samples and steps."""
    out: Path | None = None
    """Where posteriors.json and the pictures go: docs/images, with --quick runs/posteriors."""


def of_mixtures(options: Options, dx: int) -> list[Case]:
    """The rows of T1 at this dimension, in the order of the table."""
    problems = min(options.problems, FEWER.get(dx, options.problems))
    size = (2, 100) if options.quick else (problems, options.samples)
    cases: list[Case] = []

    def add(name: str, steps: tuple[int, ...]) -> None:
        count = (10 * size[0], size[1]) if name == mixtures.MANY else size
        for dy, number in itertools.product(mixtures.MEASURED, steps):
            cases.append((name, lambda dy=dy, number=number: mixtures.measure(name, dx, dy, number, *count)))

    add(FLOOR, (0,))
    for name in mixtures.METHODS:
        add(name, options.steps)
    if (options.all or options.methods) and dx == 8:
        add(BEST, tuple({500} - {*options.steps}))
        for name in mixtures.CLOUDS:
            add(name, options.steps)
        for name in mixtures.VARIANTS:
            add(name, (20,) if name == mixtures.FIVE_CALLS else (100,))
    return cases


def of_walks(options: Options, law: str) -> list[Case]:
    """The rows of T2 of this law."""
    size = (2, 4) if options.quick else WALKS.get(law, OTHER_WALKS)
    steps = 10 if options.quick else levy.STEPS
    names = [FLOOR, *levy.methods(law)]
    return [
        (name, lambda operator=operator, name=name: levy.measure(name, law, operator, *size, steps))
        for operator in levy.matrices()
        for name in names
    ]


def asked(options: Options) -> list[Case]:
    """What is to be measured. Raises ValueError for a law, a method or a number of steps that there is not."""
    pages.check("law", options.laws, LAWS)
    pages.check("number of steps", options.steps, mixtures.ETAS)
    pages.check("method", options.methods, {**mixtures.ROWS, **levy.METHODS})
    dims = (8, 80, 800) if options.all else options.dims
    laws = tuple(LAWS) if options.all else options.laws
    cases = [case for dx in dims for case in of_mixtures(options, dx)]
    cases += [case for law in laws for case in of_walks(options, law)]
    return [case for case in cases if not options.methods or case[0] in options.methods]


def main(args: list[str]) -> None:
    """Measures what is asked for, and draws everything that is known."""
    options = cli.parse(Options, "python -m benchmarks.posteriors", args, description=__doc__ or "")
    out = options.out or (Path("runs/posteriors") if options.quick else mixture.OUT)
    out.mkdir(parents=True, exist_ok=True)
    for _, measure in asked(options):
        row = measure()
        keep_rows(out / FILE, [row], pages.place, ordered=True)
        print(pages.say(row), flush=True)
    if not options.methods:
        pictures.draw(out, options.quick)
    pages.write(known_rows(out / FILE), into_page=out == mixture.OUT)


if __name__ == "__main__":
    cli.script(main)
