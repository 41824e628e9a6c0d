"""The noise levels of a published model, from the config.json of its scheduler."""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np

from guided_jax import schedule
from guided_jax.schedule import NoiseLevel


def of_scheduler(config: Mapping[str, Any]) -> NoiseLevel:
    """Return the table of a scheduler of diffusers: T noisy levels, row t of its arrays at position t + 1.

    config: its config.json, of which num_train_timesteps, beta_schedule, beta_start, beta_end, trained_betas and
    rescale_betas_zero_snr count; what is missing has the class's default. ValueError for a schedule of another name.
    """
    levels = _table(config)
    return schedule.zero_terminal_snr(levels) if config.get("rescale_betas_zero_snr") else levels


def parameterization_of(config: Mapping[str, Any]) -> str:
    """Return "eps", "v" or "x_0", as `denoiser.from_network` names what the scheduler's config calls prediction_type."""
    names = {"epsilon": "eps", "v_prediction": "v", "sample": "x_0"}
    found = config.get("prediction_type", "epsilon")
    if found not in names:
        raise ValueError(f"the scheduler's prediction_type is {found!r}; there is {', '.join(names)}")
    return names[found]


def _table(config: Mapping[str, Any]) -> NoiseLevel:
    if config.get("trained_betas") is not None:
        return schedule.from_betas(config["trained_betas"])
    number, name = config.get("num_train_timesteps", 1000), config.get("beta_schedule", "linear")
    start, end = config.get("beta_start", 1e-4), config.get("beta_end", 0.02)
    if name == "linear":
        return schedule.from_betas(np.linspace(start, end, number, dtype=np.float64))
    if name == "scaled_linear":
        return schedule.from_betas(np.linspace(math.sqrt(start), math.sqrt(end), number, dtype=np.float64) ** 2)
    if name == "squaredcos_cap_v2":
        return schedule.cosine(number)
    raise ValueError(f"the scheduler's beta_schedule is {name!r}; there is linear, scaled_linear, squaredcos_cap_v2")
