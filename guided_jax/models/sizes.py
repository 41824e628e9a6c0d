"""Which sizes of pictures and signals a network of several resolutions takes."""

from collections.abc import Sequence


def check_halves(sides: Sequence[int], times: int, instead: str = "") -> None:
    """Raise ValueError unless every side of a picture, or the length of a signal, can be halved `times` times.

    instead: another way out than to pad it, for the message.
    """
    factor = 2**times
    if all(side and not side % factor for side in sides):
        return
    what, which = ("an image", "both sides") if sides[1:] else ("a signal", "lengths")
    size, up = ("x".join(map(str, each)) for each in (sides, [max(1, -(-side // factor)) * factor for side in sides]))
    wanted = f"{which} must be multiples of {factor}, so pad it to {up}{instead}"
    raise ValueError(f"{what} of {size} cannot be halved {times} times: {wanted}.")


def check_image_size(image_size: int | tuple[int, ...], channel_mult: Sequence[int | float]) -> None:
    """Raise ValueError unless `image_size` (height and width in pixels) can be halved len(channel_mult) - 1 times.

    image_size: one int is the side of a square; a tuple of one the length of a signal.
    """
    sides = (image_size, image_size) if isinstance(image_size, int) else image_size
    check_halves(sides, len(channel_mult) - 1, " or give a shorter channel_mult")
