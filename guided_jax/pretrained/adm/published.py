"""The published checkpoints: the constructor's arguments of each, and the settings its authors sampled it with.

Source: [ADM] Dhariwal & Nichol 2105.05233 and the README of the code published with it.
"""

from typing import Any, NamedTuple

CHANNEL_MULT = {
    512: (0.5, 1, 1, 2, 2, 4, 4),
    256: (1, 1, 2, 2, 4, 4),
    128: (1, 1, 2, 3, 4),
    64: (1, 2, 3, 4),
}


class Published(NamedTuple):
    """One model: `config` is what `load_unet` or `load_classifier` takes."""

    config: dict[str, Any]
    schedule: str = "linear"
    scale: float = 0.0  # of the classifier, with the one of the same name
    steps: int = 250  # of ddpm
    low_res: int | None = None  # the side of what an upsampler starts from


def _unet(size: int, channels: int, classes: int | None = 1000, pixels: tuple = (32, 16, 8), **more: Any) -> dict:
    """What all of them share: learned variance, residual blocks that resample, scale-shift norms."""
    return {
        "image_size": size,
        "in_channels": 3,
        "model_channels": channels,
        "out_channels": 6,
        "num_res_blocks": 2,
        "attention_resolutions": tuple(size // pixel for pixel in pixels),
        "channel_mult": CHANNEL_MULT[size],
        "num_classes": classes,
        "num_head_channels": 64,
        "resblock_updown": True,
        "use_scale_shift_norm": True,
        **more,
    }


def _classifier(size: int, depth: int = 2) -> dict:
    return {
        "image_size": size,
        "in_channels": 3,
        "model_channels": 128,
        "out_channels": 1000,
        "num_res_blocks": depth,
        "attention_resolutions": tuple(size // pixel for pixel in (32, 16, 8)),
        "channel_mult": CHANNEL_MULT[size],
        "num_head_channels": 64,
        "resblock_updown": True,
        "use_scale_shift_norm": True,
        "pool": "attention",
    }


_LSUN = _unet(256, 256, None, dropout=0.1)
MODELS: dict[str, Published] = {
    "64x64_diffusion": Published(
        _unet(64, 192, num_res_blocks=3, dropout=0.1, use_new_attention_order=True), "cosine", 1.0
    ),
    "128x128_diffusion": Published(_unet(128, 256, num_heads=4, num_head_channels=-1), scale=0.5),
    "256x256_diffusion": Published(_unet(256, 256), scale=1.0),
    "256x256_diffusion_uncond": Published(_unet(256, 256, None), scale=10.0),
    "512x512_diffusion": Published(_unet(512, 256), scale=4.0),
    "lsun_bedroom": Published(_LSUN, steps=1000),
    "lsun_cat": Published(_LSUN, steps=1000),
    "lsun_horse": Published(_LSUN, steps=1000),
    "lsun_horse_nodropout": Published(_unet(256, 256, None), steps=1000),
    "64_256_upsampler": Published(_unet(256, 192, num_heads=4, num_head_channels=-1), low_res=64),
    "128_512_upsampler": Published(_unet(512, 192, pixels=(32, 16), channel_mult=CHANNEL_MULT[256]), low_res=128),
}
CLASSIFIERS: dict[str, Published] = {
    "64x64_classifier": Published(_classifier(64, 4), "cosine"),
    "128x128_classifier": Published(_classifier(128)),
    "256x256_classifier": Published(_classifier(256)),
    "512x512_classifier": Published(_classifier(512)),
}
