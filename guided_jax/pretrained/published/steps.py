"""The sampler that a scheduler of diffusers stands for, as a `ReverseStep` with the settings of its config.json."""

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike

from guided_jax import reverse
from guided_jax.pretrained.published.levels import parameterization_of
from guided_jax.pretrained.published.schedulers import DDIM, Config, Visits, check, class_of, levels_of, visits
from guided_jax.reverse import ReverseStep
from guided_jax.schedule import NoiseLevel, at

SHORT = 15  # steps, below which the order is lowered at the end of a run


def make_step(config: Config, num_steps: int, eta: ArrayLike = 0.0) -> ReverseStep:
    """Return the step of a scheduler; `sampler.run` takes it with `schedulers.levels_of` the same config and number.

    config: its config.json.
    num_steps: of the run: the solvers lower their order at its end.
    eta: of DDIM, which is not in its config.
    Raises ValueError for a class or a setting that is not supported.

    >>> import jax, jax.numpy as jnp
    >>> import guided_jax as gj
    >>> from guided_jax.pretrained.published import schedulers, steps
    >>> config = {"_class_name": "EulerDiscreteScheduler", "timestep_spacing": "trailing"}
    >>> denoise = gj.denoiser.from_network(lambda x_t, time: jnp.zeros_like(x_t), "x_0")
    >>> step, levels = steps.make_step(config, 4), schedulers.levels_of(config, 4)
    >>> gj.sampler.sample(jax.random.key(0), denoise, step, jnp.ones(2), levels).tolist()
    [0.0, 0.0]
    """
    name = class_of(config)
    check(config)
    if name == DDIM:
        step = _with_ends(reverse.ddim(eta), visits(config, num_steps))
        return _clipped(step, config.get("clip_sample_range", 1.0)) if config.get("clip_sample", True) else step
    if name == "PNDMScheduler":
        return _plms(config)
    if name == "DPMSolverMultistepScheduler":
        return _dpm_solver(config, num_steps)
    if name == "UniPCMultistepScheduler":
        return _unipc(config, num_steps)
    return {
        "EulerDiscreteScheduler": reverse.euler,
        "EulerAncestralDiscreteScheduler": reverse.euler_ancestral,
        "HeunDiscreteScheduler": reverse.heun,
        "LMSDiscreteScheduler": lambda: reverse.deis(4, as_published=True),
        "FlowMatchEulerDiscreteScheduler": reverse.euler,
    }[name]()


def _plms(config: Config) -> ReverseStep:
    predicted = parameterization_of(config)
    if predicted == "x_0" or not config.get("skip_prk_steps", False):
        raise ValueError(
            "the scheduler is PNDM with prediction_type sample, or without skip_prk_steps, neither of which is supported; "
            "take a DDIMScheduler with the same betas"
        )
    return reverse.plms(predicted)


def _dpm_solver(config: Config, num_steps: int) -> ReverseStep:
    algorithm = _choice(config, "algorithm_type", ("dpmsolver++", "sde-dpmsolver++"))
    solver_type = _choice(config, "solver_type", ("midpoint", "heun"))
    lowered = config.get("lower_order_final", True) and num_steps < SHORT
    run = levels_of(config, num_steps) if lowered else None
    eta = 0.0 if algorithm == "dpmsolver++" else 1.0
    return reverse.dpm_solver(config.get("solver_order", 2), eta, solver_type, run)


def _unipc(config: Config, num_steps: int) -> ReverseStep:
    B = _choice(config, "solver_type", ("bh2", "bh1"))
    if B == "bh1" and config.get("final_sigmas_type", "zero") == "zero":
        raise ValueError(
            'the scheduler is UniPC with solver_type "bh1", whose step into the clean level is infinite; '
            'set final_sigmas_type to "sigma_min", or solver_type to "bh2"'
        )
    run = levels_of(config, num_steps) if config.get("lower_order_final", True) else None
    return reverse.unipc(config.get("solver_order", 2), B, run)


def _choice(config: Config, name: str, choices: tuple[str, ...]) -> str:
    """Return a setting of the config, the first of the choices by default; ValueError for another."""
    found = config.get(name, choices[0])
    if found not in choices:
        raise ValueError(f"the scheduler's {name} is {found!r}; there is {', '.join(choices)}")
    return str(found)


def _clipped(step: ReverseStep, limit: float) -> ReverseStep:
    """The step with x_0 clipped to [-limit, limit], and eps as it is: `guidance.clip` computes eps anew."""

    def clipped(key: Any, denoise: Any, x_t: Array, memory: Any, now: NoiseLevel, then: NoiseLevel) -> Any:
        def within(x_t: Array, level: NoiseLevel) -> Any:
            prediction = denoise(x_t, level)
            return prediction._replace(x_0=jnp.clip(prediction.x_0, -limit, limit))

        return step.step(key, within, x_t, memory, now, then)

    return ReverseStep(step.init, clipped)


def _with_ends(step: ReverseStep, steps: Visits) -> ReverseStep:
    """The step from a level of `steps.now` to where that step ends, whatever level the next one starts at."""

    def to_end(key: Any, denoise: Any, x_t: Array, memory: Any, now: NoiseLevel, then: NoiseLevel) -> Any:
        place = jnp.argmin(jnp.abs(steps.now.t - now.t))
        end = NoiseLevel(*(jnp.asarray(part, x_t.dtype) for part in at(steps.then, place)))
        return step.step(key, denoise, x_t, memory, now, end)

    return ReverseStep(step.init, to_end)
