"""The settings of an experiment: frozen dataclasses whose `make` turns them into what the library works with."""

import dataclasses
import functools
import importlib
import json
import pkgutil
import typing
from pathlib import Path
from typing import Annotated, Any, Literal

import jax.numpy as jnp
import optax
import tyro

import configs
from guided_jax import averaging, data, models, schedule, times, training, weighting

CHANNELS = {"as-is": None, "grey": 1, "grey-alpha": 2, "rgb": 3, "rgba": 4}


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the examples come from."""

    name: str = "digits"
    """Data set: digits (scikit-learn's 8x8 scans, embedded), tfds:NAME, folder:PATH, npz:PATH or idx:PATH."""
    dir: Path | None = None
    """Where prepared data is kept and relative paths begin; TensorFlow Datasets' own directory if not given."""
    split: str = "train"
    """The part to train with."""
    held_out: str = "test"
    """The part that is never trained with."""
    image_size: int | None = None
    """Side of the pictures in pixels; as they are if not given."""
    crop: Literal["centre", "random", "none"] = "centre"
    """How a picture becomes a square: its middle, a random part, or squeezed."""
    channels: Literal["as-is", "grey", "grey-alpha", "rgb", "rgba"] = "as-is"
    """What the pictures are converted to."""
    flip: bool = False
    """Mirror half of the training images."""
    labelled: bool = True
    """Whether classes are read; if not, all pictures are of one."""
    corrupt: Literal["refuse", "skip"] = "refuse"
    """What to do about a damaged picture; to skip them, all are read once at the start."""

    def make(self, held_out: bool = False) -> data.Source:
        """The pictures to train with, or the held-out ones, whose crops are never random."""
        split = self.held_out if held_out else self.split
        crop = "centre" if held_out and self.crop == "random" else self.crop
        channels = CHANNELS[self.channels]
        return data.load(self.name, split, self.dir, self.image_size, crop, channels, self.labelled, self.corrupt)


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise levels, shared by both networks."""

    name: Literal["linear", "cosine"] = "cosine"
    num_steps: int = 1000
    zero_terminal_snr: bool = False
    """Move the last level to pure noise and the others along; for x_0 and v, since an eps network says nothing there."""

    def make(self) -> schedule.NoiseLevel:
        levels = {"linear": schedule.linear, "cosine": schedule.cosine}[self.name](self.num_steps)
        return schedule.zero_terminal_snr(levels) if self.zero_terminal_snr else levels


@dataclasses.dataclass(frozen=True)
class Weighting:
    """How much the loss of each level counts."""

    name: Literal["none", "min-snr", "p2", "sigmoid", "edm"] = "none"
    """none: the plain mean square of what the network predicts."""
    min_snr_gamma: float = 5.0
    """min-snr: min(SNR, gamma) on the loss of x_0."""
    p2_gamma: float = 1.0
    """p2: 1 / (k + SNR)^gamma on the loss of eps."""
    p2_k: float = 1.0
    sigmoid_bias: float = 2.0
    """sigmoid: s(bias - log SNR) on the loss of eps, per unit of log SNR."""
    sigma_data: float = 0.5
    """edm: SNR + 1 / sigma_data^2 on the loss of x_0."""

    def make(self, levels: schedule.NoiseLevel, target: str) -> weighting.Weight | None:
        """level -> the weight of the loss that the network is trained on, None for the plain one."""
        if self.name == "none":
            return None
        of_x_0: dict[str, weighting.LogWeight] = {
            "min-snr": functools.partial(weighting.min_snr, gamma=self.min_snr_gamma),
            "p2": functools.partial(weighting.p2, gamma=self.p2_gamma, k=self.p2_k),
            "sigmoid": functools.partial(weighting.sigmoid, bias=self.sigmoid_bias),
            "edm": functools.partial(weighting.edm, sigma_data=self.sigma_data),
        }
        density = weighting.per_log_snr(levels) if self.name == "sigmoid" else lambda level: jnp.ones_like(level.t)
        return lambda level: density(level) * weighting.of_loss(of_x_0[self.name], level, target)


@dataclasses.dataclass(frozen=True)
class Times:
    """Which steps the examples are noised to."""

    law: Literal["uniform", "logit-normal"] = "uniform"
    mean: float = 0.0
    """logit-normal: of log(t / (T - t)); above 0 nearer to noise."""
    std: float = 1.0
    """logit-normal: the smaller, the nearer to the middle."""
    stratified: bool = False
    """Each example of a batch draws from its own part of the law, as many equal parts as examples."""

    def make(self) -> times.Law | None:
        """u -> t / T; None for the uniform law."""
        return None if self.law == "uniform" else functools.partial(times.logit_normal, mean=self.mean, std=self.std)


@dataclasses.dataclass(frozen=True)
class UNet:
    """The network of the diffusion model."""

    model_channels: int = 32
    channel_mult: tuple[int | float, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (2, 4)
    """Downsampling factors of the levels that attend."""
    num_head_channels: int | None = 32
    """Channels of an attention head; None: num_heads of them at every width."""
    num_heads: int = 4
    resblock_updown: bool = True
    """Resample within residual blocks, as ADM; else by a convolution."""
    num_groups: int = 8
    patch: int = 1
    """Side of the squares of pixels that count as one pixel of more channels: a quarter of the time for 2."""
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in. Parameters, norms, optimizer and sampler stay float32."""
    use_scale_shift_norm: bool = True
    """Time and label scale and shift the second norm of a block; else they are added before it."""
    conv_resample: bool = True
    """Without resblock_updown: resample by a convolution; else without parameters."""
    attention_kernel: Literal["plain", "xla", "cudnn"] = "plain"
    """cudnn: flash attention, for NVIDIA GPUs and bfloat16."""
    use_new_attention_order: bool = False
    """The order of q, k and v and of the heads in ADM's 64x64 model."""

    def make(self, out_channels: int, num_classes: int | None, null_label: bool) -> models.UNet:
        fields = {**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)}
        return models.UNet(out_channels=out_channels, num_classes=num_classes, null_label=null_label, **fields)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The network of the noisy classifier: the U-Net's way down and a pool."""

    model_channels: int = 32
    channel_mult: tuple[int | float, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (2, 4)
    """Downsampling factors of the levels that attend."""
    num_head_channels: int | None = 32
    """Channels of an attention head; None: num_heads of them at every width."""
    num_heads: int = 4
    resblock_updown: bool = True
    """Resample within residual blocks, as ADM; else by a convolution."""
    num_groups: int = 8
    patch: int = 1
    """Side of the squares of pixels that count as one pixel of more channels: a quarter of the time for 2."""
    dropout: float = 0.0
    dtype: Literal["float32", "bfloat16"] = "float32"
    """What the network computes in. Parameters, norms, optimizer and sampler stay float32."""
    use_scale_shift_norm: bool = True
    """Time and label scale and shift the second norm of a block; else they are added before it."""
    conv_resample: bool = True
    """Without resblock_updown: resample by a convolution; else without parameters."""
    attention_kernel: Literal["plain", "xla", "cudnn"] = "plain"
    """cudnn: flash attention, for NVIDIA GPUs and bfloat16."""
    use_new_attention_order: bool = False
    """The order of q, k and v and of the heads in ADM's 64x64 model."""
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"

    def make(self, num_classes: int) -> models.Classifier:
        fields = {**dataclasses.asdict(self), "dtype": jnp.dtype(self.dtype)}
        return models.Classifier(num_classes=num_classes, **fields)


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up, decay and a bound on the gradient's norm."""

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float | None = 1.0
    """The gradient's norm is brought down to this; None leaves it as it is."""

    def make(self, num_steps: int) -> optax.GradientTransformation:
        settings = dataclasses.asdict(self)
        warmup = min(settings.pop("warmup_steps"), num_steps - 1)
        return training.optimizer(num_steps=num_steps, warmup_steps=warmup, **settings)


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Training of the diffusion model."""

    num_steps: int = 1500
    """Training steps; 0 skips this network."""
    from_run: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """With num-steps 0, another run whose diffusion model is used, with its schedule: train only a classifier for it."""
    batch_size: int = 128
    checkpoint_every: int = 500
    log_every: int = 25
    sample_every: int = 500
    """A grid of guided samples every so many steps; 0 for none."""
    eval_every: int = 250
    """Held-out loss of the averaged weights every so many steps, and at the end; 0 for none."""
    eval_examples: int = 1000
    """How many held-out examples that takes, at most."""
    measure_every: int = 0
    """Samples of the averaged weights are measured against held-out data every so many steps, and at the end; 0: never."""
    measure_samples: int = 500
    """How many that takes, of all classes alike."""
    measure_scale: float = 1.0
    """Their guidance strength; other than 1 for a network with a null label."""
    measure_judge: Path | None = None
    """A clean classifier by 'python -m configs.judge': class accuracy, and the features, instead of pixels."""
    measure_inception: Path | None = None
    """Inception-v3's weights (.pt, .pth, .safetensors, .npz): its features, instead of the judge's or of pixels."""
    keep: int = 2
    """How many of the last checkpoints stay."""
    keep_best: bool = True
    """Keep the best checkpoint as well."""
    keep_best_by: str = "held_out_loss"
    """The metric by which it is the best, one of metrics.jsonl's: a held-out one, or of the measured samples, such as
    samples_fd."""
    microbatches: int = 1
    """Parts in which each device works through its share of a batch: less memory, the same gradient. Slow on CPU."""
    remat: bool = False
    """Compute the inside of each block again for its gradient: less memory, about a third more time."""
    remat_keep: Literal["nothing", "products"] = "nothing"
    """With remat: products computes norms and activations again, and keeps convolutions and matrix products."""
    steps_per_dispatch: int = 1
    """Training steps compiled into one call, for accelerators that outrun Python; without effect on CPU."""
    ema_decay: float = 0.995
    power_ema: tuple[float, ...] = ()
    """sigma_rel of averages by a power of the step, kept beside the usual one; with two, such as 0.05 0.1, configs.posthoc
    makes one of any length."""
    snapshot_every: int = 100
    """With power_ema: the averages are stored every so many steps, and at the end; all of them stay."""
    parameterization: Literal["eps", "x_0", "v"] = "eps"
    """What the network predicts."""
    weighting: Weighting = dataclasses.field(default_factory=Weighting)
    times: Times = dataclasses.field(default_factory=Times)
    self_conditioning: bool = False
    """Whether the network is told its last x_0, in as many channels again; a third more operations a step."""
    learned_variance: bool = False
    """Whether the network also tells the variance of a step, in as many channels again."""
    conditional: bool = True
    """Whether the network is told the label."""
    label_dropout: float = 0.15
    """How often the label is withheld, for classifier-free guidance; above 0 adds a null label to the network."""
    low_res: int | None = None
    """Side of the low-resolution picture that the network is given too; None for a network that is given none."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    network: UNet = dataclasses.field(default_factory=UNet)

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimizer, with the averages that it keeps."""
        made = self.optimizer.make(self.num_steps)
        return averaging.averaged(made, self.power_ema) if self.power_ema else made

    @property
    def null_label(self) -> bool:
        return self.conditional and self.label_dropout > 0


@dataclasses.dataclass(frozen=True)
class Classifier:
    """Training of the noisy classifier."""

    num_steps: int = 1000
    """Training steps; 0 skips this network."""
    batch_size: int = 128
    checkpoint_every: int = 500
    log_every: int = 25
    eval_every: int = 250
    """Held-out loss and accuracy of the averaged weights every so many steps, and at the end; 0 for none."""
    eval_examples: int = 1000
    """How many held-out examples that takes, at most."""
    keep: int = 2
    """How many of the last checkpoints stay."""
    keep_best: bool = True
    """Keep the best checkpoint as well."""
    keep_best_by: str = "held_out_loss"
    """The metric by which it is the best, one of metrics.jsonl's, such as held_out_accuracy."""
    microbatches: int = 1
    """Parts in which each device works through its share of a batch: less memory, the same gradient. Slow on CPU."""
    remat: bool = False
    """Compute the inside of each block again for its gradient: less memory, about a third more time."""
    remat_keep: Literal["nothing", "products"] = "nothing"
    """With remat: products computes norms and activations again, and keeps convolutions and matrix products."""
    steps_per_dispatch: int = 1
    """Training steps compiled into one call, for accelerators that outrun Python; without effect on CPU."""
    ema_decay: float = 0.995
    optimizer: Optimizer = dataclasses.field(default_factory=lambda: Optimizer(weight_decay=0.05))
    network: Encoder = dataclasses.field(default_factory=Encoder)

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimizer."""
        return self.optimizer.make(self.num_steps)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """Everything that a run is; saved with it as config.json."""

    data: Data = dataclasses.field(default_factory=Data)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    diffusion: Diffusion = dataclasses.field(default_factory=Diffusion)
    classifier: Classifier = dataclasses.field(default_factory=Classifier)
    seed: int = 0
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""
    tensorboard: bool = True
    """Keep an event file for TensorBoard beside each metrics.jsonl."""
    shard_parameters: bool = False
    """Divide parameters and optimizer over the devices, for networks that do not fit on one; in one process."""


# What may change between two starts of one run: none of these changes what the network is or what it has learned.
MAY_CHANGE = (
    *("devices", "shard_parameters", "tensorboard", "data.dir", "data.corrupt", "data.held_out", "diffusion.from_run"),
    *(
        f"{part}.{name}"
        for part in ("diffusion", "classifier")
        for name in (
            *("num_steps", "checkpoint_every", "log_every", "sample_every", "eval_every", "eval_examples"),
            *("measure_every", "measure_samples", "measure_scale", "measure_judge", "measure_inception"),
            *("keep", "keep_best", "keep_best_by", "snapshot_every"),
            *("microbatches", "remat", "remat_keep", "steps_per_dispatch"),  # to rounding: another order of sums
        )
    ),
)


def names() -> list[str]:
    """The experiments that there are: modules of `configs` with an EXPERIMENT."""
    found = [module.name for module in pkgutil.iter_modules(configs.__path__)]
    return [name for name in found if hasattr(importlib.import_module(f"configs.{name}"), "EXPERIMENT")]


def named(name: str) -> Experiment:
    """The experiment of that name; ValueError lists those that there are."""
    if name not in names():
        raise ValueError(f"there is no experiment {name!r}; there is {', '.join(names())}")
    return importlib.import_module(f"configs.{name}").EXPERIMENT


def to_dict(settings: Any) -> dict[str, Any]:
    """A dataclass as JSON holds it: paths as text, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(settings), default=str))


def from_dict(values: dict[str, Any], kind: Any = Experiment) -> Any:
    """The experiment back from JSON; ValueError for a field that this version does not know."""
    hints = typing.get_type_hints(kind)
    unknown = set(values) - {field.name for field in dataclasses.fields(kind)}
    if unknown:
        raise ValueError(
            f"{kind.__name__} has no field {', '.join(sorted(unknown))}; was the run made by a newer version?"
        )
    return kind(**{name: _read(value, hints[name]) for name, value in values.items()})


def _read(value: Any, hint: Any) -> Any:
    if dataclasses.is_dataclass(hint):
        return from_dict(value, hint)
    if isinstance(value, list):
        return tuple(value)
    return Path(value) if value is not None and Path in (hint, *typing.get_args(hint)) else value
