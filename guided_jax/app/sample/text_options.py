"""The options of prompts, pure data."""

import dataclasses


@dataclasses.dataclass(frozen=True)
class Text:
    """How a text-to-image run reads its prompts, and what else it is told."""

    weighted: bool = False
    """Read brackets in prompts as weights: (word:1.3), (word) for 1.1, [word] for 1 / 1.1."""
    windows: int = 1
    """How many times 77 tokens a prompt may have; what does not fit is cut, with a warning that shows it."""
    clip_skip: int = 0
    """Layers that are left out at the end of the text towers, for the prompts and not for the negative ones."""
    size: tuple[int, int] | None = None
    """The height and width of the pictures. Default: those that the model was trained on."""
    original_size: tuple[int, int] | None = None
    """XL: what it is told of the height and width of the picture before it was scaled. Default: those that are drawn."""
    crop: tuple[int, int] = (0, 0)
    """XL: what it is told of the top left corner of the picture's crop."""
    target_size: tuple[int, int] | None = None
    """XL: what it is told of the height and width of the crop. Default: those that are drawn."""
    negative_original_size: tuple[int, int] | None = None
    """XL: --original-size beside the negative prompt. Default: the same."""
    negative_crop: tuple[int, int] | None = None
    """XL: --crop beside the negative prompt. Default: the same."""
    negative_target_size: tuple[int, int] | None = None
    """XL: --target-size beside the negative prompt. Default: the same."""
