"""`guided-jax sample --particles`: K weighted examples for each sample, one of which is drawn by its weight."""

from collections.abc import Callable, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from guided_jax import particles, sampler
from guided_jax.app import run as runs
from guided_jax.app.sample import guidance_rows, guidances, inverse, samplers
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method, Sampling
from guided_jax.app.sample.resolve import Recipe

MOST_MEASURED = 1024  # numbers: each is a backward pass of the network at each step, and a row of a matrix to factor


def check(method: Method, run: runs.Run) -> None:
    """Raise ValueError for --particles of a request that says no law, or no law of its steps."""
    if method.particles is None:
        return
    first, rest = guidances.parse(method.guidance)
    target = guidances.row_of(method).target
    if target is None:
        able = [name for name, row in guidance_rows.GUIDANCES.items() if row.target is not None]
        raise ValueError(f"--particles draws the law of {', '.join(able)}, and {first} names none; use one of these")
    if rest:
        raise ValueError(f"--particles draws the law of {first} itself, which +{rest[0]} changes; leave it out")
    if run.self_conditioning:
        raise ValueError(
            "--particles calls a network without its last x_0, which this run's network needs; leave it out"
        )
    for name, given in {"image": method.image, "clip-base": method.clip_base}.items():
        if given:
            raise ValueError(f"--{name} has no effect with --particles, which begin as noise; leave out one of the two")
    if samplers.make_step(method, run.model.levels, run.scheduler).law is None:
        raise ValueError(
            f"--particles weighs by the normal law of each step, and --sampler {samplers.name_of(method)} says none; use "
            "ddpm, or ddim, dpm++ or reverse-sde with --eta above 0, such as 1"
        )
    if "measurement" in guidances.row_of(method).needs:
        _check_measurement(method, run)


def _check_measurement(method: Method, run: runs.Run) -> None:
    settings, name = method.measurement, method.guidance
    if not settings.noise_std:
        raise ValueError(f"{name} with --particles needs a noisy measurement; give --noise-std above 0, such as 0.05")
    if settings.iterations is not None:
        raise ValueError("--iterations has no effect with --particles, which solve exactly; leave it out")
    latents, places = inverse.measures_latents(method, run), inverse.observed_places(method, run)
    shape = run.model.shape if latents else run.facts.image_shape
    seen = jax.eval_shape(inverse.make_operator(method, run).forward, jax.ShapeDtypeStruct(shape, jnp.float32))
    count = seen.size if places is None else len(places)
    if count > MOST_MEASURED:
        raise ValueError(
            f"{name} with --particles calls the network backwards for each of {count} measured numbers, at most "
            f"{MOST_MEASURED}; use --operator super-resolution with a larger --factor, or leave out --particles"
        )


def draw(
    key: Any, recipe: Recipe, parts: Parts, begin: Callable[[Any], Any], chunk: int | None
) -> tuple[Any, dict[str, Any]]:
    """Return one x_0, drawn by its weight, and {"ess": (steps,), "log_evidence": ()} of its cloud.

    key: of this sample. begin: key -> x_T of an example. chunk: how many examples the network gets at a time, None for all.
    """
    key_begin, key_run, key_pick = jax.random.split(key, 3)
    assert recipe.target is not None
    denoise, potential = recipe.target(parts)
    x_T = jax.vmap(begin)(sampler.keys(key_begin, jnp.arange(parts.request.particles)))
    cloud = particles.sample(key_run, denoise, recipe.step(parts), x_T, recipe.levels, potential, chunk=chunk)
    # Not the first of `particles.resample`, which has them in their order.
    x_0 = cloud.x_0[jax.random.categorical(key_pick, cloud.log_weights)]
    x_0 = jnp.where(jnp.isnan(cloud.log_evidence), jnp.nan, x_0)
    return x_0, {"ess": cloud.ess, "log_evidence": cloud.log_evidence}


def samples_at_once(options: Sampling) -> int:
    """Return how many samples are drawn at a time, of --batch-size examples, over all devices."""
    return max(1, options.batch_size // (options.method.particles or 1))


def chunk_of(options: Sampling) -> int | None:
    """Return how many examples of one sample the network gets at a time; None for all, where they fit in --batch-size."""
    return options.batch_size if (options.method.particles or 0) > options.batch_size else None


def summary(count: int | None, found: Sequence[dict[str, np.ndarray]]) -> str:
    """Return a sentence on the clouds of all samples. count: of examples in each. found: of the batches that were drawn."""
    ess = np.concatenate([each["ess"] for each in found])
    evidence = np.concatenate([each["log_evidence"] for each in found])
    least = ess.min(axis=1)
    return (
        f"{len(ess)} clouds of {count} particles: on average an effective size of {ess[:, -1].mean():.3g} at the end and "
        f"{least.mean():.3g} at the worst step, and a log evidence of {evidence.mean():.4g}"
    )
