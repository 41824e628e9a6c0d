"""How well an example shows its prompts, by the embeddings of a CLIP: criteria of one example.

    embed_image: (x, level) -> embedding (d,) of x;  u = embedding / |embedding|,  v_i likewise of prompt i

A CLIP of noisy examples, which reads x_t and the level, goes into `guidance.classifier` ([GLIDE]); one of clean pictures,
which ignores the level, into `guidance.universal` and `guidance.off_the_shelf`. A published CLIP wants pictures with its
own mean and deviation: `pretrained.clip.embed_image` takes them in [-1, 1]. The gradient acts on the `Prediction` of a
denoiser, so it does not matter which parameterization the network has.

Sources: [GLIDE] Nichol et al. 2112.10741 section 2.4, [CLIP] Radford et al. 2103.00020. The spherical distance is Katherine
Crowson's, of her CLIP-guided diffusion (2021), which has no paper.
"""

from collections.abc import Callable

import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, Int

from guided_jax.criteria.log_prob import Logits, from_logits
from guided_jax.numerics import norm, ratio, widen
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb

Embed = Callable[[Array, NoiseLevel], Array]  # (x, level) -> embedding (d,), of any length


def similarity(
    embed_image: Embed,
    texts: Float[ArrayLike, "*prompts d"],
    weights: ArrayLike | None = None,
    temperature: ArrayLike = 1.0,
) -> LogProb:
    """sum_i w_i u . v_i / temperature, whose gradient guides in [GLIDE].

    embed_image: (x, level) -> embedding (d,).
    texts: embeddings of the prompts (P, d), or of one (d,); of any length; may be traced.
    weights: w_i, (P,); negative ones lead away from a prompt; all 1 if None. They are not normalised.
    temperature: 1 / exp(tau) of the CLIP, a number or traced value; [GLIDE] guides by it at scale 3.
    Returns (x, level) -> scalar.
    Raises ValueError for another number of weights, and for embeddings of another length than that of x.

    >>> level, embed_image = gj.schedule.at(gj.schedule.cosine(10), 5), lambda x, level: x
    >>> two = gj.criteria.similarity(embed_image, jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([1.0, -0.5]))
    >>> round(float(two(jnp.array([3.0, 4.0]), level)), 3)  # 3/5 - 4/5 / 2
    0.2
    """
    v, w = _prompts(texts, weights)
    return lambda x, level: jnp.sum(w * _cosines(embed_image, v)(x, level)) / temperature


def among(
    embed_image: Embed,
    names: Float[ArrayLike, "names d"],
    index: Int[ArrayLike, "*indices"],
    temperature: ArrayLike = 1.0,
) -> LogProb:
    """log softmax_i(u . v_i / temperature) at a name, or at any of several: a proper log p(name | x) among all names.

    embed_image: (x, level) -> embedding (d,).
    names: embeddings of all names (N, d), of any length, each name once.
    index: of the name wanted, or of several; may be traced.
    temperature: 1 / exp(tau) of the CLIP, a number or traced value.
    Returns (x, level) -> scalar; errors as of `from_logits`, of which it is.
    """
    v, _ = _prompts(names, None)
    logits: Logits = lambda x, level: _cosines(embed_image, v)(x, level) / temperature  # noqa: E731
    return from_logits(logits, index)


def spherical(embed_image: Embed, texts: Float[ArrayLike, "*prompts d"], weights: ArrayLike | None = None) -> LogProb:
    """-sum_i w_i 2 asin^2(|u - v_i| / 2): half the squared angle, Crowson's spherical distance with the sign changed.

    Computed as asin(|u - v| / 2) = atan(|u - v| / |u + v|), which keeps its digits at every angle. For a clean CLIP,
    averaged over crops by `over_cutouts`. Crowson shows CLIP sigma x_0 + (1 - sigma) x_t; guidance here shows x_0.
    embed_image: (x, level) -> embedding (d,).
    texts, weights: as for `similarity`; Crowson divides the weights by the size of their sum.
    Returns (x, level) -> scalar, at most 0 for weights of at least 0; errors as of `similarity`.
    """
    v, w = _prompts(texts, weights)

    def log_prob(x: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        u = _unit(_embedding(embed_image, v)(x, level))
        return jnp.sum(w * jnp.stack([-2 * jnp.square(jnp.arctan2(norm(u - each), norm(u + each))) for each in v]))

    return log_prob


def _prompts(texts: ArrayLike, weights: ArrayLike | None) -> tuple[Array, Array]:
    """Return (P, d) embeddings of length 1 and (P,) weights; ValueError where they do not fit."""
    v = widen(jnp.asarray(texts))
    v = v[None] if v.ndim == 1 else v
    if v.ndim != 2 or not len(v):
        raise ValueError(f"texts has shape {v.shape}; give the embeddings of one example's prompts, (prompts, d)")
    w = jnp.ones(len(v), v.dtype) if weights is None else jnp.atleast_1d(jnp.asarray(weights, v.dtype))
    if w.shape != (len(v),):
        raise ValueError(f"{len(v)} prompts and weights of shape {w.shape}; give one weight for each")
    return jnp.stack([_unit(each) for each in v]), w


def _embedding(embed_image: Embed, v: Array) -> Embed:
    def embedding(x: Array, level: NoiseLevel) -> Array:
        found = widen(embed_image(x, level))
        if found.shape != v.shape[1:]:
            raise ValueError(
                f"the picture's embedding has shape {found.shape} and a prompt's {v.shape[1:]}; take one CLIP's"
            )
        return found

    return embedding


def _cosines(embed_image: Embed, v: Array) -> Logits:
    return lambda x, level: v @ _unit(_embedding(embed_image, v)(x, level))


def _unit(features: Float[Array, " d"]) -> Float[Array, " d"]:
    """features / |features|, and 0, with gradient 0, for 0."""
    return ratio(features, norm(features))
