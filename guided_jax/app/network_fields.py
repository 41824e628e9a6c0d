"""The fields of a network that a guidance may change: which blocks are perturbed, left out, or the last one."""

from collections.abc import Iterable
from typing import Any, NamedTuple

from guided_jax import models


class Field(NamedTuple):
    """A field of a diffusion network's module. usual: its value without an option. names: the blocks that it may name."""

    usual: Any
    names: tuple[str, ...]


def of_module(module: Any) -> dict[str, Field]:
    """Return the fields of a network by their names, "perturb_blocks", of a transformer "skip_blocks" and "exit_block".

    module: a `models.UNet`, `models.EDM2`, `models.UNet2DConditionModel` or `models.DiT`.
    The usual ones are those of the papers: attention is perturbed in the middle, as diffusers' example for PixArt does in
    block 14 of 28; a U-Net may leave at its internal head, by "exit_block", and one that has such a head give
    both outputs, by "both_heads"; an eighth of the blocks is left out after 7/24 of them, 7, 8 and 9 of 24 as for SD 3.5.
    """
    middle = models.middle_block(module)
    found = {"perturb_blocks": Field((middle,), tuple(models.attention_blocks(module)))}
    own = getattr(module, "internal_head", None)
    if own is not None:
        found["both_heads"] = Field(True, ())
    if not isinstance(module, models.DiT):
        return found if own is None else {**found, "exit_block": Field(own, (own,))}
    names, first = tuple(f"blocks_{i}" for i in range(module.depth)), module.depth * 7 // 24
    half = names[(module.depth - 1) // 2]  # of its blocks are applied
    head = half if own is None else models.block_name(own)
    return {
        **found,
        "skip_blocks": Field(names[first : first + max(1, module.depth // 8)], names),
        "exit_block": Field(head, names[:-1]),
    }


def spell(blocks: str | Iterable[str]) -> Any:
    """Return blocks of an option as a field takes them: "7" is the transformer's "blocks_7"."""
    if isinstance(blocks, str):
        return models.block_name(int(blocks)) if blocks.isdecimal() else blocks
    return tuple(map(spell, blocks))


def check(option: str, blocks: str | Iterable[str], field: Field) -> None:
    """Raise ValueError, which names the option, for a block that the field may not name."""
    named = [blocks] if isinstance(blocks, str) else list(blocks)
    wrong = next((name for name in named if spell(name) not in field.names), None)
    if wrong is not None:
        raise ValueError(f"{option} names {wrong!r}, and this network takes {_listing(field.names)}; give one of these")


def _listing(names: tuple[str, ...]) -> str:
    """Return names in words: all of them, or of many in a row the first and the last."""
    return ", ".join(names) if len(names) <= 8 else f"{', '.join(names[:3])}, ..., {names[-1]}"
