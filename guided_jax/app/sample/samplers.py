"""The names that `sample.py --sampler` and `--grid` take, and what each is made of.

A newcomer is one row: a line for --list, and a function of the settings and of the run's table of levels. The numbers of
steps and the grids are what docs/samplers.md measured.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp

from guided_jax import grid, reverse, schedule
from guided_jax.schedule import NoiseLevel


class Sampler(NamedTuple):
    """One --sampler."""

    line: str  # what it does and where it is from
    make: Callable[[Any, NoiseLevel], reverse.ReverseStep]  # (sampling.Method, the run's table) -> step
    steps: int  # how many there are without --steps
    grid: str = "log-snr"  # and on what, without --grid
    reads: tuple[str, ...] = ()  # the options that only it reads
    reads_eps: bool = True  # and not x_0 alone, to which cfg++ is the same as weak classifier-free guidance


def _order(knobs: Any, usual: int) -> int:
    return knobs.order or usual


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(
        "predict, then run the forward process; Euler's method, ancestral with --eta 1 [DDIM 2010.02502]",
        lambda k, table: reverse.ddim(k.eta),
        50,
        "respaced",
        ("eta",),
    ),
    "ddpm": Sampler(
        "a draw from the posterior; with classifier guidance ADM's algorithm 1 [DDPM 2006.11239]",
        lambda k, table: reverse.ddpm(k.variance),
        250,
        "respaced",
        ("variance",),
        reads_eps=False,
    ),
    "dpm++": Sampler(
        "multistep of --order 1, 2 (2M) or 3 (3M), its SDE with --eta 1 [DPM++ 2211.01095]",
        lambda k, table: reverse.dpm_solver(_order(k, 2), k.eta),
        15,
        reads=("order", "eta"),
        reads_eps=False,
    ),
    "dpm++2s": Sampler(
        "singlestep of order 2, two calls a step, its SDE with --eta 1 [DPM++ 2211.01095]",
        lambda k, table: reverse.dpm_solver_2s(table, k.eta),
        10,
        reads=("eta",),
        reads_eps=False,
    ),
    "unipc": Sampler(
        "multistep of --order 1, 2 or 3, each step corrected for free [UniPC 2302.04867]",
        lambda k, table: reverse.unipc(_order(k, 2)),
        15,
        reads=("order",),
        reads_eps=False,
    ),
    "deis": Sampler(
        "Adams-Bashforth in sigma / alpha of --order 1, 2 or 3 [DEIS 2204.13902]",
        lambda k, table: reverse.deis(_order(k, 3)),
        15,
        "respaced",
        ("order",),
    ),
    "heun": Sampler(
        "order 2, two calls a step, noise added back by --churn a step [EDM 2206.00364]",
        lambda k, table: _heun(k, table),
        18,
        "karras",
        ("churn",),
    ),
    "reverse-sde": Sampler(
        "Euler-Maruyama, with --eta 1; the probability flow with 0 [SDE 2011.13456]",
        lambda k, table: reverse.reverse_sde(k.eta),
        500,
        "respaced",
        ("eta",),
    ),
    "langevin": Sampler(
        "annealed Langevin, --corrections steps of --langevin-size a level [NCSN 1907.05600]",
        lambda k, table: reverse.annealed_langevin(k.langevin_size, k.corrections or 10),
        50,
        "log-snr",
        ("langevin_size", "corrections"),
    ),
    "predictor-corrector": Sampler(
        "ddpm after --corrections Langevin steps of --langevin-size [SDE 2011.13456]",
        lambda k, table: reverse.chain(reverse.langevin(k.langevin_size, k.corrections or 1), reverse.ddpm(k.variance)),
        100,
        "respaced",
        ("langevin_size", "corrections", "variance"),
    ),
}

GRIDS: dict[str, tuple[str, Callable[[NoiseLevel, int, Any], NoiseLevel]]] = {
    "uniform": ("evenly in t", lambda table, steps, k: grid.uniform(table, steps)),
    "quadratic": ("evenly in sqrt(t)", lambda table, steps, k: grid.quadratic(table, steps)),
    "log-snr": (
        "evenly in log(alpha / sigma), up to --sigma-max",
        lambda table, steps, k: grid.log_snr(table, steps, k.sigma_max),
    ),
    "karras": (
        "evenly in (sigma / alpha)^(1/7), up to --sigma-max [EDM]",
        lambda table, steps, k: grid.karras(table, steps, sigma_max=k.sigma_max),
    ),
}
RESPACED = "of the training steps themselves, by ADM's rules for --steps: 50, ddim50, or 10,15,20"


def _heun(knobs: Any, table: NoiseLevel) -> reverse.ReverseStep:
    return reverse.churned(reverse.heun(), table, knobs.churn) if knobs.churn else reverse.heun()


def name_of(knobs: Any) -> str:
    """--sampler; without it the best by docs/samplers.md, or ddim for what needs its steps; ValueError for no such name.

    That is for steps in ADM's words or on its grid, for cfg++, which needs eps read, and for measurements, tuned with it.
    """
    if knobs.sampler is not None:
        if knobs.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler {knobs.sampler!r}; there is {', '.join(SAMPLERS)}")
        return knobs.sampler
    adm = knobs.grid == "respaced" or not (knobs.steps or "1").isdecimal()
    special = knobs.guidance.startswith("cfg++") or "measurement" in knobs.row.needs
    return "ddim" if adm or special else "dpm++"


def row(knobs: Any) -> Sampler:
    """The sampler that is asked for."""
    return SAMPLERS[name_of(knobs)]


def grid_name(knobs: Any) -> str:
    """--grid, or the sampler's own."""
    return knobs.grid or row(knobs).grid


def levels_of(knobs: Any, table: NoiseLevel) -> NoiseLevel:
    """The levels that a run visits; ValueError for steps or a grid that cannot be.

    A table that ends in pure noise is always begun there: x_T is noise, and x of any other level is not.
    """
    name, steps = grid_name(knobs), knobs.steps or str(row(knobs).steps)
    if name == "respaced":
        found = schedule.respace(table, steps)
        if _pure(table) and not _pure(found):
            raise ValueError(
                f"--steps is {steps}, which begins at t = {float(found.t[-1]):g}; a run of zero terminal SNR begins in "
                f"pure noise at t = {float(table.t[-1]):g}: give a number above 1, such as 50"
            )
        return found
    if name not in GRIDS:
        raise ValueError(f"there is no grid {name!r}; there is respaced, {', '.join(GRIDS)}")
    if not steps.isdecimal() or int(steps) < 1:
        raise ValueError(f"--steps is {steps}; on the grid {name} give a number of steps, such as 20")
    found = GRIDS[name][1](table, int(steps), knobs)
    return found if _pure(found) or not _pure(table) else _from_the_end(name, table, int(steps), knobs)


def _pure(levels: NoiseLevel) -> bool:
    """Whether the table ends where alpha is 0."""
    return float(levels.alpha[-1]) == 0


def _from_the_end(name: str, table: NoiseLevel, steps: int, knobs: Any) -> NoiseLevel:
    """A grid that ends below --sigma-max, of one level less, and the table's last level, which lies beyond."""
    below = GRIDS[name][1](table, steps - 1, knobs) if steps > 1 else schedule.at(table, jnp.arange(1))
    return NoiseLevel(*(jnp.append(column, end) for column, end in zip(below, schedule.at(table, -1), strict=True)))


def readers() -> dict[str, tuple[str, ...]]:
    """Who reads an option that not everything reads: what is chosen -> the options."""
    return {f"--sampler {name}": sampler.reads for name, sampler in SAMPLERS.items()} | {
        f"--grid {name}": ("sigma_max",) for name in ("log-snr", "karras")
    }


def listing() -> str:
    """All names, a line each."""
    width = max(map(len, SAMPLERS))
    rows = [f"  {name:{width}}  {s.line}; {s.steps} steps, {s.grid}" for name, s in SAMPLERS.items()]
    grids = [f"  {name:{width}}  {line}" for name, line in {"respaced": RESPACED}.items()]
    grids += [f"  {name:{width}}  {line}" for name, (line, _) in GRIDS.items()]
    title = (
        "--sampler takes one of (with the steps and the grid that it has if none are given; dpm++ if it is not given)"
    )
    return "\n".join([title, *rows, "--grid takes one of", *grids])
