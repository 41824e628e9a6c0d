"""The levels that a run of a scheduler of diffusers visits, as data, from its config.json and a number of steps.

A scheduler's row, or timestep, is t - 1 here, and what a network of DDPM's kind is told; it is fractional where the
scheduler has it fractional. Those of flow matching are told t = 1000 sigma itself. The Euler family computes in the
variable x_t / alpha_t, of noise sigma / alpha; these levels are VP ones, so its numbers are ours times
sqrt(1 + (sigma / alpha)^2).

Sources: [EDM] Karras et al. 2206.00364 eq. 5, [ZTSNR] Lin et al. 2305.08891.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from guided_jax.pretrained.published.levels import of_scheduler
from guided_jax.schedule import NoiseLevel

Config = Mapping[str, Any]

DDIM = "DDIMScheduler"
BY_ROWS = (DDIM, "PNDMScheduler")  # steps down by T // n rows
IN_SIGMA = (
    "EulerDiscreteScheduler",
    "EulerAncestralDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LMSDiscreteScheduler",
)
SOLVERS = ("DPMSolverMultistepScheduler", "UniPCMultistepScheduler")
FLOW = ("FlowMatchEulerDiscreteScheduler",)
CLASSES = (*BY_ROWS, *IN_SIGMA, *SOLVERS, *FLOW)
PURE_NOISE = 2.0**-12  # the alpha at which schedulers that compute with sigma / alpha begin, of zero terminal SNR
RHO = 7.0
KARRAS = ("EulerDiscreteScheduler", "HeunDiscreteScheduler", "LMSDiscreteScheduler", *SOLVERS)  # read use_karras_sigmas
SIGMA_MIN = ("EulerDiscreteScheduler", *SOLVERS)  # read final_sigmas_type
# Settings that would change the numbers if they were anything else.
EXPECTED: dict[str, Any] = {
    "thresholding": False,
    "use_exponential_sigmas": False,
    "use_beta_sigmas": False,
    "use_lu_lambdas": False,
    "use_flow_sigmas": False,
    "use_dynamic_shifting": False,
    "shift_terminal": None,
    "stochastic_sampling": False,
    "invert_sigmas": False,
    "euler_at_final": False,
    "interpolation_type": "linear",
    "timestep_type": "discrete",
    "sigma_min": None,
    "sigma_max": None,
    "disable_corrector": [],
    "predict_x0": True,
    "lambda_min_clipped": float("-inf"),
    "solver_p": None,
}


class Visits(NamedTuple):
    """The steps of a run, the noisiest first: step i goes from level now[i] to then[i]. Two tables of n levels."""

    now: NoiseLevel
    then: NoiseLevel


def visits(config: Config, num_steps: int) -> Visits:
    """Return the levels that each step of a scheduler starts and ends at.

    config: its config.json; what is missing has the default of `_class_name`.
    num_steps: n, from 1 to the number of training steps. The repeated step of PNDM and the second calls of Heun are calls
        of one step.
    The last step ends at the clean level, or at the first noisy one where the config says so: set_alpha_to_one false, or
    final_sigmas_type "sigma_min". Of DDIM with linspace spacing, or trailing where n does not divide the steps, a step
    ends T // n rows below where it starts, which is not where the next one starts.
    Raises ValueError for a class or a setting that is not supported.
    """
    check(config)
    name, total = class_of(config), config.get("num_train_timesteps", 1000)
    if not 1 <= num_steps <= total:
        raise ValueError(f"num_steps is {num_steps}; give a number from 1 to {total}")
    if name in FLOW:
        return _chained(_of_flow(config, num_steps), (0.0, 1.0, 0.0))
    return _by_rows(config, num_steps) if name in BY_ROWS else _by_sigma(config, num_steps)


def levels_of(config: Config, num_steps: int) -> NoiseLevel:
    """Return the n + 1 levels of a run, ascending, the end of the last step first, as `sampler.run` takes them.

    config, num_steps: as for `visits`. `make_step` of the same two arguments knows of steps that end elsewhere than where
    the next one starts.

    >>> from guided_jax.pretrained.published import schedulers
    >>> config = {"_class_name": "PNDMScheduler", "skip_prk_steps": True, "steps_offset": 1}
    >>> [int(t) for t in schedulers.levels_of(config, 4).t]
    [1, 2, 252, 502, 752]
    """
    now, then = visits(config, num_steps)
    return NoiseLevel(*(jnp.append(end[-1], start[::-1]) for start, end in zip(now, then, strict=True)))


def initial_std(config: Config, num_steps: int) -> float:
    """Return the standard deviation of x_T.

    1, but for the Euler family on linspace or trailing spacing, which begins with the noise of its first level alone:
    there it is that level's sigma.
    """
    if class_of(config) not in IN_SIGMA or spacing_of(config) == "leading":
        return 1.0
    return float(visits(config, num_steps).now.sigma[0])


def class_of(config: Config) -> str:
    """Return the class of a scheduler; ValueError for one that is not supported."""
    name = config.get("_class_name")
    if name not in CLASSES:
        raise ValueError(f"the scheduler's class is {name!r}; there is {', '.join(CLASSES)}")
    return str(name)


def check(config: Config) -> None:
    """Raise ValueError for a class, or for a setting, that is not supported."""
    expected = {**EXPECTED, "use_karras_sigmas": False} if class_of(config) in FLOW else EXPECTED
    for name, usual in expected.items():
        found = config.get(name)
        if found is not None and found != usual:
            raise ValueError(f"the scheduler's {name} is {found!r}, which is not supported; set it to {usual!r}")


def spacing_of(config: Config) -> str:
    """Return leading, linspace or trailing."""
    spacing = config.get("timestep_spacing") or ("leading" if class_of(config) in BY_ROWS else "linspace")
    if spacing not in ("leading", "linspace", "trailing"):
        raise ValueError(f"the scheduler's timestep_spacing is {spacing!r}; there is leading, linspace, trailing")
    return str(spacing)


def _rows(config: Config, num_steps: int) -> np.ndarray:
    """The rows of the table that a run visits, descending, fractional for the Euler family on linspace."""
    total, name = config.get("num_train_timesteps", 1000), class_of(config)
    spacing, offset = spacing_of(config), config.get("steps_offset") or 0
    more = name in SOLVERS  # these leave out the lowest of one row more
    if spacing == "leading":
        rows = (np.arange(num_steps + more) * (total // (num_steps + more)))[more:][::-1] + offset
    elif spacing == "trailing":
        rows = np.round(total - np.arange(num_steps) * (total / num_steps)) - 1
    else:
        rows = np.linspace(0, total - 1, num_steps + more)[more:][::-1]
        rows = rows if name in IN_SIGMA else np.round(rows)
    if rows[0] >= total:
        raise ValueError(f"the scheduler's steps_offset is {offset}, which leaves its {total} steps; give fewer steps")
    return np.asarray(rows, np.float64)


def _by_rows(config: Config, num_steps: int) -> Visits:
    """Steps of T // n rows, from the rows themselves."""
    table, rows = of_scheduler(config), _rows(config, num_steps).astype(int)
    before = rows - (len(table.t) - 1) // num_steps
    clean = config.get("set_alpha_to_one", class_of(config) == DDIM)
    if class_of(config) == "PNDMScheduler" and np.any(before[:-1] != rows[1:]):
        raise ValueError(
            f"the scheduler is PNDM with {spacing_of(config)} spacing, whose {num_steps} steps do not follow one another; "
            "take leading spacing, or another number of steps"
        )
    places = np.where(before >= 0, before + 1, 0 if clean else 1)
    return Visits(*(NoiseLevel(*(jnp.asarray(column)[index] for column in table)) for index in (rows + 1, places)))


def _by_sigma(config: Config, num_steps: int) -> Visits:
    """Levels of given sigma / alpha: the table's at the rows, linear in between, or Karras's."""
    sigmas = _sigmas_of(config)
    rows = _rows(config, num_steps)
    visited = np.interp(rows, np.arange(len(sigmas)), sigmas)
    solver = class_of(config) in SOLVERS
    if config.get("use_karras_sigmas") and class_of(config) in KARRAS:
        ends = (sigmas[-1], sigmas[0]) if solver else (visited[0], visited[-1])
        high, low = (end ** (1 / RHO) for end in ends)
        visited = np.linspace(high, low, num_steps) ** RHO
        rows = np.interp(np.log(visited), np.log(sigmas), np.arange(len(sigmas)))
        rows = np.round(rows) if solver else rows
    smallest = config.get("final_sigmas_type", "zero") == "sigma_min" and class_of(config) in SIGMA_MIN
    end = (1.0, *_vp(sigmas[0])) if smallest else (0.0, 1.0, 0.0)
    return _chained((rows + 1, *_vp(visited)), end)


def _sigmas_of(config: Config) -> np.ndarray:
    """sigma / alpha of all noisy levels of the table, ascending, the last one finite."""
    alpha, sigma = (np.asarray(column, np.float64)[1:] for column in of_scheduler(config)[1:])
    if alpha[-1] == 0:
        alpha[-1], sigma[-1] = PURE_NOISE, np.sqrt(1 - PURE_NOISE**2)
    return sigma / alpha


def _vp(ratio: Any) -> tuple[Any, Any]:
    """(alpha, sigma) of a ratio sigma / alpha, with alpha^2 + sigma^2 = 1."""
    return 1 / np.sqrt(1 + ratio**2), ratio / np.sqrt(1 + ratio**2)


def _of_flow(config: Config, num_steps: int) -> tuple[Any, Any, Any]:
    """sigma = s r / (1 + (s - 1) r) with the shift s, of evenly spaced r between ends that were shifted so before."""
    total, shift = config.get("num_train_timesteps", 1000), config.get("shift", 1.0)
    shifted = lambda r: shift * r / (1 + (shift - 1) * r)  # noqa: E731
    sigma = shifted(np.linspace(1.0, shifted(1 / total), num_steps))
    return total * sigma, 1 - sigma, sigma


def _chained(now: tuple[Any, Any, Any], end: tuple[float, float, float]) -> Visits:
    """Steps each of which ends where the next one starts, the last one at `end`."""
    start = NoiseLevel(*(jnp.asarray(column, jnp.float32) for column in now))
    then = (np.append(column[1:], last) for column, last in zip(now, end, strict=True))
    return Visits(start, NoiseLevel(*(jnp.asarray(column, jnp.float32) for column in then)))
