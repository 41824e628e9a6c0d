"""Perturbed attention: a network made worse on purpose, its parameters unchanged, to guide without labels.

    bad = unet.clone(perturb=identity_attention, perturb_blocks=("middle_block",))

and then `guidance.autoguidance(good, bad, scale)` on the two, where the papers' strength s is scale - 1.

Sources: [PAG] Ahn et al. 2403.17377, [SEG] Hong 2408.00760, [SAG] Hong et al. 2210.00939.
"""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float

from guided_jax.models.blocks import attend
from guided_jax.numerics import gaussian_matrix

Perturb = Callable[[Array, Array, Array, tuple[int, int]], Array]  # (q, k, v, (height, width)) -> attended


def identity_attention(q: Array, k: Array, v: Array, size: tuple[int, int]) -> Array:
    """a_t = v_t: the attention map replaced by the identity ([PAG])."""
    return v


def blurred_queries(std: ArrayLike = jnp.inf) -> Perturb:
    """Attention of queries blurred over the picture by a normal kernel of `std` positions; inf: their mean ([SEG]).

    std: number or traced value; 0 blurs nothing. The weights of the kernel sum to 1 at the borders too.
    """

    def perturb(q: Array, k: Array, v: Array, size: tuple[int, int]) -> Array:
        height, width = size
        grid = q.reshape(*q.shape[:-3], height, width, *q.shape[-2:])
        rows, columns = (gaussian_matrix(side, std).astype(q.dtype) for side in size)
        return attend(jnp.einsum("ij,...jwhc,vw->...ivhc", rows, grid, columns).reshape(q.shape), k, v)

    return perturb


def attention_mass(
    net: Any,
    params: Any,
    x: Float[Array, "*batch h w c"],
    t: ArrayLike,
    label: Any = None,
    block: str | int | None = None,
    **conditions: Any,
) -> Float[Array, "*batch h w"]:
    """Return the attention to each pixel from all positions of a block, mean over its heads and layers ([SAG]).

    net: a `models.UNet`, `models.EDM2`, `models.DiT`, or `models.UNet2DConditionModel`, whose context is in the place of
    the label and whose other `conditions` are given by name. block: None for the middle one. The mean over the pixels is 1,
    where their sides are multiples of the block's. XLA merges the call with a net.apply(params, x, t, label) beside it.
    """
    name = block_name(middle_block(net) if block is None else block)
    if name not in attention_blocks(net):
        raise ValueError(f"no attention in the block {block!r}; there is {', '.join(attention_blocks(net))}")
    _, collected = net.apply(params, x, t, label, mutable=["attention"], **conditions)
    modules = (
        name,
        f"{name}_1",
        f"unet.{name}",
    )  # of the block in DiT, of its attention in U-Nets, of the block in EDM2
    masses = jax.tree.leaves([found for module, found in collected["attention"].items() if module in modules])
    mass = jnp.mean(jnp.stack(masses), 0)
    for axis in (-2, -1):
        side, own = x.shape[axis - 1], mass.shape[axis]
        mass = jnp.take(mass, np.arange(side) * own // side, axis)  # the nearest
    return mass


def attention_blocks(net: Any) -> list[str]:
    """Return the names, as `perturb_blocks` takes them, of the blocks with attention, from input to output.

    net: a `models.UNet`, `models.EDM2`, `models.UNet2DConditionModel`, or a `models.DiT`, whose blocks all have it.
    """
    if hasattr(net, "attention_blocks"):
        return net.attention_blocks()
    if hasattr(net, "depth"):
        return [f"blocks_{i}" for i in range(net.depth)]
    levels, each = range(len(net.channel_mult)), net.num_res_blocks
    down = [
        f"input_blocks_{1 + level * (each + 1) + i}" for level in levels if _attends(net, level) for i in range(each)
    ]
    up = [
        f"output_blocks_{(levels[-1] - level) * (each + 1) + i}"
        for level in reversed(levels)
        if _attends(net, level)
        for i in range(each + 1)
    ]
    return [*down, "middle_block", *up]


def middle_block(net: Any) -> str:
    """Return the name of the block in the middle, which of EDM2 is the decoder's first."""
    if hasattr(net, "middle_block"):
        return net.middle_block()
    return f"blocks_{net.depth // 2}" if hasattr(net, "depth") else "middle_block"


def block_name(block: str | int) -> str:
    """3 -> "blocks_3", the name of a transformer's block; a name stays."""
    return block if isinstance(block, str) else f"blocks_{block}"


def perturbed_blocks(net: Any) -> list[str]:
    """Return the names of the blocks in `perturb_blocks`, the middle one for None."""
    blocks = (middle_block(net),) if net.perturb_blocks is None else net.perturb_blocks
    return [block_name(block) for block in blocks]


def check_perturbed(net: Any) -> None:
    """Raise ValueError for a name in `perturb_blocks` without attention, which would change nothing, and for none."""
    wrong = [name for name in perturbed_blocks(net) if name not in attention_blocks(net)]
    if wrong or not perturbed_blocks(net):
        raise ValueError(f"no attention in the blocks {wrong}; perturb_blocks takes {', '.join(attention_blocks(net))}")


def _attends(net: Any, level: int) -> bool:
    return 2**level in net.attention_resolutions
