"""Sections of a request: the options that only measurements, or only training-free guidance, read."""

import dataclasses
from typing import Literal


@dataclasses.dataclass(frozen=True)
class Measurement:
    """What is known of the pictures: pigdm, mmps, dps, ddnm and others draw what else they may hold."""

    measure: tuple[str, ...] = ()
    """The true pictures, in turn over the samples: held-out (the run's own data), an npz file such as samples.npz, or
    picture files."""
    operator: Literal["mask", "super-resolution", "blur", "motion", "clipping", "jpeg"] = "mask"
    """What is observed of them: all but --hole, means over --factor pixels, a blur of --blur-std or along a line of
    --blur-length, the pixels times --exposure and clipped, or what JPEG keeps at --quality. The last two are not linear,
    for daps, mmps and dps."""
    hole: str = "right"
    """mask: what is hidden: the left, right, top or bottom half, the centre, rows and columns such as 2:6,0:4, rows such as
    2:6, which of signals are samples, or random:0.7, a share of the pixels, the same ones of all pictures."""
    mask: tuple[str, ...] = ()
    """mask, and --image: picture files, or npz files of pictures, in the place of --hole, in turn over the samples: white
    (128 or more) is the hole, which is painted anew, as in diffusers; black is observed."""
    factor: int = 2
    """super-resolution: the pixels a side that are averaged into one."""
    blur_std: float = 1.0
    """blur: its standard deviation in pixels."""
    blur_length: float = 4.0
    """motion: the length of the line in pixels."""
    blur_angle: float = 0.0
    """motion: its angle in degrees, 0 for a horizontal line, 90 for a vertical one."""
    exposure: float = 2.0
    """clipping: what pixels in [-1, 1] are multiplied by before they are clipped to [-1, 1]."""
    quality: float = 50.0
    """jpeg: 1 to 100."""
    noise_std: float = 0.0
    """Standard deviation of the noise that is added to the measurement, of pixels in [-1, 1] or of latents."""
    data_std: float | None = None
    """pigdm: the standard deviation of what is measured. Default: 0.5 of pixels in [-1, 1], that of the run of latents."""
    iterations: int | None = None
    """mmps (default 5): of conjugate gradients at each step, each a backward pass of the network. training-free (default
    4): of the criterion at the predicted x_0, none of the network. daps (default 100): Langevin steps at each level."""
    calls: int | None = None
    """daps (default 5), split-gibbs (default 10): calls of the network at each level, from there to a clean picture.
    gibbs-like (default 10): the steps of each repeat."""
    prior_weight: float = 7.0
    """diffpir: how much the prediction counts beside y, the paper's lambda; 1 to 13 there."""
    zeta: float = 0.3
    """diffpir: the share of the noise that is new at each step, 0 to 1."""
    repeats: int = 10
    """repaint: steps for each level. gibbs-like: how often a sample is noised and denoised again."""


@dataclasses.dataclass(frozen=True)
class TrainingFree:
    """How training-free guidance follows its criterion; the --scale multiplies both strengths."""

    rho: float = 0.25
    """training-free: strength of the gradient through the network; 0 leaves its backward pass out."""
    mu: float = 0.25
    """training-free: strength of the gradient at the predicted x_0, in each of --iterations."""
    smoothing: float = 0.001
    """training-free: the noise, over sigma, at which the criterion is evaluated."""
    smoothing_samples: int = 1
    """training-free: of that noise, of whose criteria the mean is taken."""
    recurrence: int = 1
    """training-free: how often each step is made."""
    weights: Literal["increase", "decrease", "constant"] = "increase"
    """training-free: how both strengths go on over the steps."""
