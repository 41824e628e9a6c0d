"""Terms of an autoencoder's loss, each a number for each example: reconstruction, Kullback-Leibler, perceptual.

Every term is per number of the picture, so that their weights are those of [LDM], which sums both over a picture: there
the weight of the Kullback-Leibler term is 1e-6.

Sources: [VAE] Kingma & Welling 1312.6114, [LDM] Rombach et al. 2112.10752 appendix G, [LPIPS] Zhang et al. 1801.03924.
"""

from collections.abc import Sequence

import jax.numpy as jnp
from jaxtyping import Array, Float

DISTANCES = {"l1": jnp.abs, "l2": jnp.square}


def reconstruction(
    output: Float[Array, "batch *shape"], image: Float[Array, "batch *shape"], distance: str = "l1"
) -> Float[Array, " batch"]:
    """mean over the numbers of |output - image|, or of its square.

    output, image: (B, *shape).
    distance: "l1" or "l2".
    Returns (B,).
    Raises ValueError for another distance.

    >>> gj.losses.autoencoding.reconstruction(jnp.ones((1, 4)), jnp.zeros((1, 4)) - 1, "l2").tolist()
    [4.0]
    """
    if distance not in DISTANCES:
        raise ValueError(f"unknown distance {distance!r}; choose one of {', '.join(DISTANCES)}")
    return jnp.mean(DISTANCES[distance](output - image), axis=tuple(range(1, image.ndim)))


def kl_divergence(
    mean: Float[Array, "batch *shape"], log_variance: Float[Array, "batch *shape"]
) -> Float[Array, " batch"]:
    """KL(N(mean, exp(log_variance)), N(0, 1)) = sum of (mean^2 + exp(log_variance) - 1 - log_variance) / 2 ([VAE] app. B).

    mean, log_variance: (B, *shape), of a latent.
    Returns (B,), in nats.

    >>> gj.losses.autoencoding.kl_divergence(jnp.full((1, 3), 2.0), jnp.zeros((1, 3))).tolist()
    [6.0]
    """
    each = (jnp.square(mean) + jnp.exp(log_variance) - 1 - log_variance) / 2
    return jnp.sum(each, axis=tuple(range(1, mean.ndim)))


def perceptual(
    maps: Sequence[Float[Array, "batch _ _ _"]], others: Sequence[Float[Array, "batch _ _ _"]]
) -> Float[Array, " batch"]:
    """sum over the layers of mean over the positions of |f / |f| - g / |g||^2 ([LPIPS] eq. 1 with all weights 1).

    maps, others: of each layer the features f of the picture, (B, h, w, c), and g of its reconstruction.
    Returns (B,).

    >>> one, two = jnp.array([[[[1.0, 0.0]]]]), jnp.array([[[[0.0, 5.0]]]])
    >>> round(float(gj.losses.autoencoding.perceptual([one], [two])[0]), 4)
    2.0
    """
    layers = [
        jnp.mean(jnp.sum(jnp.square(_unit(f) - _unit(g)), axis=-1), axis=(1, 2))
        for f, g in zip(maps, others, strict=True)
    ]
    return sum(layers[1:], layers[0])


def _unit(features: Array) -> Array:
    """features / |features|, of each position; the square root has a gradient where the features are 0."""
    return features / jnp.sqrt(jnp.sum(jnp.square(features), axis=-1, keepdims=True) + 1e-10)
