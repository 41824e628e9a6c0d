"""Criteria by a picture: its colours, its style, or itself, each a normal law around what is wanted.

log N(f(x); f*, error^2) without its constant: -|f(x) - f*|^2 / (2 error^2). Criteria of several statistics add up.

Source of the style: [Gram] Gatys et al. 1508.06576.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, ArrayLike, Float, PyTree

from guided_jax.numerics import root
from guided_jax.schedule import NoiseLevel
from guided_jax.strength import LogProb


def near(target: Array, embed: Callable[[Array], PyTree] = lambda x: x, error: ArrayLike = 1.0) -> LogProb:
    """-|f(x) - f(target)|^2 / (2 error^2): similar to a picture, in its pixels or in any features.

    target: a picture, of the shape of x, or of another that f takes.
    embed: f, picture -> features, an array or a pytree of arrays, such as those of a network for faces; the picture itself
        by default.
    error: the standard deviation of a feature, a number or traced value.
    Returns (x, level) -> scalar.

    >>> level = gj.schedule.at(gj.schedule.cosine(10), 0)
    >>> mean = lambda x: x.mean()
    >>> float(gj.criteria.near(jnp.zeros((2, 2, 1)), mean, error=0.5)(jnp.ones((2, 2, 1)), level))
    -2.0
    """
    wanted = embed(jnp.asarray(target))

    def log_prob(x: Float[Array, "*shape"], level: NoiseLevel) -> Float[Array, ""]:
        differences = jax.tree.map(lambda own, other: jnp.sum(jnp.square(own - other)), embed(x), wanted)
        return -sum(jax.tree.leaves(differences)) / (2 * jnp.square(error))

    return log_prob


def colour(
    mean: Float[ArrayLike, " channels"], deviation: Float[ArrayLike, " channels"] | None = None, error: ArrayLike = 0.1
) -> LogProb:
    """-sum_c (mean_c(x) - mean_c)^2 / (2 error^2), and the same of the deviations: the colours of a picture.

    mean: of each channel, in the range of x, such as [-1, 1].
    deviation: the standard deviation of each channel over the pixels; None for any.
    error: the standard deviation of both, a number or traced value.
    Returns (x, level) -> scalar, of pictures (height, width, channels).
    Raises ValueError for another number of channels.

    >>> level, grey = gj.schedule.at(gj.schedule.cosine(10), 0), jnp.zeros((4, 4, 3))
    >>> red = gj.criteria.colour(jnp.array([1.0, -1.0, -1.0]), error=1.0)
    >>> float(red(grey, level))
    -1.5
    """
    wanted = [jnp.asarray(mean), *([] if deviation is None else [jnp.asarray(deviation)])]

    def log_prob(x: Float[Array, "h w channels"], level: NoiseLevel) -> Float[Array, ""]:
        if wanted[0].shape != x.shape[-1:]:
            raise ValueError(
                f"the colour has shape {wanted[0].shape}, and x {x.shape[-1]} channels; give as many numbers"
            )
        found = channel_statistics(x)
        squares = [jnp.sum(jnp.square(own - other)) for own, other in zip(found, wanted, strict=False)]
        return -sum(squares) / (2 * jnp.square(error))

    return log_prob


def channel_statistics(picture: Float[Array, "h w channels"]) -> tuple[Array, Array]:
    """Return the mean and the standard deviation of each channel of a picture over its pixels, for `colour`."""
    mean = jnp.mean(picture, (0, 1), keepdims=True)
    return mean[0, 0], root(jnp.mean(jnp.square(picture - mean), (0, 1)))


def style(target: Array, features: Callable[[Array], PyTree], error: ArrayLike = 1.0) -> LogProb:
    """-sum_l |G_l(x) - G_l(target)|^2 / (2 error^2), G = F^T F / (h w) of the feature maps F ([Gram]).

    The Gram matrix holds how often features come together, not where: textures and strokes, not objects.
    target: a picture, of any size that `features` takes.
    features: picture -> feature maps (h, w, c), an array or a pytree of several, such as layers of a network, or `patches`.
    error: the standard deviation of an entry of G, a number or traced value.
    Returns (x, level) -> scalar.

    >>> level, stripes = gj.schedule.at(gj.schedule.cosine(10), 0), jnp.tile(jnp.array([[[1.0]], [[-1.0]]]), (4, 8, 1))
    >>> like = gj.criteria.style(stripes, gj.criteria.patches)
    >>> across = jnp.swapaxes(stripes, 0, 1)
    >>> bool(like(stripes[2:], level) > -0.1), bool(like(across, level) < -1)
    (True, True)
    """
    return near(target, lambda x: jax.tree.map(_gram, features(x)), error)


def patches(picture: Float[Array, "h w c"], size: int = 3, scales: int = 2) -> list[Array]:
    """Return the patches of size x size pixels, (h', w', size^2 c), at several scales, each of half the side: for `style`.

    picture: (height, width, channels). size: of a patch. scales: how many, fewer where the picture has not the pixels.
    """
    found = []
    for _ in range(scales):
        height, width, channels = picture.shape
        if min(height, width) < size:
            break
        rows, columns = height - size + 1, width - size + 1
        shifted = [picture[i : i + rows, j : j + columns] for i in range(size) for j in range(size)]
        found.append(jnp.concatenate(shifted, axis=-1))
        half = picture[: height // 2 * 2, : width // 2 * 2]
        picture = half.reshape(height // 2, 2, width // 2, 2, channels).mean((1, 3))
    return found


def _gram(features: Float[Array, "h w c"]) -> Float[Array, "c c"]:
    flat = features.reshape(-1, features.shape[-1])
    return flat.T @ flat / len(flat)
