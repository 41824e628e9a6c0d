"""The settings of `sample.py`, and what can be wrong with them."""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from guided_jax.app import run as runs
from guided_jax.app import settings as schema
from guided_jax.app.sample import guidances as methods
from guided_jax.app.sample import samplers
from guided_jax.app.sample.inverse import Measurement, operator_of
from guided_jax.app.sweep.settings import Sweep


@dataclasses.dataclass(frozen=True)
class Method:
    """How to draw: the guidance and the sampler."""

    guidance: str = "none"
    """One of those that --list prints, such as classifier or classifier-free, then any of +interval +rescale +ramp
    +dynamic. none with --labels is the plain conditional model."""
    sampler: str | None = None
    """One of those that --list prints; without it dpm++, or ddim for cfg++, measurements and --steps in ADM's words."""
    steps: str | None = None
    """How many levels to visit; without it the sampler's own number, as --list says. On the grid respaced also ddim50, or
    10,15,20."""
    grid: str | None = None
    """How they are spread, one of those that --list prints; without it the sampler's own."""
    sigma_max: float = 80.0
    """--grid log-snr, karras: the greatest sigma / alpha, where sampling starts."""
    order: Literal[1, 2, 3] | None = None
    """dpm++, unipc (2 without it), deis (3)."""
    eta: float = 0.0
    """Noise of ddim, dpm++, dpm++2s, reverse-sde: 0 none, 1 as much as ddpm or the reverse SDE."""
    churn: float = 0.0
    """heun: noise added back before each step, EDM's S_churn / steps."""
    langevin_size: float = 0.1
    """langevin, predictor-corrector: length of a Langevin step, over sigma^2."""
    corrections: int | None = None
    """langevin (10 without it), predictor-corrector (1): Langevin steps at each level."""
    variance: runs.Variance | None = None
    """Step variance of ddpm; without it the learned one of a network that learned it, else small."""
    at: Literal["x_t", "mean"] = "x_t"
    """Where algorithm 1 takes the classifier's gradient."""
    clip: bool = True
    """Clip the (guided) predicted clean image to [-1, 1]."""
    clip_base: bool = False
    """Clip the network's own prediction instead, before the guidance, which is ADM's order."""
    any_of: tuple[int, ...] = ()
    """classifier, off-the-shelf, universal: any of these labels will do, instead of --labels."""
    temperature: float = 1.0
    """classifier, off-the-shelf, universal: what the classifier's logits are divided by."""
    also: tuple[int, ...] = ()
    """compose: further labels, each with its --also-scale: AND above 0, NOT below."""
    also_scale: tuple[float, ...] = ()
    """compose: the strength of each label of --also; without it all have --scale."""
    interval_low: float = 0.0
    """+interval: guided above this sigma / alpha."""
    interval_high: float = 5.0
    """+interval: guided up to this sigma / alpha."""
    rescale_mix: float = 0.7
    """+rescale: 0 changes nothing, 1 is the whole."""
    negative: int | None = None
    """negative: the label to go away from."""
    momentum: float = -0.5
    """projected: of the direction, over the steps."""
    radius: float = 2.5
    """projected: the direction's greatest length."""
    blur: float = 1.0
    """self-attention: of x_0, in pixels."""
    bad: Path | None = None
    """autoguidance: the run of a smaller or less trained model."""
    measurement: tyro.conf.OmitArgPrefixes[Measurement] = dataclasses.field(default_factory=Measurement)

    @property
    def step_name(self) -> str:
        """The sampler with its number of steps, for a folder's name."""
        return f"{samplers.name_of(self)}{self.steps or samplers.row(self).steps}"

    @property
    def row(self) -> methods.Row:
        """What the guidance is made of."""
        return methods.GUIDANCES[methods.parse(self.guidance)[0]]

    @property
    def dynamic(self) -> bool:
        """Whether +dynamic takes the place of the clip."""
        return "dynamic" in methods.parse(self.guidance)[1]

    @property
    def shifts_mean(self) -> bool:
        """Whether this is algorithm 1, classifier guidance of a ddpm step."""
        return self.guidance == "classifier" and self.sampler == "ddpm"


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draw guided samples from a trained run."""

    run: tyro.conf.Positional[Path]
    """The directory that train.py wrote."""
    method: tyro.conf.OmitArgPrefixes[Method] = dataclasses.field(default_factory=Method)
    scale: tuple[float, ...] = (1.0,)
    """Guidance strength: 0 ignores the label, 1 is the exact conditional, above 1 is sharper. Several: one for each
    round of the labels, in turn."""
    labels: tuple[int, ...] | None = None
    """Classes, in turn over the samples; without them they follow the data's frequencies."""
    base_samples: Path | None = None
    """For an upsampler: the samples.npz of low-resolution pictures, in turn; their labels too, without --labels."""
    num_samples: int | None = None
    """64 if not given; of a sweep, at each scale and seed, as many as the reference has, up to 1000."""
    sweep: tyro.conf.OmitArgPrefixes[Sweep] = dataclasses.field(default_factory=Sweep)
    checkpoint: runs.Which = "last"
    """The weights of the last checkpoint, or of the best, by the keep-best-by that the run was trained with."""
    batch_size: int = 256
    """Images at a time, over all devices."""
    seed: int = 0
    diagnose: bool = False
    """Also write how long the guidance is, how sure the classifier and how much is clipped, at each step of the first
    batch: diagnostics.npz and diagnostics.png."""
    out: Path | None = None
    """Where samples.npz and grid.png go; by default a folder inside the run, named after the method."""
    overwrite: bool = False
    """Replace other samples in the output folder."""
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""
    shard_parameters: bool = False
    """Divide the parameters over the devices, for networks that do not fit on one."""


NO_MATTER = ("out", "overwrite", "devices", "batch_size", "shard_parameters")  # to the samples, but for rounding


def determining(options: Sampling) -> dict[str, Any]:
    """What determines the samples, as JSON holds it. The last checkpoint is not named: it was the only one there was when
    other requests were written."""
    unsaid = {*NO_MATTER, *(("checkpoint",) if options.checkpoint == "last" else ())}
    return {name: value for name, value in schema.to_dict(options).items() if name not in unsaid}


def trained(options: Sampling) -> dict[str, int | None]:
    """How far each network was trained whose weights draw the samples; None for one that there is not."""
    steps = {part: runs.step_of(options.run, part, options.checkpoint) for part in ("diffusion", "classifier")}
    bad = options.method.bad
    return steps | ({"bad": runs.step_of(bad, "diffusion", "last")} if bad else {})


Rule = tuple[Callable[[Any], bool], str]  # (whether a value is right, what is)
AT_LEAST_1: Rule = (lambda value: value >= 1, "at least 1")
POSITIVE: Rule = (lambda value: 0 < value < math.inf, "a finite number above 0")
NOT_NEGATIVE: Rule = (lambda value: 0 <= value < math.inf, "0 or a finite number above it")
FINITE: Rule = (lambda values: all(map(math.isfinite, values)), "finite numbers only")
RULES: dict[str, Rule] = {
    **dict.fromkeys(("batch_size", "factor", "repeats", "sweep_seeds"), AT_LEAST_1),
    **dict.fromkeys(("num_samples", "corrections"), (lambda value: value is None or value >= 1, "at least 1")),
    **dict.fromkeys(("temperature", "data_std", "langevin_size", "sigma_max"), POSITIVE),
    **dict.fromkeys(("noise_std", "blur_std", "churn"), NOT_NEGATIVE),
    "scale": (lambda values: bool(values) and FINITE[0](values), "one or more finite numbers, such as --scale 2"),
    "also_scale": FINITE,
    "eta": (lambda value: 0 <= value <= 1, "a number from 0 (no noise) to 1 (as much as ddpm)"),
}


def check(options: Sampling, run: runs.Run) -> None:
    """What can be wrong before anything is loaded, each in one sentence."""
    for name, value in flat(options).items():
        right, words = RULES.get(name, (lambda value: True, ""))
        if not right(value):
            raise ValueError(f"{_option(name)} is {value}; give {words}")
    method, needs = options.method, options.method.row.needs
    check_read(options)
    _check_sweep(options)
    _check_labels(options, run)
    if method.guidance.startswith("cfg++") and not samplers.row(method).reads_eps:
        raise ValueError(
            f"cfg++ leaves eps as it is, and {samplers.name_of(method)} reads x_0 alone; use --sampler ddim or deis"
        )
    if "bad" in needs and method.bad is None:
        raise ValueError("autoguidance needs a second model; name its run with --bad RUN")
    if "also" in needs and len(method.also_scale) not in (0, len(method.also)):
        raise ValueError(
            f"--also has {len(method.also)} labels and --also-scale {len(method.also_scale)}; give as many"
        )
    if "measurement" in needs:
        _check_measurement(method, run)
    if (run.experiment.diffusion.low_res is None) != (options.base_samples is None):
        wanted = (
            "leave out --base-samples" if options.base_samples else "name low-resolution pictures by --base-samples"
        )
        raise ValueError(f"this run is {'no' if options.base_samples else 'an'} upsampler; {wanted}")
    runs.variance_of(run, method.variance)
    if options.diagnose and run.experiment.diffusion.self_conditioning:
        raise ValueError("--diagnose asks a network that is not told its last x_0; leave it out for this run")
    if method.clip_base and (method.dynamic or not method.clip):
        raise ValueError("--clip-base is for one clip before the guidance; leave out +dynamic and --no-clip")
    if method.dynamic and not method.clip:
        raise ValueError("+dynamic is the clip that --no-clip leaves out; leave out one of the two")
    samplers.levels_of(method, run.levels)


def check_read(options: Sampling) -> None:
    """ValueError for an option that is not as it comes and that nothing chosen reads."""
    given, usual = flat(options), flat(Sampling(options.run))
    chosen = _chosen(options.method) | ({"--sweep"} if options.sweep.sweep else set())
    for name, readers in _readers().items():
        if given[name] != usual[name] and not chosen & set(readers):
            raise ValueError(f"{_option(name)} has no effect here; it goes with {' or '.join(readers)}")
    if options.scale != (1.0,) and not options.method.row.scaled:
        raise ValueError(f"--scale has no effect with --guidance {options.method.guidance}; leave it out")


def _chosen(method: Method) -> set[str]:
    """All that may read an option, in the words of `_readers`."""
    first, rest = methods.parse(method.guidance)
    chosen = {
        f"--guidance {first}",
        f"--sampler {samplers.name_of(method)}",
        f"--grid {samplers.grid_name(method)}",
        *(f"+{word}" for word in rest),
    }
    if method.shifts_mean:
        chosen.add("--guidance classifier --sampler ddpm")
    return chosen | ({f"--operator {method.measurement.operator}"} if "measurement" in method.row.needs else set())


def _readers() -> dict[str, list[str]]:
    """option -> who reads it, for all that not everything reads."""
    rows = (
        {f"--guidance {name}": row.reads for name, row in methods.GUIDANCES.items()}
        | {"--sweep": ("sweep_seeds", "reference", "judge", "inception")}
        | methods.READERS
        | samplers.readers()
    )
    found: dict[str, list[str]] = {}
    for reader, options in rows.items():
        for option in options:
            found.setdefault(option, []).append(reader)
    return found


def _check_sweep(options: Sampling) -> None:
    if options.sweep.sweep is None:
        return
    scales, first = options.sweep.scales, methods.parse(options.method.guidance)[0]
    if not options.method.row.scaled:
        raise ValueError(f"--sweep {options.sweep.sweep} has no effect with --guidance {first}; name a guidance")
    if options.scale != (1.0,):
        raise ValueError(f"--sweep goes through {len(scales)} scales by itself; leave out --scale")
    if options.diagnose:
        raise ValueError("--diagnose looks at one request; leave out --sweep")


def _check_labels(options: Sampling, run: runs.Run) -> None:
    method, needs, diffusion = options.method, options.method.row.needs, run.experiment.diffusion
    classes = run.facts.num_classes
    wrong = [label for label in (*(options.labels or ()), *method.any_of, *method.also) if not 0 <= label < classes]
    if wrong:
        raise ValueError(f"label {wrong[0]} is out of range; the run has the classes 0 to {classes - 1}")
    if "null" in needs and not diffusion.null_label:
        raise ValueError("this run was trained without label dropout; use --guidance classifier, or train with dropout")
    if ("conditional" in needs or (not method.row.labelled and options.labels)) and not diffusion.conditional:
        raise ValueError("this run's network takes no labels; use --guidance classifier, or leave --labels out")
    if method.any_of and options.labels:
        raise ValueError("--any-of stands in the place of --labels; give one of the two")
    if method.any_of and diffusion.conditional and not diffusion.null_label:
        raise ValueError("--any-of needs a model told no label; train with label dropout, or an unconditional network")
    if "also" in needs and not method.also:
        raise ValueError("compose needs further labels; name them with --also")
    if "negative" in needs and not 0 <= (-1 if method.negative is None else method.negative) < classes:
        raise ValueError(f"--negative is {method.negative}; name a class from 0 to {classes - 1} to go away from")


def _check_measurement(method: Method, run: runs.Run) -> None:
    if not method.measurement.measure:
        raise ValueError(f"{method.guidance} needs a measurement; name true pictures with --measure held-out or FILE")
    if "repeats" in method.row.reads and method.measurement.operator != "mask":
        raise ValueError(f"repaint fills holes only; use pigdm or dps for --operator {method.measurement.operator}")
    operator_of(method.measurement, run.facts.image_shape)


def flat(settings: Any) -> dict[str, Any]:
    """Every option by its name, those of nested settings too."""
    found: dict[str, Any] = {}
    for name, value in vars(settings).items():
        found |= flat(value) if dataclasses.is_dataclass(value) else {name: value}
    return found


def _option(name: str) -> str:
    return f"--{name.replace('_', '-')}"
