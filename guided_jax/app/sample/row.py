"""What a row of `guidance_rows` says of a guidance."""

from collections.abc import Callable
from typing import NamedTuple

from guided_jax import reverse
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.targets import Target
from guided_jax.denoiser import Denoiser
from guided_jax.guidance import Stateful

Guided = Denoiser | Stateful
Guide = Callable[[Denoiser], Guided]

ALL = ("interval", "rescale", "channels", "ramp", "dynamic")  # modifiers
FREE = (*ALL, "anneal")  # of a guidance by the condition


class Row(NamedTuple):
    """One guidance: its line of --list, how it is made, and which parts it needs."""

    line: str
    make: Callable[[Parts], tuple[Denoiser, Guide]]  # -> (the denoiser to guide, the guidance of it)
    # of "null", "classifier", "clean" (a classifier of x_0), "bad", "bad_null", "negative", "conditional", "classes",
    # "also", "measurement", "linear" (a measurement that is), "adjoint" (of it, which a decoder has not), "noise" (in it),
    # "clip", "scales" (a network that is told one), or of `Run.fields`
    needs: tuple[str, ...] = ()
    reads: tuple[str, ...] = ()  # its own options
    follow: tuple[str, ...] = ALL  # the MODIFIERS that change something
    scaled: bool = True  # whether it reads --scale
    labelled: bool = True  # whether it uses the label even where no --labels were given
    clips_inside: bool = False  # whether a clip of the result would undo it
    step: Callable[[Parts, reverse.ReverseStep], reverse.ReverseStep] | None = None  # guides the sampler's step
    own_step: bool = False  # whether `step` makes steps of its own, whatever the sampler
    clips_step: bool = False  # whether the step clips x_0 itself
    saves: bool = False  # whether it saves calls of parts.unconditional, as `guidance.saved_calls` counts them
    # whether an interval is one of the scale alone, where it leaves out no call
    by_scale: Callable[[Parts], bool] = lambda parts: False
    target: Target | None = None  # what --particles draws
    again: Callable[[Parts], Denoiser] | None = None  # guides the repeats after the sampler's run
    pair: bool = False  # whether it is a denoiser made of calls of parts.conditional and parts.unconditional


def plain(parts: Parts) -> tuple[Denoiser, Guide]:
    """Return the model with the label, if labels were given, and no guidance of its predictions."""
    return parts.plain(), lambda d: d
