"""The guidances of `guided-jax sample --guidance`, a row each.

A new one is one row: a line for --list, a function of the parts of an example, and the options that it reads.
"""

from typing import Any

import jax

from guided_jax import guidance, models
from guided_jax.app import network_fields
from guided_jax.app.sample import clip_guide, gibbs, measurement_rows, targets, training_free
from guided_jax.app.sample.parts import Parts
from guided_jax.app.sample.row import ALL, FREE, Guide, Row, plain
from guided_jax.app.sample.targets import Target
from guided_jax.denoiser import Denoiser


def _changed(parts: Parts, **fields: Any) -> tuple[Denoiser, Guide]:
    """Return the guidance away from the same network with other fields of its module.

    With --label-scale it is added to classifier-free guidance, which an interval then leaves as it is.
    """
    bad, label_scale = parts.plain(**fields), parts.request.label_scale
    if label_scale is None:
        return parts.plain(), lambda d: guidance.autoguidance(d, bad, parts.scale)
    c = parts.conditional
    free = guidance.classifier_free(c, parts.unconditional, label_scale)
    return free, lambda d: guidance.push(d, c, bad, lambda level: guidance.strength(parts.scale, level) - 1)


def _internal(parts: Parts) -> tuple[Denoiser, Guide]:
    """Return the guidance away from a middle block, by one call where the block has a head of its own."""
    label_scale = parts.request.label_scale
    if not _at_head(parts):
        return _changed(parts, exit_block=_named(parts, "exit_block"))
    if label_scale is None:
        return parts.plain(), lambda _: guidance.internal(parts.two_heads, parts.scale)

    def push(c: Denoiser, bad: Denoiser) -> Denoiser:
        free = guidance.classifier_free(c, parts.unconditional, label_scale)
        return guidance.push(free, c, bad, lambda level: guidance.strength(parts.scale, level) - 1)

    return parts.plain(), lambda _: guidance.of_pair(parts.two_heads, push)


def _at_head(parts: Parts) -> bool:
    fields = parts.run.fields
    return "both_heads" in fields and _named(parts, "exit_block") == fields["exit_block"].usual


def _perturbed(parts: Parts, perturb: Any) -> tuple[Denoiser, Guide]:
    return _changed(parts, perturb=perturb, perturb_blocks=_named(parts, "perturb_blocks"))


def _named(parts: Parts, field: str) -> Any:
    """Return the blocks that the request names for a field of the network, or the usual ones."""
    given = getattr(parts.request, field)
    return network_fields.spell(given) if given else parts.run.fields[field].usual


def _independent(parts: Parts) -> tuple[Denoiser, Guide]:
    def draw(key: Any) -> Any:
        return jax.random.randint(key, (), 0, parts.run.facts.num_classes)

    whole = guidance.independent(parts.model, parts.label, draw, parts.key, parts.scale)
    return parts.conditional, lambda _: whole


def _compose(parts: Parts) -> tuple[Denoiser, Guide]:
    others = [parts.model(label) for label in parts.request.also]
    scales = [parts.scale, *(parts.request.also_scale or [parts.scale] * len(others))]
    return parts.conditional, lambda c: guidance.compose([c, *others], parts.unconditional, scales)


def _negative(parts: Parts) -> tuple[Denoiser, Guide]:
    # A negative prompt stands in the place of no label.
    negative = parts.unconditional if parts.run.text is not None else parts.model(parts.request.negative)
    return parts.conditional, lambda c: guidance.classifier_free(c, negative, parts.scale)


def _projected(parts: Parts) -> tuple[Denoiser, Guide]:
    settings = {"momentum": parts.request.momentum, "radius": parts.request.radius}
    return parts.conditional, lambda c: guidance.projected(c, parts.unconditional, parts.scale, **settings)


def _frequency_decoupled(parts: Parts) -> tuple[Denoiser, Guide]:
    scales = [parts.scale, *parts.request.coarse_scales]
    return parts.conditional, lambda c: guidance.frequency_decoupled(c, parts.unconditional, scales)


def _self_attention(parts: Parts) -> tuple[Denoiser, Guide]:
    mask = parts.attended if parts.request.attention_mask else None
    return parts.plain(), lambda d: guidance.self_attention(d, parts.scale, parts.request.blur, mask)


BY_CLIP = ("clip_model", "clip_text", "cutouts", "tv_weight", "range_weight")
JUDGED = ("any_of", "temperature", "label_scale")
CLEAN = (*JUDGED, "clean_classifier", "space", "criterion")
STRENGTHS = ("rho", "mu", "smoothing", "smoothing_samples", "iterations", "recurrence", "weights")

GUIDANCES: dict[str, Row] = {
    "none": Row(
        "no guidance; with --labels the plain conditional model",
        plain,
        follow=("dynamic",),
        scaled=False,
        labelled=False,
    ),
    "classifier": Row(
        "score + scale grad log p(y | x_t); with --sampler ddpm the mean shifted instead [ADM 2105.05233]",
        lambda p: (p.base, lambda d: guidance.classifier(d, p.log_prob, p.scale)),
        ("classifier",),
        JUDGED,
        target=Target("p(x) p(y | x)^scale, guided by the noisy classifier [TDS 2306.17775]", targets.classified),
    ),
    "off-the-shelf": Row(
        "gradient of log p(y | predicted x_0), not back through the network [MPGD 2311.16424, EluCD 2310.11311]",
        lambda p: (p.clean_base, lambda d: guidance.off_the_shelf(d, p.clean_log_prob, p.scale, p.run.data_std)),
        ("clean",),
        CLEAN,
        target=Target(
            "p(x) p(y | x)^scale, by resampling alone, without a gradient [FKS 2501.06848]", targets.rewarded
        ),
    ),
    "universal": Row(
        "gradient of log p(y | predicted x_0), back through the network [UG 2302.07121]",
        lambda p: (p.clean_base, lambda d: guidance.universal(d, p.clean_log_prob, p.scale)),
        ("clean",),
        CLEAN,
        target=Target("p(x) p(y | x)^scale, guided by the gradient [TDS 2306.17775]", targets.twisted),
    ),
    "clip": Row(
        "to --clip-text, by --cutouts of x_0 in the CLIP of --clip-model, back through the network [Crowson 2021]",
        lambda p: (p.plain_base, lambda d: guidance.universal(d, clip_guide.criterion(p), p.scale)),
        ("clip",),
        (*BY_CLIP, "label_scale"),
        labelled=False,
        target=Target("p(x) exp(scale likeness to --clip-text), guided by its gradient [TDS]", targets.by_clip),
    ),
    "training-free": Row(
        "along the gradient of --criterion, by --rho through the network and by --mu not [TFG 2409.15761]",
        lambda p: (p.clean_base, lambda d: d),
        ("clean",),
        (*CLEAN, *STRENGTHS),
        ("ramp",),
        step=training_free.make_step,
        clips_step=True,
    ),
    "classifier-free": Row(
        "u + scale (c - u) [CFG 2207.12598]",
        lambda p: (p.conditional, lambda c: guidance.classifier_free(c, p.unconditional, p.scale)),
        ("null",),
        follow=FREE,
        target=Target("p(x)^(1 - scale) p(x | c)^scale itself [FKC 2503.02819]", targets.corrected),
        pair=True,
    ),
    "gibbs-like": Row(
        "c, then --repeats times noised up to --renoise and denoised in --calls by classifier-free [CFGiG 2505.21101]",
        lambda p: (p.conditional, lambda c: c),
        ("null",),
        ("repeats", "calls", "renoise"),
        ("dynamic",),
        again=gibbs.guided,
    ),
    "negative": Row(
        "n + scale (c - n), n the model with the label of --negative [CFG 2207.12598]",
        _negative,
        ("negative", "conditional"),
        ("negative",),
        FREE,
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
        follow=(*ALL[:-1], "anneal"),
        clips_inside=True,
        pair=True,
    ),
    "projected": Row(
        "APG: the part of c - u across c only, with --momentum and --radius [APG 2410.02416]",
        _projected,
        ("null",),
        ("momentum", "radius"),
        ("ramp", "dynamic", "anneal"),
    ),
    "adaptive": Row(
        "u + scale (c - u) until the cosine of c and u is above --stop-cosine, then c in one call [2312.12487]",
        lambda p: (
            p.conditional,
            lambda c: guidance.adaptive(c, p.unconditional, p.scale, p.request.stop_cosine),
        ),
        ("null",),
        ("stop_cosine",),
        ("ramp", "dynamic", "anneal"),
        saves=True,
    ),
    "reused": Row(
        "classifier-free, with u called at every --every steps and c - u of eps used again in between [FC 2410.19355]",
        lambda p: (
            p.conditional,
            lambda c: guidance.reused(c, p.unconditional, p.scale, p.request.every),
        ),
        ("null",),
        ("every",),
        ("ramp", "dynamic", "anneal"),
        saves=True,
    ),
    "distilled": Row(
        "one call of a network that was trained to be told --scale, by --diffusion.distill-from [GD 2210.03142]",
        lambda p: (p.distilled, lambda c: c),
        ("scales",),
        follow=("interval", "ramp", "dynamic"),
        by_scale=lambda p: True,
    ),
    "zero-star": Row(
        "CFG-Zero*: a u + scale (c - a u), a the best fit of u to c [CFG-Zero* 2503.18886]",
        lambda p: (p.conditional, lambda c: guidance.zero_star(c, p.unconditional, p.scale)),
        ("null",),
        follow=FREE,
        pair=True,
    ),
    "frequency-decoupled": Row(
        "u + sum of scales times the bands of c - u: --scale the finest, --coarse-scales the others [FDG 2506.19713]",
        _frequency_decoupled,
        ("null",),
        ("coarse_scales",),
        FREE,
        pair=True,
    ),
    "tangential": Row(
        "u' + scale (c - u') in eps, u' the part of u that it has in common with c [TCFG 2503.18137]",
        lambda p: (p.conditional, lambda c: guidance.tangential(c, p.unconditional, p.scale)),
        ("null",),
        follow=FREE,
        pair=True,
    ),
    "magnitude-aware": Row(
        "u + scale (c - u), less where |c - u| is large, by --damping [MAMBO-G 2508.03442]",
        lambda p: (
            p.conditional,
            lambda c: guidance.magnitude_aware(c, p.unconditional, p.scale, p.request.damping),
        ),
        ("null",),
        ("damping",),
        FREE,
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
    "domain": Row(
        "u + scale (c - u), u without a label by the run of --bad, which this one was fine-tuned from [DoG 2504.01521]",
        lambda p: (p.conditional, lambda c: guidance.classifier_free(c, p.bad_null, p.scale)),
        ("bad", "bad_null", "conditional"),
        ("bad",),
    ),
    "perturbed-attention": Row(
        "PAG: away from the same network with identity attention [PAG 2403.17377]",
        lambda p: _perturbed(p, models.identity_attention),
        ("perturb_blocks",),
        ("perturb_blocks", "label_scale"),
        labelled=False,
    ),
    "smoothed-energy": Row(
        "SEG: away from the same network with blurred queries [SEG 2408.00760]",
        lambda p: _perturbed(p, models.blurred_queries()),
        ("perturb_blocks",),
        ("perturb_blocks", "label_scale"),
        labelled=False,
    ),
    "skip-layer": Row(
        "SLG: away from the same network without --skip-blocks [STG 2411.18664]",
        lambda p: _changed(p, skip_blocks=_named(p, "skip_blocks")),
        ("skip_blocks",),
        ("skip_blocks", "label_scale"),
        labelled=False,
    ),
    "internal": Row(
        "IG: away from what the same network says after --exit-block [IG 2512.24176]",
        _internal,
        ("exit_block",),
        ("exit_block", "label_scale"),
        labelled=False,
        by_scale=_at_head,
    ),
    "self-attention": Row(
        "SAG: away from what the network makes of its own blurred x_0 [SAG 2210.00939]",
        _self_attention,
        reads=("blur", "attention_mask"),
        labelled=False,
    ),
    **measurement_rows.MEASUREMENTS,
}
