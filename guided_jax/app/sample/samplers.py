"""The names that `guided-jax sample --sampler` and `--grid` take, and what each is made of.

A new one is one row: a line for --list, and a function of the request and of the run's table of levels. The numbers of
steps and the grids are what docs/samplers.md measured.
"""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp

from guided_jax import grid, reverse, schedule
from guided_jax.app.sample import guidances, inverse
from guided_jax.app.sample.request import Method
from guided_jax.app.translate import translate_errors
from guided_jax.pretrained.published import schedulers, steps
from guided_jax.schedule import NoiseLevel

Scheduler = Mapping[str, Any]  # the config.json of a scheduler of diffusers


class Sampler(NamedTuple):
    """One --sampler."""

    line: str  # what it does and where it is from
    # (request, the run's table, its own scheduler) -> step
    make: Callable[[Method, NoiseLevel, Scheduler | None], reverse.ReverseStep]
    steps: int  # the number of steps without --steps
    grid: str = "log-snr"  # the grid without --grid
    reads: tuple[str, ...] = ()  # the options that only it reads
    reads_eps: bool = True  # whether it reads eps; to one that reads x_0 alone cfg++ is weak classifier-free guidance


def _order(request: Method, usual: int) -> int:
    return request.order or usual


SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(
        "predict, then run the forward process; Euler's method, ancestral with --eta 1 [DDIM 2010.02502]",
        lambda k, table, own: reverse.ddim(k.eta),
        50,
        "respaced",
        ("eta",),
    ),
    "ddpm": Sampler(
        "a draw from the posterior; with classifier guidance ADM's algorithm 1 [DDPM 2006.11239]",
        lambda k, table, own: reverse.ddpm(k.variance or "small"),
        250,
        "respaced",
        ("variance",),
        reads_eps=False,
    ),
    "dpm++": Sampler(
        "multistep of --order 1, 2 (2M) or 3 (3M), its SDE with --eta 1 [DPM++ 2211.01095]",
        lambda k, table, own: reverse.dpm_solver(_order(k, 2), k.eta),
        15,
        reads=("order", "eta"),
        reads_eps=False,
    ),
    "dpm++2s": Sampler(
        "singlestep of order 2, two calls a step, its SDE with --eta 1 [DPM++ 2211.01095]",
        lambda k, table, own: reverse.dpm_solver_2s(table, k.eta),
        10,
        reads=("eta",),
        reads_eps=False,
    ),
    "unipc": Sampler(
        "multistep of --order 1, 2 or 3, each step corrected for free [UniPC 2302.04867]",
        lambda k, table, own: reverse.unipc(_order(k, 2)),
        15,
        reads=("order",),
        reads_eps=False,
    ),
    "deis": Sampler(
        "Adams-Bashforth in sigma / alpha of --order 1, 2 or 3 [DEIS 2204.13902]",
        lambda k, table, own: reverse.deis(_order(k, 3)),
        15,
        "respaced",
        ("order",),
    ),
    "plms": Sampler(
        "four last eps in DDIM's step, two calls at the first: Stable Diffusion's first sampler [PNDM 2202.09778]",
        lambda k, table, own: reverse.plms(),
        50,
        "respaced",
    ),
    "heun": Sampler(
        "order 2, two calls a step, noise added back by --churn a step [EDM 2206.00364]",
        lambda k, table, own: _heun(k, table),
        18,
        "karras",
        ("churn",),
    ),
    "reverse-sde": Sampler(
        "Euler-Maruyama, with --eta 1; the probability flow with 0 [SDE 2011.13456]",
        lambda k, table, own: reverse.reverse_sde(k.eta),
        500,
        "respaced",
        ("eta",),
    ),
    "langevin": Sampler(
        "annealed Langevin, --corrections steps of --langevin-size a level [NCSN 1907.05600]",
        lambda k, table, own: reverse.annealed_langevin(k.langevin_size, k.corrections or 10),
        50,
        "log-snr",
        ("langevin_size", "corrections"),
    ),
    "predictor-corrector": Sampler(
        "ddpm after --corrections Langevin steps of --langevin-size [SDE 2011.13456]",
        lambda k, table, own: reverse.chain(
            reverse.langevin(k.langevin_size, k.corrections or 1), reverse.ddpm(k.variance or "small")
        ),
        100,
        "respaced",
        ("langevin_size", "corrections", "variance"),
    ),
    "published": Sampler(
        "of a published model: its checkpoint's own scheduler, as its config.json has it [diffusers]",
        lambda k, table, own: _published(k, _own(own)),
        50,
        "published",
        ("eta",),
    ),
}

GRIDS: dict[str, tuple[str, Callable[[NoiseLevel, int, Method], NoiseLevel]]] = {
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
    "leading": (
        "training steps T // n apart from the first one, the last ones left out: diffusers' for DiT",
        lambda table, steps, k: schedule.spaced(table, steps, "leading"),
    ),
    "trailing": (
        "training steps T / n apart from the last one [Lin 2305.08891]",
        lambda table, steps, k: schedule.spaced(table, steps, "trailing"),
    ),
}
PUBLISHED = "as the scheduler of a published model visits them [diffusers]"
RESPACED = "of the training steps themselves, by ADM's rules for --steps: 50, ddim50, or 10,15,20"


def _heun(request: Method, table: NoiseLevel) -> reverse.ReverseStep:
    return reverse.churned(reverse.heun(), table, request.churn) if request.churn else reverse.heun()


def _published(request: Method, own: Scheduler) -> reverse.ReverseStep:
    name = schedulers.class_of(own)
    if request.eta and name != schedulers.DDIM:
        raise ValueError(f"--eta has no effect with --sampler published of a {name}; leave it out")
    return steps.make_step(own, _number(request), request.eta)


def name_of(request: Method) -> str:
    """Return --sampler, or without it the best by docs/samplers.md; ValueError for a name that is not known.

    Without --sampler it is ddim for ADM's forms of --steps and its grid, for cfg++, which needs a sampler that reads eps,
    and for measurements and guidances of the step, whose settings were tuned with it. Of particles it is ddpm, whose steps
    say the law that they draw from.
    """
    if request.sampler is not None:
        if request.sampler not in SAMPLERS:
            raise ValueError(f"there is no sampler {request.sampler!r}; there is {', '.join(SAMPLERS)}")
        return request.sampler
    if request.particles is not None:
        return "ddpm"
    row = guidances.row_of(request)
    adm = request.grid == "respaced" or not (request.steps or "1").isdecimal()
    special = request.guidance.startswith("cfg++") or "measurement" in row.needs or row.step is not None
    return "ddim" if adm or special else "dpm++"


def row_of(request: Method) -> Sampler:
    """Return the sampler of a request."""
    return SAMPLERS[name_of(request)]


def reads_eps(request: Method, own: Scheduler | None = None) -> bool:
    """Return whether the sampler of a request reads eps, and not x_0 alone; own: as of `make_step`."""
    if name_of(request) == "published" and schedulers.class_of(_own(own)) in schedulers.SOLVERS:
        return False
    return row_of(request).reads_eps


def step_name(request: Method) -> str:
    """Return the sampler with its number of steps, for a folder's name."""
    return f"{name_of(request)}{request.steps or row_of(request).steps}"


def grid_name(request: Method) -> str:
    """Return --grid, or the sampler's own."""
    return request.grid or row_of(request).grid


def make_step(request: Method, table: NoiseLevel, own: Scheduler | None = None) -> reverse.ReverseStep:
    """Return the step of a request. table: of the run. own: the scheduler of a published model, where there is one."""
    return row_of(request).make(request, table, own)


def start_std(request: Method, own: Scheduler | None = None) -> float | None:
    """Return the standard deviation of x_T that a published scheduler begins with; None for sigma of the first level."""
    return schedulers.initial_std(_own(own), _number(request)) if grid_name(request) == "published" else None


def strength_of(request: Method) -> float:
    """Return --strength, or without it 0.6, and 1 where a hole is painted in a picture, as in diffusers."""
    return (1.0 if inverse.paints(request) else 0.6) if request.strength is None else request.strength


def _own(own: Scheduler | None) -> Scheduler:
    """Return the scheduler of a published model; ValueError for a run without one."""
    if own is None:
        raise ValueError("this run has no scheduler of its own; give another --sampler and --grid than published")
    return own


def _number(request: Method) -> int:
    """Return --steps as a number; ValueError for ADM's forms, which only the grid respaced reads."""
    steps = request.steps or str(row_of(request).steps)
    if not steps.isdecimal() or int(steps) < 1:
        raise ValueError(f"--steps is {steps}; on the grid {grid_name(request)} give a number of steps, such as 20")
    return int(steps)


def levels_of(request: Method, table: NoiseLevel, own: Scheduler | None = None) -> NoiseLevel:
    """Return the levels that a run visits, --strength of them where it starts from an image.

    Raises ValueError for steps, a grid or a strength that do not fit the table.
    """
    levels = _whole(request, table, own)
    with translate_errors({"strength is": "--strength is", "more steps": "more --steps"}):
        return grid.truncate(levels, strength_of(request)) if request.image else levels


def _whole(request: Method, table: NoiseLevel, own: Scheduler | None) -> NoiseLevel:
    """Return the levels of a run that starts from noise.

    A table that ends in pure noise is always begun there: x_T is noise, and x of any other level is not.
    """
    name = grid_name(request)
    if request.sampler == "published" and name != "published":
        raise ValueError(f"--sampler published visits the levels of its own scheduler; leave out --grid {name}")
    if name == "published":
        with translate_errors({"num_steps is": "--steps is"}):
            return schedulers.levels_of(_own(own), _number(request))
    if name == "respaced":
        steps = request.steps or str(row_of(request).steps)
        found = schedule.respace(table, steps)
        if _ends_in_noise(table) and not _ends_in_noise(found):
            raise ValueError(
                f"--steps is {steps}, which begins at t = {float(found.t[-1]):g}; a run of zero terminal SNR begins in "
                f"pure noise at t = {float(table.t[-1]):g}: give a number above 1, such as 50"
            )
        return found
    if name not in GRIDS:
        raise ValueError(f"there is no grid {name!r}; there is respaced, published, {', '.join(GRIDS)}")
    number = _number(request)
    found = GRIDS[name][1](table, number, request)
    return found if _ends_in_noise(found) or not _ends_in_noise(table) else _extended(name, table, number, request)


def _ends_in_noise(levels: NoiseLevel) -> bool:
    """Return whether the table ends where alpha is 0."""
    return float(levels.alpha[-1]) == 0


def _extended(name: str, table: NoiseLevel, steps: int, request: Method) -> NoiseLevel:
    """Return a grid of one level less, which ends below --sigma-max, with the table's last level, which lies beyond."""
    below = GRIDS[name][1](table, steps - 1, request) if steps > 1 else schedule.at(table, jnp.arange(1))
    return NoiseLevel(*(jnp.append(column, end) for column, end in zip(below, schedule.at(table, -1), strict=True)))


def readers() -> dict[str, tuple[str, ...]]:
    """Return what is chosen -> the options that are read only then."""
    return {f"--sampler {name}": sampler.reads for name, sampler in SAMPLERS.items()} | {
        f"--grid {name}": ("sigma_max",) for name in ("log-snr", "karras")
    }


def listing() -> str:
    """Return all names, a line each."""
    width = max(map(len, SAMPLERS))
    rows = [f"  {name:{width}}  {s.line}; {s.steps} steps, {s.grid}" for name, s in SAMPLERS.items()]
    grids = [f"  {name:{width}}  {line}" for name, line in {"respaced": RESPACED, "published": PUBLISHED}.items()]
    grids += [f"  {name:{width}}  {line}" for name, (line, _) in GRIDS.items()]
    title = (
        "--sampler takes one of (with the steps and the grid that it has if none are given; dpm++ if it is not given)"
    )
    return "\n".join([title, *rows, "--grid takes one of", *grids])
