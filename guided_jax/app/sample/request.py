"""What `guided-jax sample` and `guided-jax sweep` are asked for: pure data, which everything else in this folder reads."""

import dataclasses
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from guided_jax.app.sample.annealing import Annealing
from guided_jax.app.sample.sections import Measurement, TrainingFree
from guided_jax.app.sample.text_options import Text
from guided_jax.app.settings import to_dict
from guided_jax.app.trained_weights import Which

Variance = Literal["small", "large", "learned"]  # of a step of ddpm
Label = int | str  # a class by its number, or by its name until `labels.resolve_labels` has replaced it
HELD_OUT, TRAIN = "held-out", "train"  # the run's own data
CLASSIFIER, CLIP = "classifier", "clip"  # of --criterion; the first is the default

DataDir = Annotated[Path | None, tyro.conf.arg(name="data.dir")]  # as `guided-jax train` spells it


@dataclasses.dataclass(frozen=True)
class Method:
    """How to draw: the guidance and the sampler."""

    guidance: str = "none"
    """One of those that --list prints, such as classifier or classifier-free, then any of +interval +rescale +channels
    +ramp +anneal +dynamic. none with --labels is the plain conditional model. Default with --prompt: classifier-free."""
    sampler: str | None = None
    """One of those that --list prints. Default: dpm++, or ddim for cfg++, measurements and ADM's forms of --steps, or ddpm
    with --particles."""
    steps: str | None = None
    """The number of levels to visit. Default: the sampler's own, see --list. On the grid respaced also ddim50, or
    10,15,20."""
    grid: str | None = None
    """How the levels are spread, one of those that --list prints. Default: the sampler's own."""
    sigma_max: float = 80.0
    """--grid log-snr, karras: the greatest sigma / alpha, where sampling starts."""
    particles: int | None = None
    """Draw the law that the guidance names itself, by so many weighted examples for each sample, one of which is kept:
    classifier-free, universal, off-the-shelf, clip and mmps. The default --sampler is then ddpm."""
    order: Literal[1, 2, 3] | None = None
    """dpm++ and unipc (default 2), deis (default 3)."""
    eta: float = 0.0
    """Noise of ddim, dpm++, dpm++2s, reverse-sde: 0 for none, 1 for as much as ddpm or the reverse SDE."""
    churn: float = 0.0
    """heun: noise added back before each step, EDM's S_churn / steps."""
    langevin_size: float = 0.1
    """langevin, predictor-corrector: the length of a Langevin step, over sigma^2."""
    corrections: int | None = None
    """langevin (default 10), predictor-corrector (default 1): Langevin steps at each level."""
    variance: Variance | None = None
    """Variance of a step of ddpm. Default: the learned one of a network that learned it, else small."""
    at: Literal["x_t", "mean"] = "x_t"
    """Where algorithm 1 takes the classifier's gradient."""
    clip: bool = True
    """Clip the (guided) predicted clean image to [-1, 1]; latents have no range and are never clipped."""
    space: Annotated[Literal["pixels", "latents"] | None, tyro.conf.arg(name="in")] = None
    """universal, off-the-shelf, training-free, and all that --measure goes with, of a run of latents: what the criterion or
    the measurement sees, the latents or, through the decoder, the pixels. Default: latents."""
    clean_classifier: Path | None = None
    """universal, off-the-shelf, training-free: the folder of a classifier of clean pictures by 'guided-jax judge' that
    guides, instead of the run's noisy one. Measure the samples by another one than this."""
    clip_model: Path | None = None
    """clip: the folder of the CLIP that guides, as transformers or OpenCLIP save it. Measure by another one than this."""
    clip_text: tuple[str, ...] = ()
    """clip: what every sample is drawn towards, all at once, each with its weight after a colon, below 0 to lead away: "a
    zebra" "a horse:-0.5". Default: of text-to-image runs each sample's own prompt."""
    cutouts: int = 16
    """clip: how many random crops of the picture it sees at each step."""
    tv_weight: float = 0.0
    """clip: weight of the total variation of the predicted picture, which is to be small: smoother pictures."""
    range_weight: float = 0.0
    """clip: weight of the squared distance of the predicted pixels from [-1, 1], which is to be small."""
    criterion: str = CLASSIFIER
    """training-free, universal, off-the-shelf: what guides: classifier, clip (with the options of --guidance clip),
    colour:R,G,B (0 to 255, the mean of the picture), picture:FILE (similar pixels), style:FILE (similar patches, anywhere),
    or FILE.py:function of your own, (picture in [-1, 1], level) -> a scalar that is to be large. The file is executed."""
    training_free: tyro.conf.OmitArgPrefixes[TrainingFree] = dataclasses.field(default_factory=TrainingFree)
    clip_base: bool = False
    """Clip the network's own prediction instead, before the guidance, which is ADM's order."""
    any_of: tuple[Label, ...] = ()
    """classifier, off-the-shelf, universal, training-free: draw any of these labels, instead of --labels."""
    temperature: float = 1.0
    """classifier, off-the-shelf, universal, training-free: what the classifier's logits are divided by."""
    also: tuple[Label, ...] = ()
    """compose: further labels, each with its --also-scale: AND above 0, NOT below."""
    also_scale: tuple[float, ...] = ()
    """compose: the strength of each label of --also. Default: --scale for all."""
    interval_low: float = 0.0
    """+interval: guide above this sigma / alpha."""
    interval_high: float = 5.0
    """+interval: guide up to this sigma / alpha."""
    guided_channels: int = 3
    """+channels: how many channels of x are guided, the first ones; 3 of 4 for DiT and SiT, as their authors did."""
    rescale_mix: float = 0.7
    """+rescale: 0 changes nothing, 1 rescales in full."""
    anneal: tyro.conf.OmitArgPrefixes[Annealing] = dataclasses.field(default_factory=Annealing)
    negative: Label | None = None
    """negative: the label to go away from. Text-to-image runs: the negative prompt, of classifier-free and its kin too."""
    momentum: float = -0.5
    """projected: of the direction, over the steps."""
    radius: float = 2.5
    """projected: the direction's greatest length."""
    stop_cosine: float = 0.991
    """adaptive: guide until the cosine of c and u, of x_0, is above this; 1 for classifier-free."""
    every: int = 2
    """reused: the number of steps from one call of the model without the label to the next; 1 for classifier-free."""
    coarse_scales: tuple[float, ...] = (1.0,)
    """frequency-decoupled: the scale of each coarser band of c - u, each of half the size;
    --scale is that of the finest."""
    renoise: float = 1.0
    """gibbs-like: the sigma / alpha up to which a sample is noised again, and below which it is guided."""
    damping: float = 8.0
    """magnitude-aware: how fast the guidance shrinks with |c - u| / |u|; 0 for classifier-free."""
    perturb_blocks: tuple[str, ...] = ()
    """perturbed-attention, smoothed-energy: the blocks whose attention is replaced, by name, or by number those of a
    transformer. Default: the middle one."""
    skip_blocks: tuple[str, ...] = ()
    """skip-layer: the blocks that are left out. Default: an eighth of them after the first 7/24, as for SD 3.5."""
    exit_block: str | None = None
    """internal: the block after which the bad model's output is read. Default: the one with a head, or the middle one."""
    label_scale: float | None = None
    """perturbed-attention, smoothed-energy, skip-layer, internal, classifier, clip, universal, off-the-shelf,
    training-free: the scale of classifier-free guidance beside them."""
    blur: float = 1.0
    """self-attention: the standard deviation of the blur of x_0, in pixels; of latents in theirs, of which each is several
    of the picture's."""
    attention_mask: bool = False
    """self-attention: blur only where the middle block attends more than on average, for one more call of the network."""
    bad: Path | None = None
    """autoguidance: the run of a smaller or less trained model. domain: that which this one was fine-tuned from."""
    measurement: tyro.conf.OmitArgPrefixes[Measurement] = dataclasses.field(default_factory=Measurement)
    image: tuple[str, ...] = ()
    """Start from these pictures instead of noise, in turn over the samples: named as --measure names pictures."""
    strength: float | None = None
    """--image: the share of the steps that are run, as in diffusers; the pictures are noised to where these begin. Default:
    0.6; with --mask 1, from noise alone."""
    control: Path | None = None
    """Stable Diffusion: the folder of a ControlNet, which steers by the pictures of --control-image."""
    control_image: tuple[str, ...] = ()
    """--control: what it reads, such as edges or poses, of the size that is drawn, in turn over the samples: an npz file,
    or picture files."""
    control_scale: float = 1.0
    """--control: how much it adds; 0 for nothing."""


@dataclasses.dataclass(frozen=True)
class Sweep:
    """Draw at several scales and seeds, measure the samples, and make one page of it, sweep.html."""

    sweep: Annotated[str | None, tyro.conf.arg(aliases=["--scales"])] = None
    """The scales: 0:8 for 0, 1 .. 8, 0:8:0.5 in steps of 0.5, or 0,1,2.5; also written scale=0:8."""
    sweep_seeds: Annotated[int, tyro.conf.arg(aliases=["--seeds"])] = 3
    """The number of seeds at each scale, from --seed on; error bars are their standard deviation."""
    reference: str = HELD_OUT
    """What samples are measured against: held-out or train (the run's own data), or an npz file such as samples.npz."""
    judge: Path | None = None
    """A clean classifier by 'guided-jax judge', for class accuracy and features. Default: RUN/judge, which is trained
    first, on the run's own data, where there is none."""
    inception: Path | None = None
    """Measure in the features of Inception-v3 with these weights (.pt, .pth, .safetensors, .npz), not in the judge's."""
    search: bool = False
    """training-free: search --rho, --mu and --smoothing by beam search instead, with 64 samples each; search.json."""
    dino: Path | None = None
    """Measure FD-DINOv2 too, with these weights of DINOv2 (.pth, .pt, .safetensors, .npz)."""


@dataclasses.dataclass(frozen=True)
class Sampling:
    """Draw guided samples from a trained run."""

    run: tyro.conf.Positional[Path]
    """A run directory, as `guided-jax train` and `guided-jax convert` make it, or a folder of diffusers."""
    method: tyro.conf.OmitArgPrefixes[Method] = dataclasses.field(default_factory=Method)
    preset: bool = False
    """Draw as the authors of a published model did; options that are given as well count more."""
    scale: tuple[float, ...] = (1.0,)
    """Guidance strength: 0 ignores the label, 1 is the exact conditional, above 1 is sharper. Several: one for each
    round of the labels, in turn."""
    labels: tuple[Label, ...] | None = None
    """Classes, by number or by name, in turn over the samples. Where pictures have several labels at once, 3,7 for each
    sample, or none; where they have a vector, 0.3,1.2. Default: drawn by the data's frequencies."""
    prompt: tuple[str, ...] = ()
    """Text-to-image runs: what to draw, in turn over the samples; instead of --labels."""
    prompts: Path | None = None
    """Text-to-image runs: a file of prompts, after those of --prompt: .txt with one on each line; .jsonl with an object on
    each line, {"prompt": "a cat", "negative": "blurry", "scale": 5, "seed": 3}, all but the first of which may be missing;
    or .npz with the states of the text towers, context (n, tokens, width) and of XL pooled (n, width)."""
    text: tyro.conf.OmitArgPrefixes[Text] = dataclasses.field(default_factory=Text)
    negative_prompt: tyro.conf.Suppress[tuple[str | None, ...]] = ()
    """The negative prompt beside each prompt, for the record beside the samples; none where all go without."""
    prompt_scale: tyro.conf.Suppress[tuple[float | None, ...]] = ()
    """The scale of each prompt that has one of its own in --prompts; none where no prompt has."""
    prompt_seed: tyro.conf.Suppress[tuple[int | None, ...]] = ()
    """The seed of each prompt that has one of its own in --prompts; none where no prompt has."""
    lora: Annotated[tuple[str, ...], tyro.conf.UseAppendAction] = ()
    """Stable Diffusion: a LoRA file that is merged into the weights, with its multiplier: FILE:0.8, or FILE for 1.
    Repeat the option for several."""
    digests: tyro.conf.Suppress[tuple[str, ...]] = ()
    """Of each file of --lora and --criterion, and of the weights of --control, for the record beside the samples."""
    balanced: bool = False
    """As many samples of each class, in turn, in the place of --labels."""
    base_samples: Path | None = None
    """For an upsampler: the samples.npz of low-resolution pictures, in turn; their labels too, without --labels."""
    num_samples: int | None = None
    """Default: 64, or one of each prompt; of a sweep, at each scale and seed, as many as the reference has, up to 1000."""
    sweep: tyro.conf.OmitArgPrefixes[Sweep] = dataclasses.field(default_factory=Sweep)
    checkpoint: Which = "last"
    """The weights of the last checkpoint, or of the best, by the keep-best-by that the run was trained with."""
    batch_size: int = 256
    """Images at a time, over all devices; with --particles examples, of fewer images."""
    decode_tile: int | None = None
    """Decode latents in overlapping tiles of at most so many of them a side, such as 64 for 512 pixels: large pictures in
    the memory of small ones, nearly the same pixels."""
    seed: int = 0
    diagnose: bool = False
    """Also write the length of the guidance, the classifier's log probability and the clipped share at each step of the
    first batch: diagnostics.npz and diagnostics.png."""
    out: Path | None = None
    """Where samples.npz and grid.png go. Default: a folder inside the run, named after the method."""
    overwrite: bool = False
    """Replace other samples in the output folder."""
    devices: int | None = None
    """How many devices to use. Default: the largest count that divides the batch."""
    shard_parameters: bool = False
    """Divide the parameters over the devices, for networks that do not fit on one."""
    shard_group: int | None = None
    """With --shard-parameters: divide them over so many neighbouring devices, and let each group of them hold a copy.
    Default: over all devices."""
    attention_kernel: Literal["plain", "xla", "cudnn"] | None = None
    """How the network computes the attention within the picture: cudnn is flash attention, on an NVIDIA GPU in bfloat16;
    plain stores the weights of all pairs of pixels. Default: as the run was made."""
    remat: bool = False
    """For guidances by the network's gradient, such as dps or training-free: compute the inside of each block again for it,
    less memory and more time."""
    allow_non_finite: bool = False
    """Keep samples that are not finite, as black pictures, instead of ending with exit code 2."""
    data_dir: DataDir = None
    """--measure held-out, sweeps: the folder that holds the data of the run, if it was moved since the run was trained."""


# Change nothing about the samples but their rounding, and so are not part of what is recorded beside them; a preset is
# recorded as the options that it stands for.
NOT_RECORDED = (
    *(
        "out",
        "overwrite",
        "devices",
        "batch_size",
        "shard_parameters",
        "shard_group",
        "attention_kernel",
        "remat",
        "allow_non_finite",
        "data_dir",
        "preset",
    ),
)


# Recorded only where they are not the default: older requests were written when there was no other choice.
NEWER = (
    *("checkpoint", "image", "strength", "mask", "guided_channels", "perturb_blocks", "skip_blocks", "exit_block"),
    *("balanced", "decode_tile", "dino", "space", "clean_classifier", "attention_mask", "iterations"),
    *("calls", "prior_weight", "zeta", "blur_length", "blur_angle", "exposure", "quality"),
    *("prompt", "prompts", "negative_prompt", "prompt_scale", "prompt_seed", "text"),
    *("coarse_scales", "damping", "stop_cosine", "anneal", "label_scale"),
    *("lora", "digests", "control", "control_image", "control_scale"),
    *("criterion", "training_free", "search", "tv_weight", "range_weight", "particles", "renoise", "every"),
)


def recorded(options: Sampling) -> dict[str, Any]:
    """Return what determines the samples, as JSON holds it."""
    found, defaults = to_dict(options), to_dict(Sampling(options.run))
    return _without_new_defaults({name: value for name, value in found.items() if name not in NOT_RECORDED}, defaults)


def _without_new_defaults(found: dict[str, Any], defaults: dict[str, Any]) -> dict[str, Any]:
    """Return the settings, and those of each section, without the NEWER ones that are at their default."""
    kept = {name: value for name, value in found.items() if name not in NEWER or value != defaults[name]}
    return {
        name: _without_new_defaults(value, defaults[name]) if isinstance(value, dict) else value
        for name, value in kept.items()
    }


def flatten(settings: Any) -> dict[str, Any]:
    """Return every option by its name, those of nested settings too."""
    found: dict[str, Any] = {}
    for name, value in vars(settings).items():
        found |= flatten(value) if dataclasses.is_dataclass(value) else {name: value}
    return found


def option(name: str) -> str:
    """Return the option of a field: --num-samples of num_samples."""
    return {"data_dir": "--data.dir", "space": "--in"}.get(name, f"--{name.replace('_', '-')}")
