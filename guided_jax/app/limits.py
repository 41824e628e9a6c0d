"""The range of every number of all commands: one table, checked before anything is computed or written."""

import dataclasses
import math
from collections.abc import Iterator
from typing import Any, NamedTuple

FLAT = (
    "experiment",
    "method",
    "measurement",
    "sweep",
    "text",
    "anneal",
    "training_free",
)  # sections whose names are not part of their options' names


class Range(NamedTuple):
    """The finite numbers from `low` to `high`, without `low` itself where `above` is true.

    A tuple is in the range when all its numbers are; `nonempty` requires at least one.
    """

    low: float = -math.inf
    high: float = math.inf
    above: bool = False
    nonempty: bool = False

    def holds(self, value: Any) -> bool:
        """Return whether a number, or every number of a tuple, is in the range."""
        if isinstance(value, tuple):
            return (bool(value) or not self.nonempty) and all(map(self.holds, value))
        finite = isinstance(value, int) or math.isfinite(value)  # a large int does not fit in a float
        return finite and (self.low < value if self.above else self.low <= value) and value <= self.high

    def words(self) -> str:
        """Return what to give, for an error message."""
        what = "one or more finite numbers" if self.nonempty else "a finite number"
        if self.low == -math.inf:
            return what
        if self.high < math.inf:
            low, high = _text(self.low), _text(self.high)
            return f"a number {f'above {low}, up' if self.above else f'from {low}'} to {high}"
        if self.above:
            return f"{what} above {_text(self.low)}"
        return f"{what} of at least {_text(self.low)}" if self.nonempty else f"at least {_text(self.low)}"


def _text(number: int | float) -> str:
    """Return a number in full: 4294967295, 0.2886."""
    return str(int(number)) if number == int(number) else f"{number:g}"


ANY, POSITIVE, NOT_NEGATIVE, SHARE = Range(), Range(0, above=True), Range(0), Range(0, 1)
COUNT = Range(1)
SIGMA = Range(1e-6, 1e6)  # of a training level; float32 has its square
POWER = Range(0, 0.2886, above=True)  # sigma_rel: up to 12^-1/2, the plain mean of all steps
LARGEST_SIDE = 8192  # pixels
MOST_LEVELS = 1_000_000
MOST_SAMPLES = 2**31 - 1  # JAX numbers them by 32 bits: beyond, it would draw again what it has drawn
# Field -> its range; Class.field where a name means different things in different commands.
RANGES: dict[str, Range] = {
    # all commands. jax.random.key takes 32 bits of a seed: a larger one would draw what a smaller one draws.
    **{"seed": Range(0, 2**32 - 1), "devices": COUNT, "shard_group": COUNT, "batch_size": COUNT},
    "num_samples": Range(1, MOST_SAMPLES),
    # sample and sweep
    **dict.fromkeys(
        (
            "corrections",
            "factor",
            "repeats",
            "iterations",
            "sweep_seeds",
            "guided_channels",
            "decode_tile",
            "cutouts",
            "calls",
            "particles",
            "every",
        ),
        COUNT,
    ),
    **dict.fromkeys(("smoothing_samples", "recurrence"), COUNT),
    **dict.fromkeys(("TrainingFree.rho", "mu", "smoothing", "tv_weight", "range_weight"), NOT_NEGATIVE),
    **dict.fromkeys(
        ("temperature", "data_std", "langevin_size", "sigma_max", "radius", "prior_weight", "exposure", "renoise"),
        POSITIVE,
    ),
    **{
        "text_length": COUNT,
        "windows": COUNT,
        "clip_skip": NOT_NEGATIVE,
        **dict.fromkeys(("crop", "negative_crop"), NOT_NEGATIVE),
    },
    **dict.fromkeys(("size", "original_size", "target_size"), Range(1, LARGEST_SIDE)),
    **dict.fromkeys(("negative_original_size", "negative_target_size"), Range(1, LARGEST_SIDE)),
    **dict.fromkeys(
        (
            "noise_std",
            "blur_std",
            "blur_length",
            "blur",
            "churn",
            "damping",
            "anneal_std",
            "interval_low",
            "interval_high",
        ),
        NOT_NEGATIVE,
    ),
    **{
        "scale": Range(nonempty=True),
        "scales": Range(nonempty=True),
        "also_scale": ANY,
        "coarse_scales": Range(nonempty=True),
        "label_scale": ANY,
        **{"observed": ANY, "label": ANY, "Certify.count": COUNT},
        "control_scale": ANY,
        "eta": SHARE,
        "zeta": SHARE,
        "quality": Range(1, 100),
        "blur_angle": ANY,
        "strength": Range(0, 1, above=True),
        "rescale_mix": SHARE,
        "momentum": Range(-1, 1),
        "stop_cosine": Range(-1, 1),
        **dict.fromkeys(("anneal_low", "anneal_high", "anneal_mix"), SHARE),
    },
    # nll, judge, posthoc
    **{"probes": COUNT, "Judging.num_steps": COUNT, "sigma_rel": POWER, "step": COUNT},
    # train: data and schedule
    **{"image_size": Range(1, LARGEST_SIDE), "background": Range(0, 255), "Schedule.num_steps": Range(1, MOST_LEVELS)},
    **{"Schedule.sigma_min": SIGMA, "Schedule.sigma_max": SIGMA, "rho": Range(1, 100)},
    # train: processes
    **{"num_processes": COUNT, "process_id": NOT_NEGATIVE},
    # train: all `*_every` settings, and counts
    **dict.fromkeys(("num_steps", "sample_every", "eval_every", "measure_every", "reconstruct_every"), NOT_NEGATIVE),
    **dict.fromkeys(("checkpoint_every", "log_every", "eval_examples", "keep"), COUNT),
    **dict.fromkeys(("microbatches", "steps_per_dispatch", "snapshot_every", "low_res"), COUNT),
    **{
        "measure_samples": Range(1, MOST_SAMPLES),
        "measure_scale": ANY,
        "ema_decay": SHARE,
        "label_dropout": SHARE,
        "distill_scales": ANY,
        "power_ema": POWER,
    },
    # train: optimizer and objective
    **{"learning_rate": POSITIVE, "warmup_steps": NOT_NEGATIVE, "weight_decay": NOT_NEGATIVE, "clip_norm": POSITIVE},
    **dict.fromkeys(("min_snr_gamma", "p2_k", "sigma_data", "std"), POSITIVE),
    **dict.fromkeys(("p2_gamma", "sigmoid_bias", "mean"), ANY),
    **dict.fromkeys(("kl_weight", "perceptual_weight", "internal_weight", "internal_head", "memory"), NOT_NEGATIVE),
    # train: networks
    **dict.fromkeys(
        ("model_channels", "num_res_blocks", "num_heads", "num_head_channels", "num_groups", "patch"), COUNT
    ),
    **{"channel_mult": Range(0, above=True, nonempty=True), "attention_resolutions": COUNT, "dropout": SHARE},
    **dict.fromkeys(("patch_size", "hidden_size", "depth", "latent_channels", "layers_per_block"), COUNT),
    **{"mlp_ratio": POSITIVE, "norm_num_groups": COUNT, "block_out_channels": Range(1, nonempty=True)},
    # judge
    "Judging.channels": Range(1, nonempty=True),
}


def check(settings: Any) -> None:
    """Raise ValueError for the first number of a command's settings, or of their sections, that is out of its range."""
    for option, value, allowed in numbers(settings):
        if value is not None and not allowed.holds(value):
            shown = " ".join(map(str, value)) or "empty" if isinstance(value, tuple) else value
            raise ValueError(f"{option} is {shown}; give {allowed.words()}")


def numbers(settings: Any, prefix: str = "") -> Iterator[tuple[str, Any, Range]]:
    """Yield (option, value, range) of every field that has a range; the option as the command line spells it."""
    for field in dataclasses.fields(settings):
        value = getattr(settings, field.name)
        if dataclasses.is_dataclass(value):
            yield from numbers(value, prefix if field.name in FLAT else f"{prefix}{field.name}.")
        else:
            allowed = RANGES.get(f"{type(settings).__name__}.{field.name}") or RANGES.get(field.name)
            if allowed and not isinstance(value, str):
                yield f"--{prefix}{field.name}".replace("_", "-"), value, allowed
