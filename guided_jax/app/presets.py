"""How the authors of a published model sampled it, as options of `guided-jax sample`, and what they measured.

All of them drew each label at random from all classes, as `sample` does without --labels. The last word of a preset is the
value of an option that takes one: the run directory may follow it.
"""

from typing import NamedTuple

from guided_jax.pretrained.published import Description


class Preset(NamedTuple):
    """options: of `guided-jax sample`. note: what the authors measured with them, and where ours differ."""

    options: tuple[str, ...]
    note: str = ""


def _words(line: str) -> tuple[str, ...]:
    return tuple(line.split())


DIT = Preset(
    _words("--guidance classifier-free+channels --guided-channels 3 --scale 1.5 --steps 250 --sampler ddpm"),
    "DiT-XL/2: FID 2.27 at 256x256, 3.04 at 512x512 with these [DiT table 2, 3]; their pictures are of --scale 4",
)
DIFFUSERS = Preset(
    _words("--guidance classifier-free --scale 4 --grid leading --steps 50 --sampler ddim"),
    "the default of diffusers' DiTPipeline, which guides all channels",
)
SIT = Preset(
    _words(
        "--guidance classifier-free+channels --guided-channels 3 --scale 1.5 --grid uniform --steps 125 --sampler heun"
    ),
    "SiT-XL/2: FID 2.15 with these, 2.06 by their SDE [SiT]; Heun's method is here in sigma / alpha, and there in t",
)
REPA = Preset(
    _words(
        "--guidance classifier-free+interval --scale 1.8 --interval-low 0 --interval-high 2.3333333 "
        "--grid uniform --steps 125 --sampler heun"
    ),
    "SiT-XL/2 with REPA: FID 1.42 with t up to 0.7 guided, by their SDE in 250 steps [REPA]; this is the ODE",
)
EDM2_LATENTS = Preset(
    _words("--grid karras --sigma-max 80 --steps 32 --sampler heun"),
    "ImageNet 512: FID 2.56 (S), 1.91 (XXL) [EDM2 table 2]; with --guidance autoguidance --scale 2.1 (XXL: 2.05) "
    "--bad RUN of a smaller and less trained model 1.34 (S), 1.25 (XXL) [AG table 1]",
)
EDM2_PIXELS = Preset(
    _words("--no-clip --grid karras --sigma-max 80 --steps 32 --sampler heun"),
    "ImageNet 64: FID 1.58 (S) [EDM2 table 3]; with --guidance autoguidance --scale 1.7 --bad RUN 1.01 [AG table 1]",
)


# The default of diffusers' pipelines: the checkpoint's own scheduler, as its config.json has it.
STABLE_DIFFUSION = Preset(
    _words("--guidance classifier-free --scale 7.5 --steps 50 --sampler published"),
    "the usual settings of Stable Diffusion; name what to draw with --prompt, and what not with --negative",
)
STABLE_DIFFUSION_XL = Preset(
    _words("--guidance classifier-free --scale 5 --steps 50 --sampler published"),
    "the usual settings of Stable Diffusion XL; name what to draw with --prompt, and what not with --negative",
)


def of(description: Description) -> Preset:
    """Return the preset of a published model."""
    if description.text is not None:
        return STABLE_DIFFUSION_XL if description.text.is_penultimate else STABLE_DIFFUSION
    if description.family == "edm2":
        return EDM2_PIXELS if description.network.get("img_channels") == 3 else EDM2_LATENTS
    if description.like == "diffusers":
        return DIFFUSERS
    return {"dit": DIT, "sit": SIT, "repa": REPA}[description.family]
