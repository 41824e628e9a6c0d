"""The names that `sample.py --guidance` takes, and what each is made of. `a+b+c` applies b and c to the guidance a.

A newcomer is one row: a line for --list, a function of the parts that a run offers, and the options that it reads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax import guidance, models, reverse
from guided_jax.app.sample.inverse import OPERATORS
from guided_jax.denoiser import Denoiser

Guide = Callable[[Denoiser], Any]  # what is guided -> Denoiser or Stateful


class Parts(NamedTuple):
    """What a run and a request offer to a guidance, for one example."""

    model: Callable[..., Denoiser]  # (label, perturb=None) -> denoiser; a label of None is no label
    base: Denoiser  # told the label only if the network has no null label
    bad: Callable[[Any], Denoiser]  # label -> the denoiser of the run that --bad names
    log_prob: Any  # (x_t, level) -> log p(label | x_t), or of any of --any-of
    label: Any
    null: Any  # the null label, None where the network has none
    labelled: bool  # whether --labels were given
    scale: Any
    key: Any  # of this example, for methods that draw
    num_classes: int
    num_steps: Any  # the last t of the schedule
    knobs: Any  # sampling.Method
    operator: Any = None  # of the measurement, where there is one
    seen: Any = None  # y, the measurement of this example

    @property
    def conditional(self) -> Denoiser:
        """The model told the label."""
        return self.model(self.label)

    @property
    def unconditional(self) -> Denoiser:
        """The model told the null label."""
        return self.model(self.null)

    @property
    def asked(self) -> Any:
        """The label where labels were given (or there is no null label), else no label: for guidance that needs none."""
        return self.label if self.labelled or self.null is None else self.null


class Row(NamedTuple):
    """One guidance: how --list says it, how it is made, and which parts it cannot do without."""

    line: str
    make: Callable[[Parts], tuple[Denoiser, Guide]]  # -> (what is guided, the guidance of it)
    needs: tuple[str, ...] = ()  # of "null", "classifier", "bad", "negative", "conditional", "also", "measurement"
    reads: tuple[str, ...] = ()  # its own options
    follow: tuple[str, ...] = ("interval", "rescale", "ramp", "dynamic")  # the MODIFIERS that change something
    scaled: bool = True  # whether it reads --scale
    labelled: bool = True  # whether it asks for the label even where no --labels were given
    clips_inside: bool = False  # a clip of the result would undo it
    step: Callable[[Parts, reverse.ReverseStep], reverse.ReverseStep] | None = None  # what guides the sampler's step


def _clean(parts: Parts) -> Any:
    """The noisy classifier on clean pictures: it is asked at the first level."""
    return lambda x_0, level: parts.log_prob(x_0, level._replace(t=jnp.ones_like(level.t)))


def _perturbed(parts: Parts, perturb: Any) -> tuple[Denoiser, Guide]:
    bad = parts.model(parts.asked, perturb)
    return parts.model(parts.asked), lambda d: guidance.autoguidance(d, bad, parts.scale)


def _independent(parts: Parts) -> tuple[Denoiser, Guide]:
    def draw(key: Any) -> Any:
        return jax.random.randint(key, (), 0, parts.num_classes)

    whole = guidance.independent(parts.model, parts.label, draw, parts.key, parts.scale)
    return parts.conditional, lambda _: whole


def _plain(parts: Parts) -> tuple[Denoiser, Guide]:
    return parts.model(parts.asked), lambda d: d


def _compose(parts: Parts) -> tuple[Denoiser, Guide]:
    others = [parts.model(label) for label in parts.knobs.also]
    scales = [parts.scale, *(parts.knobs.also_scale or [parts.scale] * len(others))]
    return parts.conditional, lambda c: guidance.compose([c, *others], parts.unconditional, scales)


def _pigdm(parts: Parts) -> tuple[Denoiser, Guide]:
    stds = parts.knobs.measurement.noise_std, parts.knobs.measurement.data_std
    return parts.model(parts.asked), lambda d: guidance.pigdm(d, parts.operator, parts.seen, *stds, parts.scale)


def _repaint(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    observed = parts.operator.forward(jnp.ones_like(parts.seen))
    return reverse.repaint(step, observed, parts.seen, parts.knobs.measurement.repeats)


JUDGED = ("any_of", "temperature")
MEASURED = ("measure", "operator", "noise_std")

GUIDANCES: dict[str, Row] = {
    "none": Row(
        "no guidance; with --labels the plain conditional model",
        _plain,
        follow=("dynamic",),
        scaled=False,
        labelled=False,
    ),
    "classifier": Row(
        "score + scale grad log p(y | x_t); with --sampler ddpm the mean shifted instead [ADM 2105.05233]",
        lambda p: (p.base, lambda d: guidance.classifier(d, p.log_prob, p.scale)),
        ("classifier",),
        JUDGED,
    ),
    "off-the-shelf": Row(
        "gradient of log p(y | predicted x_0), not back through the network [MPGD 2311.16424, EluCD 2310.11311]",
        lambda p: (p.base, lambda d: guidance.off_the_shelf(d, _clean(p), p.scale)),
        ("classifier",),
        JUDGED,
    ),
    "universal": Row(
        "gradient of log p(y | predicted x_0), back through the network [UG 2302.07121]",
        lambda p: (p.base, lambda d: guidance.universal(d, _clean(p), p.scale)),
        ("classifier",),
        JUDGED,
    ),
    "classifier-free": Row(
        "u + scale (c - u) [CFG 2207.12598]",
        lambda p: (p.conditional, lambda c: guidance.classifier_free(c, p.unconditional, p.scale)),
        ("null",),
    ),
    "negative": Row(
        "n + scale (c - n), n told the label of --negative [CFG 2207.12598]",
        lambda p: (p.conditional, lambda c: guidance.classifier_free(c, p.model(p.knobs.negative), p.scale)),
        ("negative", "conditional"),
        ("negative",),
    ),
    "compose": Row(
        "u + scale (c - u) + sum of --also-scale (c_i - u) over --also: AND, and NOT below 0 [CD 2206.01714]",
        _compose,
        ("null", "also"),
        ("also", "also_scale"),
    ),
    "cfg++": Row(
        "x_0 guided, noise not; scale in 0..1 [CFG++ 2406.08070]",
        lambda p: (p.conditional, lambda c: guidance.cfg_plus_plus(c, p.unconditional, p.scale)),
        ("null",),
        follow=("interval", "rescale", "ramp"),
        clips_inside=True,
    ),
    "projected": Row(
        "APG: the part of c - u across c only, with --momentum and --radius [APG 2410.02416]",
        lambda p: (
            p.conditional,
            lambda c: guidance.projected(c, p.unconditional, p.scale, momentum=p.knobs.momentum, radius=p.knobs.radius),
        ),
        ("null",),
        ("momentum", "radius"),
        ("ramp", "dynamic"),
    ),
    "zero-star": Row(
        "CFG-Zero*: a u + scale (c - a u), a the best fit of u to c [CFG-Zero* 2503.18886]",
        lambda p: (p.conditional, lambda c: guidance.zero_star(c, p.unconditional, p.scale)),
        ("null",),
    ),
    "independent": Row(
        "r + scale (c - r), r told a random label: no null label needed [ICG 2407.02687]",
        _independent,
        ("conditional",),
    ),
    "autoguidance": Row(
        "bad + scale (good - bad), bad the run of --bad [AG 2406.02507]",
        lambda p: (
            p.model(p.asked),
            lambda d: guidance.autoguidance(d, p.bad(p.asked), p.scale),
        ),
        ("bad",),
        ("bad",),
        labelled=False,
    ),
    "perturbed-attention": Row(
        "PAG: away from the same network with identity attention [PAG 2403.17377]",
        lambda p: _perturbed(p, models.identity_attention),
        labelled=False,
    ),
    "smoothed-energy": Row(
        "SEG: away from the same network with blurred queries [SEG 2408.00760]",
        lambda p: _perturbed(p, models.blurred_queries()),
        labelled=False,
    ),
    "self-attention": Row(
        "SAG: away from what the network makes of its own blurred x_0 [SAG 2210.00939]",
        lambda p: (p.model(p.asked), lambda d: guidance.self_attention(d, p.scale, p.knobs.blur)),
        reads=("blur",),
        labelled=False,
    ),
    "pigdm": Row(
        "score + scale grad log p(y | x_t) of what --measure names, x_0 given x_t taken to be normal [PiGDM ICLR 2023]",
        _pigdm,
        ("measurement",),
        (*MEASURED, "data_std"),
        labelled=False,
    ),
    "dps": Row(
        "x_s - scale grad |y - A x_0| of what --measure names, around any step [DPS 2209.14687]",
        _plain,
        ("measurement",),
        MEASURED,
        ("ramp", "dynamic"),
        labelled=False,
        step=lambda p, step: reverse.dps(step, p.operator, p.seen, p.scale),
    ),
    "repaint": Row(
        "noised y where it was seen, --repeats steps for each level, the mask alone [RePaint 2201.09865]",
        _plain,
        ("measurement",),
        (*MEASURED, "repeats"),
        ("dynamic",),
        scaled=False,
        labelled=False,
        step=_repaint,
    ),
}

MODIFIERS: dict[str, str] = {
    "interval": "guided only where --interval-low < sigma / alpha <= --interval-high [LI 2404.07724]",
    "rescale": "brought back to the conditional's standard deviation by --rescale-mix [Lin 2305.08891]",
    "ramp": "a scale that rises from 1 to its value by a cosine [Wang 2404.13040]",
    "dynamic": "x_0 thresholded at its quantile instead of clipped [Imagen 2205.11487]",
}

# Who reads an option, beside the guidances: what is chosen -> the options that are read only then.
READERS: dict[str, tuple[str, ...]] = {
    "--guidance classifier --sampler ddpm": ("at",),
    "+interval": ("interval_low", "interval_high"),
    "+rescale": ("rescale_mix",),
    **{f"--operator {name}": options for name, options in OPERATORS.items()},
}


def parse(name: str) -> tuple[str, list[str]]:
    """("classifier-free", ["interval"]) of "classifier-free+interval"; ValueError for a name that there is not."""
    first, *rest = name.split("+") if not name.startswith("cfg++") else ["cfg++", *name[5:].split("+")[1:]]
    if first not in GUIDANCES:
        raise ValueError(f"there is no guidance {first!r}; there is {', '.join(GUIDANCES)}")
    for word in rest:
        if word not in MODIFIERS:
            raise ValueError(f"{word!r} cannot follow a guidance; {', '.join(MODIFIERS)} can")
        if word not in GUIDANCES[first].follow:
            able = ", ".join(f"+{word}" for word in GUIDANCES[first].follow)
            raise ValueError(f"only {able} can follow {first}, not {name!r}: +{word} has no effect there")
    return first, rest


def build(name: str, parts: Parts, step: reverse.ReverseStep) -> tuple[Any, reverse.ReverseStep]:
    """(the Denoiser, or Stateful, that the name stands for; its step around the sampler's); the clip is the caller's."""
    first, rest = parse(name)
    if "ramp" in rest:
        parts = parts._replace(scale=guidance.cosine_ramp(parts.scale, parts.num_steps))
    guided, guide = GUIDANCES[first].make(parts)
    for word in rest:
        guide = _modified(word, guide, parts.knobs)
    around = GUIDANCES[first].step
    return guide(guided), step if around is None else around(parts, step)


def _modified(word: str, guide: Guide, knobs: Any) -> Guide:
    if word == "interval":
        return lambda d: guidance.interval(guide, d, knobs.interval_low, knobs.interval_high)
    if word == "rescale":
        return lambda d: guidance.rescale(guide, d, knobs.rescale_mix)
    return guide


def upon(guided: Any, wrap: Callable[[Denoiser], Denoiser]) -> Any:
    """wrap(guided), for a Denoiser and for a Stateful."""
    return guidance.lift(wrap, guided) if isinstance(guided, guidance.Stateful) else wrap(guided)


def listing() -> str:
    """All names, a line each."""
    width = max(map(len, GUIDANCES))
    rows = [f"  {name:{width}}  {row.line}" for name, row in GUIDANCES.items()]
    words = [f"  +{word:{width - 1}}  {line}" for word, line in MODIFIERS.items()]
    return "\n".join(["--guidance takes one of", *rows, "and then any of", *words])
