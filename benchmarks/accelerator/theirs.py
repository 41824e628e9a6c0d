"""PyTorch's side: the networks of diffusers, compiled, in the loops of `benchmarks.speed.pytorch`."""

from collections.abc import Callable
from typing import Any

import torch
from diffusers import DiTTransformer2DModel, UNet2DConditionModel

from benchmarks.accelerator.sizes import NETWORKS, TINY, Row
from benchmarks.speed import pytorch
from benchmarks.speed.sizes import Size


def make_dit(config: dict[str, Any], size: Size) -> torch.nn.Module:
    """The same transformer, with a learned variance."""
    return DiTTransformer2DModel(
        num_attention_heads=config["num_heads"],
        attention_head_dim=config["hidden_size"] // config["num_heads"],
        in_channels=size.channels,
        out_channels=2 * size.channels,
        num_layers=config["depth"],
        sample_size=config["input_size"],
        num_embeds_ada_norm=size.num_classes,
    )


def make_unet(config: dict[str, Any], size: Size) -> torch.nn.Module:
    """The U-Net of Stable Diffusion, with a buffer of two prompts."""
    unet = UNet2DConditionModel(**config)
    unet.register_buffer("prompts", torch.randn(2, 77, config["cross_attention_dim"]), persistent=False)
    return unet


def call_dit(network: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """eps, without the variance."""
    return network(x, timestep=t, class_labels=labels).sample[:, : x.shape[1]]


def call_unet(network: Any, x: torch.Tensor, t: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """eps with a prompt or without."""
    return network(x, t, encoder_hidden_states=network.prompts[labels]).sample


def build(row: Row, who: str) -> Callable[[], Any]:
    """What is timed."""
    network = NETWORKS[row.network]
    if not network.config:
        return pytorch.build(network.work, "train" if row.job == "train" else "classifier", who)
    dit = row.network.removesuffix(TINY) == "dit-xl2"
    make, call = (make_dit, call_dit) if dit else (make_unet, call_unet)
    made = lambda size: make(network.config, size)  # noqa: E731
    if row.job == "train":
        return pytorch.train(network.work, who, made, call)
    return pytorch.sampling(network.work, "classifier-free", who, made, call)
