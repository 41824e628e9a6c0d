"""The settings of an experiment: frozen dataclasses whose `make` turns them into what the library works with."""

import dataclasses
import importlib
import json
import pkgutil
import typing
from pathlib import Path
from typing import Any, Literal

import optax

import configs
from guided_jax import models, schedule, training


@dataclasses.dataclass(frozen=True)
class Data:
    """Where the examples come from."""

    name: str = "digits"
    """Data set: digits (scikit-learn's 8x8 scans, embedded)."""
    dir: Path | None = None
    """Where prepared data is kept; TensorFlow Datasets' own directory if not given."""
    flip: bool = False
    """Mirror half of the training images."""


@dataclasses.dataclass(frozen=True)
class Schedule:
    """The noise levels, shared by both networks."""

    name: Literal["linear", "cosine"] = "cosine"
    num_steps: int = 1000

    def make(self) -> schedule.NoiseLevel:
        return {"linear": schedule.linear, "cosine": schedule.cosine}[self.name](self.num_steps)


@dataclasses.dataclass(frozen=True)
class UNet:
    """The network of the diffusion model."""

    model_channels: int = 32
    channel_mult: tuple[int | float, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (2, 4)
    """Downsampling factors of the levels that attend."""
    num_head_channels: int = 32
    resblock_updown: bool = True
    """Resample within residual blocks, as ADM; else by a convolution."""
    num_groups: int = 8
    dropout: float = 0.0

    def make(self, out_channels: int, num_classes: int | None, null_label: bool) -> models.UNet:
        fields = dataclasses.asdict(self)
        return models.UNet(out_channels=out_channels, num_classes=num_classes, null_label=null_label, **fields)


@dataclasses.dataclass(frozen=True)
class Encoder:
    """The network of the noisy classifier: the U-Net's way down and a pool."""

    model_channels: int = 32
    channel_mult: tuple[int | float, ...] = (1, 2, 2)
    num_res_blocks: int = 1
    attention_resolutions: tuple[int, ...] = (2, 4)
    """Downsampling factors of the levels that attend."""
    num_head_channels: int = 32
    resblock_updown: bool = True
    """Resample within residual blocks, as ADM; else by a convolution."""
    num_groups: int = 8
    dropout: float = 0.0
    pool: Literal["attention", "adaptive", "spatial", "spatial_v2"] = "attention"

    def make(self, num_classes: int) -> models.Classifier:
        return models.Classifier(num_classes=num_classes, **dataclasses.asdict(self))


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up, decay and a bound on the gradient's norm."""

    learning_rate: float = 1e-3
    warmup_steps: int = 100
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    weight_decay: float = 0.0
    clip_norm: float = 1.0

    def make(self, num_steps: int) -> optax.GradientTransformation:
        settings = dataclasses.asdict(self)
        warmup = min(settings.pop("warmup_steps"), num_steps - 1)
        return training.optimizer(num_steps=num_steps, warmup_steps=warmup, **settings)


@dataclasses.dataclass(frozen=True)
class Diffusion:
    """Training of the diffusion model."""

    num_steps: int = 1500
    """Training steps; 0 skips this network."""
    batch_size: int = 128
    checkpoint_every: int = 500
    log_every: int = 25
    sample_every: int = 500
    """A grid of guided samples every so many steps; 0 for none."""
    ema_decay: float = 0.995
    parameterization: Literal["eps", "x_0", "v"] = "eps"
    """What the network predicts."""
    conditional: bool = True
    """Whether the network is told the label."""
    label_dropout: float = 0.15
    """How often the label is withheld, for classifier-free guidance; above 0 adds a null label to the network."""
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)
    network: UNet = dataclasses.field(default_factory=UNet)

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
    ema_decay: float = 0.995
    optimizer: Optimizer = dataclasses.field(default_factory=lambda: Optimizer(weight_decay=0.05))
    network: Encoder = dataclasses.field(default_factory=Encoder)


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


# What may change between two starts of one run: none of these changes what the network is or what it has learned.
MAY_CHANGE = (
    "devices",
    "data.dir",
    *(f"{part}.num_steps" for part in ("diffusion", "classifier")),
    *(f"{part}.{what}_every" for part in ("diffusion", "classifier") for what in ("checkpoint", "log", "sample")),
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


def to_dict(experiment: Experiment) -> dict[str, Any]:
    """As JSON holds it: paths as text, tuples as lists."""
    return json.loads(json.dumps(dataclasses.asdict(experiment), default=str))


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
