"""Everything that a run is: how its networks are trained, on what."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import optax
import tyro

from guided_jax import training
from guided_jax.app.settings.data import Data
from guided_jax.app.settings.networks import Encoder, UNet
from guided_jax.app.settings.noise import Schedule, Times, Weighting
from guided_jax.training import averaging


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
        """Return the optimizer of a training of so many steps."""
        rate = self._rate(num_steps)
        return training.optimizer(**rate, weight_decay=self.weight_decay, clip_norm=self.clip_norm)

    def schedule(self, num_steps: int) -> optax.Schedule:
        """Return the function step -> learning rate of `make`."""
        return training.learning_rate_schedule(**self._rate(num_steps))

    def _rate(self, num_steps: int) -> dict[str, Any]:
        warmup = min(self.warmup_steps, num_steps - 1)
        return {
            "learning_rate": self.learning_rate,
            "num_steps": num_steps,
            "warmup_steps": warmup,
            "decay": self.decay,
        }


@dataclasses.dataclass(frozen=True)
class Training:
    """How a network is trained, whichever it is."""

    num_steps: int = 1000
    """Training steps; 0 skips this network."""
    batch_size: int = 128
    checkpoint_every: int = 500
    log_every: int = 25
    eval_every: int = 250
    """Held-out metrics of the averaged weights every so many steps, and at the end; 0 for none."""
    eval_examples: int = 1000
    """How many held-out examples that takes, at most."""
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
    optimizer: Optimizer = dataclasses.field(default_factory=Optimizer)

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return the optimizer."""
        return self.optimizer.make(self.num_steps)


@dataclasses.dataclass(frozen=True)
class Diffusion(Training):
    """Training of the diffusion model."""

    num_steps: int = 1500
    """Training steps; 0 skips this network."""
    from_run: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """With num-steps 0, another run whose diffusion model is used, with its schedule: train only a classifier for it."""
    sample_every: int = 500
    """A grid of guided samples every so many steps; 0 for none."""
    measure_every: int = 0
    """Samples of the averaged weights are measured against held-out data every so many steps, and at the end; 0: never."""
    measure_samples: int = 500
    """How many that takes, of all classes alike."""
    measure_scale: float = 1.0
    """Their guidance strength; other than 1 for a network with a null label."""
    measure_judge: Path | None = None
    """A clean classifier by 'guided-jax judge': class accuracy, and the features, instead of pixels."""
    measure_inception: Path | None = None
    """Inception-v3's weights (.pt, .pth, .safetensors, .npz): its features, instead of the judge's or of pixels."""
    power_ema: tuple[float, ...] = ()
    """sigma_rel of averages by a power of the step, kept beside the usual one; with two, such as 0.05 0.1,
    guided-jax posthoc makes one of any length."""
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
    network: UNet = dataclasses.field(default_factory=UNet)

    def make_optimizer(self) -> optax.GradientTransformation:
        """The optimizer, with the averages that it keeps."""
        made = self.optimizer.make(self.num_steps)
        return averaging.with_averages(made, self.power_ema) if self.power_ema else made

    @property
    def null_label(self) -> bool:
        return self.conditional and self.label_dropout > 0


@dataclasses.dataclass(frozen=True)
class Classifier(Training):
    """Training of the noisy classifier."""

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
