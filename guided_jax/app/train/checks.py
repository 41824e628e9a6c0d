"""Settings of an experiment that do not go together, each refused in one sentence before anything is written."""

from guided_jax.app import limits
from guided_jax.app import settings as schema

READ_BY = {"sigma_min": ("karras", "geometric"), "sigma_max": ("karras", "geometric"), "rho": ("karras",)}
IGNORED = {"unet": "transformer", "dit": "network"}  # by the architecture, the settings of the other network
USUAL = schema.Diffusion()


def check(experiment: schema.Experiment) -> None:
    """Raise ValueError for a number out of its range, and for settings that exclude one another."""
    limits.check(experiment)
    _check_signals(experiment)
    _check_architecture(experiment.diffusion)
    _check_autoencoder(experiment)
    if experiment.data.text != "none" and not experiment.diffusion.conditional:
        raise ValueError(
            f"--data.text {experiment.data.text} is what the network is told; "
            "with --diffusion.no-conditional give --data.text none"
        )
    lengths = experiment.diffusion.power_ema
    if len(set(lengths)) < len(lengths):
        raise ValueError(f"--diffusion.power-ema is {' '.join(map(str, lengths))}; give each length once")
    if experiment.shard_group is not None and not experiment.shard_parameters:
        raise ValueError("--shard-group has no effect without --shard-parameters; add that or leave it out")
    _check_schedule(experiment.schedule)
    _check_distillation(experiment)
    if experiment.diffusion.num_steps:
        _check_parameterization(experiment.schedule, experiment.diffusion)


def _check_signals(experiment: schema.Experiment) -> None:
    """Raise ValueError for an option of pictures beside --data.signals."""
    data, usual = experiment.data, schema.Data()
    names = [name for name in ("image_size", "crop", "channels", "flip") if getattr(data, name) != getattr(usual, name)]
    options = [f"--data.{name.replace('_', '-')}" for name in names]
    options += ["--diffusion.low-res"] if experiment.diffusion.low_res else []
    if data.signals and options:
        raise ValueError(f"{options[0]} is for pictures; leave it out with --data.signals")


def _check_architecture(diffusion: schema.Diffusion) -> None:
    """Raise ValueError for options of the network that was not chosen, or that a transformer does not have."""
    ignored = IGNORED[diffusion.architecture]
    own, usual = getattr(diffusion, ignored), getattr(USUAL, ignored)
    changed = [name for name, value in vars(own).items() if value != getattr(usual, name)]
    if changed:
        raise ValueError(
            f"--diffusion.{ignored}.{changed[0].replace('_', '-')} has no effect with --diffusion.architecture "
            f"{diffusion.architecture}; leave it out"
        )
    if diffusion.architecture == "dit" and diffusion.low_res:
        raise ValueError(
            "--diffusion.low-res is for an upsampler, which --diffusion.architecture dit cannot be; use unet"
        )


def _check_distillation(experiment: schema.Experiment) -> None:
    """Raise ValueError for what cannot learn a guided prediction, and for scales without one."""
    own = experiment.diffusion
    low, high = own.distill_scales
    if own.distill_from is None:
        if own.distill_scales != USUAL.distill_scales:
            raise ValueError("--diffusion.distill-scales has no effect without --diffusion.distill-from; leave it out")
        return
    if not low < high:
        raise ValueError(f"--diffusion.distill-scales is {low:g} {high:g}; give the lower one first")
    refused = {
        "--diffusion.architecture dit": own.architecture == "dit",
        "--diffusion.no-conditional": not own.conditional,
        "--diffusion.low-res": own.low_res is not None,
        "--diffusion.self-conditioning": own.self_conditioning,
        "--diffusion.learned-variance": own.learned_variance,
        "an autoencoder": experiment.latent,
    }
    for option in (option for option, given in refused.items() if given):
        raise ValueError(f"--diffusion.distill-from does not go with {option}; leave one of the two out")


def _check_autoencoder(experiment: schema.Experiment) -> None:
    """Raise ValueError for what cannot be trained on latents, and for settings of an autoencoder that need one another."""
    own = experiment.autoencoder
    if not experiment.latent:
        return
    refused = {
        "--data.signals": experiment.data.signals,
        "--data.crop random": experiment.data.crop == "random",  # latents are computed once
        "--diffusion.low-res": experiment.diffusion.low_res is not None,
        "--diffusion.self-conditioning": experiment.diffusion.self_conditioning,  # clips x_0 to [-1, 1]
    }
    for option in (option for option, given in refused.items() if given):
        raise ValueError(f"{option} does not go with an autoencoder; leave it out, or give --autoencoder.num-steps 0")
    if own.remat_keep != "nothing":
        raise ValueError("--autoencoder.remat-keep has no effect on an autoencoder, which recomputes all; leave it out")
    if bool(own.perceptual_weight) != (own.perceptual_judge is not None):
        raise ValueError(
            "--autoencoder.perceptual-weight and --autoencoder.perceptual-judge go together; give both or neither"
        )


def _check_schedule(settings: schema.Schedule) -> None:
    """Raise ValueError for settings that the chosen schedule ignores, or that make no schedule."""
    for name, readers in READ_BY.items():
        if settings.name not in readers and getattr(settings, name) != getattr(schema.Schedule(), name):
            raise ValueError(
                f"--schedule.{name.replace('_', '-')} has no effect with --schedule.name {settings.name}; it goes with "
                f"{' or '.join(readers)}"
            )
    if settings.exploding and not settings.sigma_min < settings.sigma_max:
        raise ValueError(
            f"--schedule.sigma-min is {settings.sigma_min:g} and --schedule.sigma-max {settings.sigma_max:g}; give a first "
            "level below the last one"
        )
    if settings.zero_terminal_snr and settings.name not in ("linear", "cosine", "sigmoid"):
        raise ValueError(
            f"--schedule.zero-terminal-snr rescales linear, cosine or sigmoid, and --schedule.name is {settings.name}; "
            "leave it out"
        )


def _check_parameterization(settings: schema.Schedule, diffusion: schema.Diffusion) -> None:
    """Raise ValueError for what a network cannot learn on the levels of a schedule."""
    predicts = diffusion.parameterization
    if predicts == "v" and settings.exploding:
        raise ValueError(
            f"--diffusion.parameterization is v, which is as large as sigma, up to {settings.sigma_max:g} with "
            f"--schedule.name {settings.name}; use score, eps, flow or x_0"
        )
    if predicts not in ("eps", "score"):
        return
    network = f"{'an' if predicts == 'eps' else 'a'} {predicts} network"
    if settings.zero_terminal_snr:
        raise ValueError(
            f"--diffusion.parameterization is {predicts}, which says nothing of x_0 at the end of "
            "--schedule.zero-terminal-snr; use v or x_0"
        )
    if settings.name == "flow":
        raise ValueError(
            f"--schedule.name flow ends at alpha = 0, where {network} says nothing of x_0; use "
            "--diffusion.parameterization flow, v or x_0, or --schedule.name cosine"
        )
    if not float(settings.make().alpha[-1]):
        raise ValueError(
            f"--schedule.name {settings.name} of {settings.num_steps} steps ends at alpha = 0, where {network} says "
            "nothing of x_0; use more --schedule.num-steps, --schedule.name cosine, or --diffusion.parameterization v"
        )
    if diffusion.weighting.name == "edm":
        raise ValueError(
            f"--diffusion.weighting.name edm grows without bound towards noise on the loss of {network}; "
            f"use --diffusion.parameterization {'flow' if settings.exploding else 'v'}"
        )
