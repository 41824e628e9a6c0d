"""The names that `guided-jax sample --guidance` takes, and what each is made of. `a+b+c` applies b and c to the guidance a.

A new one is one row: a line for --list, a function of the parts of an example, and the options that it reads.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from guided_jax import guidance, models, reverse, schedule
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import Method
from guided_jax.denoiser import Denoiser
from guided_jax.guidance import Stateful

Guided = Denoiser | Stateful
Guide = Callable[[Denoiser], Guided]


class Row(NamedTuple):
    """One guidance: its line of --list, how it is made, and which parts it needs."""

    line: str
    make: Callable[[Parts], tuple[Denoiser, Guide]]  # -> (the denoiser to guide, the guidance of it)
    needs: tuple[
        str, ...
    ] = ()  # of "null", "classifier", "bad", "negative", "conditional", "classes", "also", "measurement", "variant"
    reads: tuple[str, ...] = ()  # its own options
    follow: tuple[str, ...] = ("interval", "rescale", "ramp", "dynamic")  # the MODIFIERS that change something
    scaled: bool = True  # whether it reads --scale
    labelled: bool = True  # whether it uses the label even where no --labels were given
    clips_inside: bool = False  # whether a clip of the result would undo it
    step: Callable[[Parts, reverse.ReverseStep], reverse.ReverseStep] | None = None  # guides the sampler's step
    pair: bool = False  # whether it is a denoiser made of calls of parts.conditional and parts.unconditional


def _of_clean(parts: Parts) -> Any:
    """Return the noisy classifier as one of clean pictures: evaluated at the first level."""
    first = schedule.at(parts.run.model.levels, 1)
    return lambda x_0, level: parts.log_prob(x_0, first._replace(t=jnp.ones_like(level.t)))


def _perturbed(parts: Parts, perturb: Any) -> tuple[Denoiser, Guide]:
    bad = parts.plain(perturb)
    return parts.plain(), lambda d: guidance.autoguidance(d, bad, parts.scale)


def _independent(parts: Parts) -> tuple[Denoiser, Guide]:
    def draw(key: Any) -> Any:
        return jax.random.randint(key, (), 0, parts.run.facts.num_classes)

    whole = guidance.independent(parts.model, parts.label, draw, parts.key, parts.scale)
    return parts.conditional, lambda _: whole


def _plain(parts: Parts) -> tuple[Denoiser, Guide]:
    return parts.plain(), lambda d: d


def _compose(parts: Parts) -> tuple[Denoiser, Guide]:
    others = [parts.model(label) for label in parts.request.also]
    scales = [parts.scale, *(parts.request.also_scale or [parts.scale] * len(others))]
    return parts.conditional, lambda c: guidance.compose([c, *others], parts.unconditional, scales)


def _negative(parts: Parts) -> tuple[Denoiser, Guide]:
    negative = parts.model(parts.request.negative)
    return parts.conditional, lambda c: guidance.classifier_free(c, negative, parts.scale)


def _projected(parts: Parts) -> tuple[Denoiser, Guide]:
    settings = {"momentum": parts.request.momentum, "radius": parts.request.radius}
    return parts.conditional, lambda c: guidance.projected(c, parts.unconditional, parts.scale, **settings)


def _pigdm(parts: Parts) -> tuple[Denoiser, Guide]:
    stds = parts.request.measurement.noise_std, parts.request.measurement.data_std
    operator = parts.operator
    assert operator is not None
    return parts.plain(), lambda d: guidance.pigdm(d, operator, parts.y, *stds, parts.scale)


def _dps(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    assert parts.operator is not None
    return reverse.dps(step, parts.operator, parts.y, parts.scale)


def _repaint(parts: Parts, step: reverse.ReverseStep) -> reverse.ReverseStep:
    assert parts.operator is not None
    observed = parts.operator.forward(jnp.ones_like(parts.y))
    return reverse.repaint(step, observed, parts.y, parts.request.measurement.repeats)


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
        lambda p: (p.base, lambda d: guidance.off_the_shelf(d, _of_clean(p), p.scale)),
        ("classifier",),
        JUDGED,
    ),
    "universal": Row(
        "gradient of log p(y | predicted x_0), back through the network [UG 2302.07121]",
        lambda p: (p.base, lambda d: guidance.universal(d, _of_clean(p), p.scale)),
        ("classifier",),
        JUDGED,
    ),
    "classifier-free": Row(
        "u + scale (c - u) [CFG 2207.12598]",
        lambda p: (p.conditional, lambda c: guidance.classifier_free(c, p.unconditional, p.scale)),
        ("null",),
        pair=True,
    ),
    "negative": Row(
        "n + scale (c - n), n the model with the label of --negative [CFG 2207.12598]",
        _negative,
        ("negative", "conditional"),
        ("negative",),
    ),
    "compose": Row(
        "u + scale (c - u) + sum of --also-scale (c_i - u) over --also: AND, and NOT below 0 [CD 2206.01714]",
        _compose,
        ("null", "also"),
        ("also", "also_scale"),
        pair=True,
    ),
    "cfg++": Row(
        "x_0 guided, noise not; scale in 0..1 [CFG++ 2406.08070]",
        lambda p: (p.conditional, lambda c: guidance.cfg_plus_plus(c, p.unconditional, p.scale)),
        ("null",),
        follow=("interval", "rescale", "ramp"),
        clips_inside=True,
        pair=True,
    ),
    "projected": Row(
        "APG: the part of c - u across c only, with --momentum and --radius [APG 2410.02416]",
        _projected,
        ("null",),
        ("momentum", "radius"),
        ("ramp", "dynamic"),
    ),
    "zero-star": Row(
        "CFG-Zero*: a u + scale (c - a u), a the best fit of u to c [CFG-Zero* 2503.18886]",
        lambda p: (p.conditional, lambda c: guidance.zero_star(c, p.unconditional, p.scale)),
        ("null",),
        pair=True,
    ),
    "independent": Row(
        "r + scale (c - r), r the model with a random label: no null label needed [ICG 2407.02687]",
        _independent,
        ("conditional", "classes"),
    ),
    "autoguidance": Row(
        "bad + scale (good - bad), bad the run of --bad [AG 2406.02507]",
        lambda p: (p.plain(), lambda d: guidance.autoguidance(d, p.bad_model, p.scale)),
        ("bad",),
        ("bad",),
        labelled=False,
    ),
    "perturbed-attention": Row(
        "PAG: away from the same network with identity attention [PAG 2403.17377]",
        lambda p: _perturbed(p, models.identity_attention),
        ("variant",),
        labelled=False,
    ),
    "smoothed-energy": Row(
        "SEG: away from the same network with blurred queries [SEG 2408.00760]",
        lambda p: _perturbed(p, models.blurred_queries()),
        ("variant",),
        labelled=False,
    ),
    "self-attention": Row(
        "SAG: away from what the network makes of its own blurred x_0 [SAG 2210.00939]",
        lambda p: (p.plain(), lambda d: guidance.self_attention(d, p.scale, p.request.blur)),
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
        step=_dps,
    ),
    "repaint": Row(
        "noised y where it is observed, --repeats steps for each level, for the mask only [RePaint 2201.09865]",
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
    "interval": "guide only where --interval-low < sigma / alpha <= --interval-high [LI 2404.07724]",
    "rescale": "bring the result back to the conditional's standard deviation by --rescale-mix [Lin 2305.08891]",
    "ramp": "a scale that rises from 1 to its value by a cosine [Wang 2404.13040]",
    "dynamic": "x_0 thresholded at its quantile instead of clipped [Imagen 2205.11487]",
}

OPERATORS = {"mask": ("hole", "mask"), "super-resolution": ("factor",), "blur": ("blur_std",)}
# Who else reads an option: what is chosen -> the options that are read only then.
READERS: dict[str, tuple[str, ...]] = {
    "--guidance classifier --sampler ddpm": ("at",),
    "+interval": ("interval_low", "interval_high"),
    "+rescale": ("rescale_mix",),
    **{f"--operator {name}": options for name, options in OPERATORS.items()},
}


def parse(name: str) -> tuple[str, list[str]]:
    """Return ("classifier-free", ["interval"]) of "classifier-free+interval"; ValueError for a name that is not known."""
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


def row_of(request: Method) -> Row:
    """Return what the guidance of a request is made of."""
    return GUIDANCES[parse(request.guidance)[0]]


def is_dynamic(request: Method) -> bool:
    """Return whether +dynamic takes the place of the clip."""
    return "dynamic" in parse(request.guidance)[1]


def shifts_mean(request: Method) -> bool:
    """Return whether this is algorithm 1, classifier guidance of a ddpm step."""
    return request.guidance == "classifier" and request.sampler == "ddpm"


def guide(request: Method, parts: Parts) -> Guided:
    """Return the guided denoiser of one example, its modifiers applied and not yet clipped."""
    first, rest = parse(request.guidance)

    def guided(parts: Parts) -> Any:
        base, own = GUIDANCES[first].make(parts)
        for word in rest:
            own = _modified(word, own, request)
        return own(base)

    parts = ramped(request, parts)
    # An interval calls the unconditional model only within it, and an observer calls it alone.
    together = GUIDANCES[first].pair and "interval" not in rest and not parts.observed
    return parts.paired(guided) if together else guided(parts)


def ramped(request: Method, parts: Parts) -> Parts:
    """Return the parts with a scale that rises from 1, where +ramp asks for it."""
    if "ramp" not in parse(request.guidance)[1]:
        return parts
    return parts._replace(scale=guidance.cosine_ramp(parts.scale, parts.run.model.levels.t[-1]))


def _modified(word: str, guide: Any, request: Method) -> Guide:
    if word == "interval":
        return lambda d: guidance.interval(guide, d, request.interval_low, request.interval_high)
    if word == "rescale":
        return lambda d: guidance.rescale(guide, d, request.rescale_mix)
    return guide


def listing() -> str:
    """Return all names, a line each."""
    width = max(map(len, GUIDANCES))
    rows = [f"  {name:{width}}  {row.line}" for name, row in GUIDANCES.items()]
    words = [f"  +{word:{width - 1}}  {line}" for word, line in MODIFIERS.items()]
    return "\n".join(["--guidance takes one of", *rows, "and then any of", *words])
