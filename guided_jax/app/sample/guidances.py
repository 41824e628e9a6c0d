"""The names that `guided-jax sample --guidance` takes: `a+b+c` applies the modifiers b and c to the guidance a."""

from typing import Any

from guided_jax import guidance
from guided_jax.app.sample.annealing import Annealing
from guided_jax.app.sample.guidance_rows import BY_CLIP, GUIDANCES
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.request import CLASSIFIER, CLIP, Method
from guided_jax.app.sample.row import Guide, Guided, Row

MODIFIERS: dict[str, str] = {
    "interval": "guide only where --interval-low < sigma / alpha <= --interval-high [LI 2404.07724]",
    "rescale": "bring the result back to the conditional's standard deviation by --rescale-mix [Lin 2305.08891]",
    "channels": "guide the first --guided-channels of x only, as DiT does [DiT 2212.09748]",
    "ramp": "a scale that rises from 1 to its value by a cosine [Wang 2404.13040]",
    "anneal": "noise in the condition early on, of --anneal-std, for variety at a high scale [CADS 2310.17347]",
    "dynamic": "x_0 thresholded at its quantile instead of clipped [Imagen 2205.11487]",
}

OPERATORS = {
    "mask": ("hole", "mask"),
    "super-resolution": ("factor",),
    "blur": ("blur_std",),
    "motion": ("blur_length", "blur_angle"),
    "clipping": ("exposure",),
    "jpeg": ("quality",),
}
NONLINEAR = ("clipping", "jpeg")  # of these
# Who else reads an option: what is chosen -> the options that are read only then.
READERS: dict[str, tuple[str, ...]] = {
    "--guidance classifier --sampler ddpm": ("at",),
    "+interval": ("interval_low", "interval_high"),
    "+rescale": ("rescale_mix",),
    "+channels": ("guided_channels",),
    "+anneal": tuple(vars(Annealing())),
    f"--criterion {CLIP}": BY_CLIP,
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
    """Return what the guidance of a request is made of; with a criterion that is no classifier it reads no label."""
    row = GUIDANCES[parse(request.guidance)[0]]
    if request.particles is not None and row.target is not None:
        row = row._replace(scaled=row.target.scaled)
    if "clean" not in row.needs or request.criterion == CLASSIFIER:
        return row
    return row._replace(needs=("clip",) if request.criterion == CLIP else (), labelled=False)


def reads_negative(request: Method) -> bool:
    """Return whether the guidance calls the model with the negative prompt, or with the null label that it replaces."""
    needs = {"null", "bad_null", "negative", "classifier", "clean"} & set(row_of(request).needs)
    return bool(needs) or request.label_scale is not None


def is_dynamic(request: Method) -> bool:
    """Return whether +dynamic takes the place of the clip."""
    return "dynamic" in parse(request.guidance)[1]


def anneals(request: Method) -> bool:
    """Return whether +anneal puts noise into the condition."""
    return "anneal" in parse(request.guidance)[1]


def shifts_mean(request: Method) -> bool:
    """Return whether this is algorithm 1, classifier guidance of a ddpm step."""
    return request.guidance == "classifier" and request.sampler == "ddpm" and request.particles is None


def guide(request: Method, parts: Parts) -> Guided:
    """Return the guided denoiser of one example, its modifiers applied and not yet clipped."""
    first, rest = parse(request.guidance)

    def guided(parts: Parts) -> Any:
        base, own = GUIDANCES[first].make(parts)
        for word in rest:
            own = _modified(word, own, parts)
        return own(base)

    parts = scaled(request, parts)._replace(anneals=anneals(request))
    if request.label_scale is not None:  # the conditional model is in both guidances
        u = parts.unconditional
        return guidance.call_once(lambda c: guided(parts._replace(pair=(c, u))), parts.conditional)
    # An interval calls the unconditional model only within it, and an observer calls it alone; a condition that is annealed
    # is another one at each level.
    together = GUIDANCES[first].pair and not {"interval", "anneal"} & set(rest) and not parts.observed
    return parts.paired(guided) if together else guided(parts)


def scaled(request: Method, parts: Parts) -> Parts:
    """Return the parts with the scale of +ramp, which rises from 1, and of +interval where that is one of the scale."""
    first, rest = parse(request.guidance)
    scale = parts.scale
    if "ramp" in rest:
        scale = guidance.cosine_ramp(scale, parts.run.model.levels.t[-1])
    if "interval" in rest and GUIDANCES[first].by_scale(parts):
        scale = guidance.limited(scale, request.interval_low, request.interval_high)
    return parts._replace(scale=scale)


def _modified(word: str, guide: Any, parts: Parts) -> Guide:
    request, run = parts.request, parts.run
    if word == "interval" and not row_of(request).by_scale(parts):
        return lambda d: guidance.interval(guide, d, request.interval_low, request.interval_high)
    if word == "rescale":
        # As the pipelines of Stable Diffusion do, whose settings people exchange.
        view = "eps" if run.text is not None and run.model.parameterization == "eps" else "v"
        return lambda d: guidance.rescale(guide, d, request.rescale_mix, view)
    if word == "channels":
        return lambda d: guidance.channels(guide, d, request.guided_channels)
    return guide


def listing() -> str:
    """Return all names, a line each."""
    width = max(map(len, GUIDANCES))
    rows = [f"  {name:{width}}  {row.line}" for name, row in GUIDANCES.items()]
    words = [f"  +{word:{width - 1}}  {line}" for word, line in MODIFIERS.items()]
    laws = [f"  {name:{width}}  {row.target.line}" for name, row in GUIDANCES.items() if row.target is not None]
    title = "--particles K draws the law itself, by K weighted examples for each sample, of one of"
    return "\n".join(["--guidance takes one of", *rows, "and then any of", *words, title, *laws])
