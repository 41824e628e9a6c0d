"""The settings of an experiment: its networks, how each is trained, and on which data."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import optax
import tyro

from guided_jax import training
from guided_jax.app.settings.data import Data
from guided_jax.app.settings.networks import AutoencoderKL, DiT, Encoder, UNet
from guided_jax.app.settings.noise import Schedule, Times, Weighting
from guided_jax.training import averaging


@dataclasses.dataclass(frozen=True)
class Optimizer:
    """AdamW with warm-up, decay of the learning rate, and a clip of the gradient's norm."""

    learning_rate: float = 1e-3
    """The learning rate after the warm-up."""
    warmup_steps: int = 100
    """Steps of the linear rise to the learning rate."""
    decay: Literal["constant", "linear", "cosine"] = "cosine"
    """How the learning rate falls to 0 at the last step; constant: it does not."""
    weight_decay: float = 0.0
    """Of AdamW."""
    clip_norm: float | None = 1.0
    """Largest norm of the gradient, which is scaled down to it; None for no clip."""

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
    """The settings of training that all networks have."""

    num_steps: int = 1000
    """Training steps; 0 skips this network."""
    init_from: Path | None = None
    """Another run whose averaged weights of this network are those before the first step: fine-tuning."""
    batch_size: int = 128
    """Examples per step, over all devices."""
    checkpoint_every: int = 500
    """Steps between checkpoints; there is one at the end too."""
    log_every: int = 25
    """Steps between rows of metrics.jsonl."""
    eval_every: int = 250
    """Steps between held-out metrics of the averaged weights, which are computed at the end too; 0 for none."""
    eval_examples: int = 1000
    """How many held-out examples they use at most."""
    keep: int = 2
    """How many of the last checkpoints are kept."""
    keep_best: bool = True
    """Keep the best checkpoint as well."""
    keep_best_by: str = "held_out_loss"
    """The metric that chooses the best checkpoint, by its name in metrics.jsonl: a held-out metric, or one of samples, such
    as samples_fd."""
    microbatches: int = 1
    """Parts of a device's share of a batch, computed one after the other: less memory, the same gradient. Slow on CPU."""
    remat: bool = False
    """Recompute the inside of each block for its gradient: less memory, about a third more time."""
    remat_keep: Literal["nothing", "products"] = "nothing"
    """With remat: products recomputes norms and activations, and keeps convolutions and matrix products."""
    steps_per_dispatch: int = 1
    """Training steps compiled into one call, for accelerators that outrun Python; without effect on CPU."""
    ema_decay: float = 0.995
    """Decay of the exponential moving average of the weights, which samples are drawn with; 0 for no average."""
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
    """With num-steps 0, another run whose diffusion model and schedule are used, to train a classifier for it."""
    sample_every: int = 500
    """Steps between grids of guided samples; 0 for none."""
    measure_every: int = 0
    """Steps between metrics of samples against held-out data, which are computed at the end too; 0 for none."""
    measure_samples: int = 500
    """How many samples they use, as many of every class."""
    measure_scale: float = 1.0
    """Guidance strength of these samples; other than 1 needs a network with a null label."""
    measure_judge: Path | None = None
    """A judge by 'guided-jax judge': gives class accuracy, and features in place of pixels."""
    measure_inception: Path | None = None
    """Inception-v3's weights (.pt, .pth, .safetensors, .npz): its features in place of the judge's or of pixels."""
    measure_dino: Path | None = None
    """DINOv2's weights (.pth, .pt, .safetensors, .npz): FD-DINOv2 beside the others, or all by it in place of pixels."""
    power_ema: tuple[float, ...] = ()
    """sigma_rel of averages by a power of the step, beside the usual one; from two, such as 0.05 0.1, guided-jax posthoc
    makes one of any length."""
    snapshot_every: int = 100
    """With power_ema: steps between stored averages, which are stored at the end too and all kept."""
    parameterization: Literal["eps", "x_0", "v", "score", "flow"] = "eps"
    """What the network predicts."""
    weighting: Weighting = dataclasses.field(default_factory=Weighting)
    times: Times = dataclasses.field(default_factory=Times)
    self_conditioning: bool = False
    """The network takes its last x_0 too, in as many additional channels; a third more operations a step."""
    learned_variance: bool = False
    """The network predicts the variance of a step too, in as many additional channels."""
    conditional: bool = True
    """The network takes the label."""
    label_dropout: float = 0.15
    """Probability of replacing the label by the null label, for classifier-free guidance; 0 for no null label."""
    low_res: int | None = None
    """Side of the low-resolution picture that an upsampler takes too; None for any other network."""
    architecture: Literal["unet", "dit"] = "unet"
    """Which network it is: the U-Net, with the options of `network`, or a transformer, with those of `transformer`."""
    network: UNet = dataclasses.field(default_factory=UNet)
    transformer: DiT = dataclasses.field(default_factory=DiT)
    internal_weight: float = 0.5
    """With an internal_head of network or transformer: weight of the loss of that head."""
    distill_from: Path | None = None
    """Another run, of the same network and with a null label: learn what it predicts with classifier-free guidance, in one
    call that is told the scale, from its weights on."""
    distill_scales: tuple[float, float] = (1.0, 4.0)
    """With distill_from: the least and the greatest scale that it learns."""

    def make_optimizer(self) -> optax.GradientTransformation:
        """Return the optimizer, with the averages by a power of the step."""
        optimizer = self.optimizer.make(self.num_steps)
        return averaging.with_averages(optimizer, self.power_ema) if self.power_ema else optimizer

    @property
    def null_label(self) -> bool:
        """Return whether the network has a null label."""
        return self.conditional and self.label_dropout > 0


@dataclasses.dataclass(frozen=True)
class Classifier(Training):
    """Training of the noisy classifier."""

    optimizer: Optimizer = dataclasses.field(default_factory=lambda: Optimizer(weight_decay=0.05))
    network: Encoder = dataclasses.field(default_factory=Encoder)


@dataclasses.dataclass(frozen=True)
class Autoencoder(Training):
    """Training of the autoencoder; with one, the other networks work on its latents."""

    num_steps: int = 0
    """Training steps, before those of the other networks; 0: no autoencoder, the other networks work on pixels."""
    from_run: Annotated[Path | None, tyro.conf.arg(name="from")] = None
    """Another run whose trained autoencoder is used, with its settings."""
    distance: Literal["l1", "l2"] = "l1"
    """Of a picture from its reconstruction: the mean absolute, or squared, difference."""
    kl_weight: float = 1e-6
    """Weight of the Kullback-Leibler divergence of a latent from normal noise, in nats per number of the picture."""
    perceptual_weight: float = 0.0
    """Weight of the distance between the features that a judge has of a picture and of its reconstruction."""
    perceptual_judge: Path | None = None
    """That judge, by 'guided-jax judge'. Measure samples with another one."""
    reconstruct_every: int = 500
    """Steps between grids of held-out pictures with their reconstructions; 0 for none."""
    latent_dtype: Literal["float32", "float16"] = "float32"
    """Type of the latents on disk."""
    network: AutoencoderKL = dataclasses.field(default_factory=AutoencoderKL)


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The settings of a run, saved with it as config.json."""

    data: Data = dataclasses.field(default_factory=Data)
    schedule: Schedule = dataclasses.field(default_factory=Schedule)
    diffusion: Diffusion = dataclasses.field(default_factory=Diffusion)
    classifier: Classifier = dataclasses.field(default_factory=Classifier)
    autoencoder: Autoencoder = dataclasses.field(default_factory=Autoencoder)
    seed: int = 0
    """The seed of weights, noise and the order of the data."""
    devices: int | None = None
    """How many devices to use; if not given, the largest count that divides the batch."""
    tensorboard: bool = True
    """Write an event file for TensorBoard beside each metrics.jsonl."""
    shard_parameters: bool = False
    """Divide parameters and optimizer over the devices of all processes, for networks that do not fit on one device."""
    shard_group: int | None = None
    """With --shard-parameters: divide them over so many neighbouring devices, such as those of one machine, and let each
    group of them hold a copy. Default: over all devices."""

    @property
    def latent(self) -> bool:
        """Return whether the diffusion model and the classifier work on the latents of an autoencoder."""
        return self.autoencoder.num_steps > 0


PARTS = ("diffusion", "classifier")  # the networks that samples are drawn with
TRAINED = ("autoencoder", *PARTS)  # the networks of an experiment, in the order of their training

# Settings that may change between two starts of a run: they change neither the network nor what it has learned.
MAY_CHANGE = (
    *("devices", "shard_parameters", "shard_group", "tensorboard", "data.dir", "data.corrupt", "data.held_out"),
    *("diffusion.from_run", "autoencoder.from_run", "autoencoder.latent_dtype"),
    *(
        f"{part}.{name}"
        for part in TRAINED
        for name in (
            *("num_steps", "checkpoint_every", "log_every", "sample_every", "reconstruct_every"),
            *("eval_every", "eval_examples", "measure_every", "measure_samples", "measure_scale"),
            *("measure_judge", "measure_inception", "measure_dino"),
            *("keep", "keep_best", "keep_best_by", "snapshot_every"),
            *("microbatches", "remat", "remat_keep", "steps_per_dispatch"),  # up to rounding: another order of sums
        )
    ),
)
