"""`--guidance gibbs-like`: samples of the conditional model, noised and denoised again with classifier-free guidance."""

from guided_jax import grid, guidance
from guided_jax.app import run as runs
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method
from guided_jax.app.translate import translate_errors
from guided_jax.denoiser import Denoiser
from guided_jax.schedule import NoiseLevel

CALLS = 10  # without --calls


def check(method: Method, run: runs.Run, diagnose: bool) -> None:
    """Raise ValueError for a level that the run does not have, and for what a run down the levels again cannot do."""
    levels_of(method, run.model.levels)
    if run.self_conditioning:
        raise ValueError("gibbs-like calls a network without its last x_0, which this run's network needs; use another")
    if diagnose:
        raise ValueError("--diagnose shows one run down the levels, and gibbs-like has several; leave it out")


def levels_of(method: Method, table: NoiseLevel) -> NoiseLevel:
    """Return the levels of each repeat, up to --renoise; ValueError for one below those of the table."""
    with translate_errors({"sigma_max is": "--renoise is"}):
        return grid.karras(table, method.measurement.calls or CALLS, sigma_max=method.renoise)


def guided(parts: Parts) -> Denoiser:
    """Return the denoiser of the repeats."""
    return parts.paired(lambda p: guidance.classifier_free(p.conditional, p.unconditional, p.scale))
