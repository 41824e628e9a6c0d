"""Every sampler, one row each: the table over which the tests of all samplers run. `euler` is another name of `ddim`."""

from collections.abc import Callable
from typing import NamedTuple

import pytest

from guided_jax import forward, reverse


class Stepper(NamedTuple):
    """What the tests expect of a row."""

    make: Callable  # (the full table of levels) -> ReverseStep
    order: int | None  # of the global error on the probability flow; None for a stochastic sampler
    calls: Callable[[int], int] = lambda n: n  # calls of the network in a run of n steps from alpha > 0
    steps: int = 60  # enough to recover the mixture
    noisy: bool = False  # draws noise
    tilted: bool = True  # whether with guidance it reaches the closed form of its kind as steps grow


def large(prediction, now, then):
    return forward.step_beta(now, then)


STEPPERS = {
    "ddpm": Stepper(lambda table: reverse.ddpm(), None, steps=200, noisy=True),
    "ddpm-large": Stepper(lambda table: reverse.ddpm("large"), None, steps=200, noisy=True),
    "ddpm-function": Stepper(lambda table: reverse.ddpm(large), None, steps=200, noisy=True),
    "ddpm-optimal": Stepper(
        lambda table: reverse.ddpm(reverse.optimal_variance(reverse.normal_spread(0.2))), None, steps=100, noisy=True
    ),
    "ddim": Stepper(lambda table: reverse.ddim(), 1, steps=100),
    "ddim-half": Stepper(lambda table: reverse.ddim(0.5), None, steps=200, noisy=True, tilted=False),
    "ddim-1": Stepper(lambda table: reverse.ddim(1.0), None, steps=200, noisy=True),
    "heun": Stepper(lambda table: reverse.heun(), 2, lambda n: 2 * n - 1),
    "heun-churned": Stepper(
        lambda table: reverse.churned(reverse.heun(), table, 0.1, 0.05, 50.0, 1.0),
        None,
        lambda n: 2 * n - 1,
        noisy=True,
        tilted=False,
    ),
    "dpm-1": Stepper(lambda table: reverse.dpm_solver(1), 1, steps=100),
    "dpm-2m": Stepper(lambda table: reverse.dpm_solver(2), 2),
    "dpm-3m": Stepper(lambda table: reverse.dpm_solver(3), 3, lambda n: n + 1),
    "dpm-2s": Stepper(lambda table: reverse.dpm_solver_2s(table), 2, lambda n: 2 * n - 1),
    "dpm-1-sde": Stepper(lambda table: reverse.dpm_solver(1, 1.0), None, steps=200, noisy=True),
    "dpm-2m-sde": Stepper(lambda table: reverse.dpm_solver(2, 1.0), None, noisy=True),
    "dpm-3m-sde": Stepper(lambda table: reverse.dpm_solver(3, 1.0), None, lambda n: n + 1, noisy=True),
    "dpm-2s-sde": Stepper(lambda table: reverse.dpm_solver_2s(table, 1.0), None, lambda n: 2 * n - 1, noisy=True),
    "dpm-2m-heun": Stepper(lambda table: reverse.dpm_solver(2, solver_type="heun"), 2),
    "dpm-3m-published": Stepper(lambda table: reverse.dpm_solver(3, solver_type="midpoint"), 2),
    "unipc-1": Stepper(lambda table: reverse.unipc(1), 2),
    "unipc-2": Stepper(lambda table: reverse.unipc(2), 3),
    "unipc-3": Stepper(lambda table: reverse.unipc(3), 4),
    "unipc-2-bh1": Stepper(lambda table: reverse.unipc(2, B="bh1"), 3),
    "deis-1": Stepper(lambda table: reverse.deis(1), 1, steps=100),
    "deis-2": Stepper(lambda table: reverse.deis(2), 2, steps=100),
    "deis-3": Stepper(lambda table: reverse.deis(3), 3, lambda n: n + 1, steps=100),
    "deis-4-published": Stepper(lambda table: reverse.deis(4, as_published=True), 3, steps=100),
    "plms": Stepper(lambda table: reverse.plms(), 2, lambda n: n + 1, steps=100),
    "plms-v": Stepper(lambda table: reverse.plms("v"), 1, lambda n: n + 1, steps=100),
    "reverse-sde": Stepper(lambda table: reverse.reverse_sde(), None, steps=400, noisy=True),
    "reverse-sde-0": Stepper(lambda table: reverse.reverse_sde(0.0), 1, steps=600, tilted=False),
    "annealed-langevin": Stepper(
        lambda table: reverse.annealed_langevin(0.2, 8), None, lambda n: 8 * n + 1, steps=100, noisy=True, tilted=False
    ),
    # With a criterion that likes all examples alike: what is made twice and noised back in between keeps its law.
    "training-free": Stepper(
        lambda table: reverse.training_free(reverse.ddpm(), lambda x_0, level: 0.0 * x_0.sum(), rho=0.0, recurrence=2),
        None,
        lambda n: 2 * n,
        steps=200,
        noisy=True,
        tilted=False,
    ),
    "predictor-corrector": Stepper(
        lambda table: reverse.chain(reverse.langevin(0.05), reverse.ddpm()),
        None,
        lambda n: 2 * n,
        steps=100,
        noisy=True,
        tilted=False,
    ),
}

# By default one of each kind; those that are the same method by another name or order are slow.
ALIKE = ("ddpm-function", "ddpm-large", "ddpm-optimal", "ddim-1", "dpm-1", "dpm-1-sde", "dpm-2s-sde", "dpm-3m-sde")
ALIKE += ("unipc-1", "deis-1", "reverse-sde-0", "predictor-corrector", "training-free")
ALIKE += ("dpm-2m-heun", "dpm-3m-published", "unipc-2-bh1", "deis-4-published", "plms-v")


def of_each_kind(names):
    """Return the names as parameters of a test."""
    return [pytest.param(name, marks=pytest.mark.slow if name in ALIKE else ()) for name in names]
