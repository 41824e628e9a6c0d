"""Settings of an experiment that do not go together, each refused in one sentence before anything is written."""

from guided_jax.app import limits
from guided_jax.app import settings as schema


def check(experiment: schema.Experiment) -> None:
    """Raise ValueError for a number out of its range, and for settings that exclude one another."""
    limits.check(experiment)
    _check_signals(experiment)
    lengths = experiment.diffusion.power_ema
    if len(set(lengths)) < len(lengths):
        raise ValueError(f"--diffusion.power-ema is {' '.join(map(str, lengths))}; give each length once")
    if experiment.diffusion.num_steps and experiment.diffusion.parameterization == "eps":
        _check_eps(experiment)


def _check_signals(experiment: schema.Experiment) -> None:
    """Raise ValueError for an option of pictures beside --data.signals."""
    data, usual = experiment.data, schema.Data()
    names = [name for name in ("image_size", "crop", "channels", "flip") if getattr(data, name) != getattr(usual, name)]
    options = [f"--data.{name.replace('_', '-')}" for name in names]
    options += ["--diffusion.low-res"] if experiment.diffusion.low_res else []
    if data.signals and options:
        raise ValueError(f"{options[0]} is for pictures; leave it out with --data.signals")


def _check_eps(experiment: schema.Experiment) -> None:
    """Raise ValueError for what an eps network cannot learn: at alpha = 0 its output says nothing of x_0."""
    settings = experiment.schedule
    if settings.zero_terminal_snr:
        raise ValueError(
            "--diffusion.parameterization is eps, which says nothing of x_0 at the end of --schedule.zero-terminal-snr; "
            "use v or x_0"
        )
    if not float(settings.make().alpha[-1]):
        raise ValueError(
            f"--schedule.name {settings.name} of {settings.num_steps} steps ends at alpha = 0, where an eps network says "
            "nothing of x_0; use more --schedule.num-steps, --schedule.name cosine, or --diffusion.parameterization v"
        )
    if experiment.diffusion.weighting.name == "edm":
        raise ValueError(
            "--diffusion.weighting.name edm grows without bound towards noise on the loss of an eps network; "
            "use --diffusion.parameterization v"
        )
