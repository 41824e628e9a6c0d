"""The networks, their work, and the rows in the order of importance; neither JAX nor torch is imported here."""

from typing import Any, NamedTuple

from benchmarks.speed.sizes import SIZES, Size

TINY = ", tiny"  # ends the name of a network that only shows that all works


class Network(NamedTuple):
    """config: of the published network, ADM's is in `work`. work: of the other networks only the work counts."""

    work: Size
    config: dict[str, Any]


class Row(NamedTuple):
    """What is timed of a network."""

    network: str
    job: str  # "sample" or "train"


def _latents(side: int, num_classes: int, images: int, batch: int) -> Size:
    work = {"images": images, "steps": 8, "batch": batch, "train_steps": 4}
    return SIZES["adm64-gpu"]._replace(side=side, channels=4, num_classes=num_classes, **work)


def _edm2(side: int, classes: int, width: int, **others: Any) -> dict[str, Any]:
    return {"img_resolution": side, "img_channels": 4, "label_dim": classes, "model_channels": width, **others}


# Of Stable Diffusion the two "classes" are a prompt and none.
NETWORKS = {
    "adm64": Network(SIZES["adm64-gpu"], {}),
    "dit-xl2": Network(
        _latents(32, 1000, 32, 16), {"input_size": 32, "hidden_size": 1152, "depth": 28, "num_heads": 16}
    ),
    "edm2-s": Network(_latents(64, 1000, 16, 16), _edm2(64, 1000, 192)),
    "sd1.5": Network(_latents(64, 1, 8, 4), {"sample_size": 64, "cross_attention_dim": 768, "attention_head_dim": 8}),
}
_FEW = {"device": "cpu", "attention_kernel": "plain", "images": 2, "steps": 2, "batch": 2, "train_steps": 1}
_TINY = {
    "adm64": {"side": 8, "width": 8, "channel_mult": (1, 2), "num_res_blocks": 1, "attention": (2,), "head_channels": 8}
    | {"num_groups": 4},
    "dit-xl2": {"side": 8},
    "edm2-s": {"side": 16},
    "sd1.5": {"side": 16},
}
_CONFIGS: dict[str, dict[str, Any]] = {
    "adm64": {},
    "dit-xl2": {"input_size": 8, "hidden_size": 32, "depth": 2, "num_heads": 2},
    "edm2-s": _edm2(16, 10, 32, channel_mult=[1, 2], num_blocks=1, attn_resolutions=[8]),
    "sd1.5": {"sample_size": 16, "cross_attention_dim": 16, "attention_head_dim": 4, "layers_per_block": 1}
    | {"block_out_channels": [32, 64], "down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
    | {"up_block_types": ["UpBlock2D", "CrossAttnUpBlock2D"]},
}
NETWORKS |= {
    name + TINY: Network(NETWORKS[name].work._replace(**_FEW, **_TINY[name]), _CONFIGS[name])
    for name in tuple(NETWORKS)
}
ROWS = tuple(Row(name, "sample") for name in ("adm64", "dit-xl2", "edm2-s", "sd1.5")) + tuple(
    Row(name, "train") for name in ("dit-xl2", "adm64", "edm2-s")
)
# What is in diffusers; EDM2 is not.
IN_TORCH = ("adm64", "dit-xl2", "sd1.5")
PROGRAMS = ("ours", "torch compiled")


def wanted(row: Row, torch: bool) -> tuple[str, ...]:
    """Who takes part in a row; torch: whether it and diffusers are installed."""
    return PROGRAMS if torch and row.network.removesuffix(TINY) in IN_TORCH else PROGRAMS[:1]
