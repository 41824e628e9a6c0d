"""Pictures of the training data that a network looks up by their captions, as a second answer to what a text means.

A convolutional network that is told a text by one vector has to learn the layout of each thing by heart. With a memory it
is shown pictures of the things whose captions are nearest: retrieval-augmented diffusion [RDM], [Re-Imagen]. Where these
give a few neighbours to attention, here their weighted mean is concatenated to the input, which a convolution uses at
once. A picture of the very same caption is left out, so that training does not copy it.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Num

from guided_jax.models.blocks import resize_bilinear

WIDTH = 384  # numbers of the vector that stands for a text whose words are learned
SHARPNESS = 20.0  # of the cosine of two captions, before training
SAME = 0.999  # cosine of two captions that are the same


class Memory(nn.Module):
    """pictures = net(given, shape): for each text the mean of the pictures that are kept, by softmax(W q . k + b . k).

    q and k are the directions of the text and of the caption of a picture from the mean caption. W, which begins near
    `SHARPNESS` times the identity, and b are learned for each head, so that one can look for the thing and another for the
    style. The pictures and their captions, "pictures" and "keys", are data: `remember` sets them and no gradient moves
    them. They are kept at half the side.

    size: pictures at most. num_words: of the vocabulary of a network that learns words; None for states.

    >>> net, states = Memory(6), jnp.ones((3, 5, 8))
    >>> params = net.init(jax.random.key(0), states, (4, 4, 3))
    >>> net.apply(params, states, (4, 4, 3)).shape
    (3, 4, 4, 12)
    """

    size: int
    heads: int = 4
    num_words: int | None = None

    @nn.compact
    def __call__(self, given: Num[Array, "..."], shape: tuple[int, int, int]) -> Float[Array, "*batch h w c"]:
        """given: states (*batch, length, features) or numbers of words (*batch, length), as of `TextEmbedding`; 0 comes of
        an empty one. shape: (h, w, c) of a picture, of which there are `heads` along the channels.
        """
        query, told = summary(given, self.num_words)
        height, width, channels = shape
        small = *_half(height, width), channels
        keys, pictures = (
            jax.lax.stop_gradient(self.param(name, nn.initializers.zeros, (self.size, *each)))
            for name, each in (("keys", query.shape[-1:]), ("pictures", small))
        )
        used, batch = jnp.any(keys != 0, axis=-1), query.shape[:-1]
        mean = keys.sum(0, keepdims=True) / jnp.maximum(used.sum(), 1)
        query, keys = _direction(query.reshape(-1, query.shape[-1]) - mean), _direction(keys - mean)
        asked = nn.DenseGeneral((self.heads, query.shape[-1]), kernel_init=_near_identity, name="query")(query)
        logits = jnp.einsum("qhd,nd->qhn", asked, keys)
        seen = used[None] & (query @ keys.T < SAME) & told.reshape(-1, 1)
        weights = jax.nn.softmax(jnp.where(seen[:, None], logits, -1e9), axis=-1)
        weights = jnp.where(seen[:, None], weights, 0.0)
        found = jnp.einsum("qhn,nijc->qijhc", weights, pictures)
        return resize_bilinear(found.reshape(*batch, *small[:2], self.heads * channels), (height, width))


def summary(
    given: Num[Array, "..."], num_words: int | None = None
) -> tuple[Float[Array, "*batch d"], Bool[Array, "*batch"]]:
    """Return (the mean of the states of each text, whether it has any).

    given, num_words: as of `Memory`. Where words are learned, a fixed random vector stands for each.
    """
    if num_words is None:
        keep, states = ~jnp.isnan(given[..., 0]), jnp.nan_to_num(given)
    else:
        keep, table = given > 0, jax.random.normal(jax.random.key(0), (num_words + 1, WIDTH))
        states = table[given] * keep[..., None]
    return states.sum(-2) / jnp.maximum(keep.sum(-1, keepdims=True), 1), keep.any(-1)


def remember(
    size: int, given: Num[Array, "n ..."], pictures: Float[Array, "n h w c"], num_words: int | None = None
) -> dict[str, Array]:
    """Return the "keys" and "pictures" of a `Memory`, of which the last places are empty where it has more than there are.

    size, num_words: as of `Memory`. given: the captions, as the network is given them. pictures: n of them, as the network
    is given them. ValueError for more than it has places for.
    """
    count, height, width, channels = pictures.shape
    if count > size:
        raise ValueError(f"a memory of {size} places cannot hold {count} pictures; make it larger.")
    small = count, *_half(height, width), channels
    found = {
        "keys": summary(given, num_words)[0],
        "pictures": jax.image.resize(pictures, small, "linear", antialias=True),
    }
    return {name: jnp.pad(each, [(0, size - count)] + [(0, 0)] * (each.ndim - 1)) for name, each in found.items()}


def _half(height: int, width: int) -> tuple[int, int]:
    return -(-height // 2), -(-width // 2)


def _direction(x: Array) -> Array:
    return x / jnp.sqrt((x**2).sum(-1, keepdims=True) + 1e-6)


def _near_identity(key: Array, shape: tuple[int, ...], dtype: Any = jnp.float32) -> Array:
    """Return a kernel (d, heads * d), each head `SHARPNESS` times the identity, and noise a third as large."""
    rows = shape[0]
    kernel = jnp.tile(jnp.eye(rows, dtype=dtype), (1, shape[1] // rows))
    noise = jax.random.normal(key, kernel.shape, dtype) / rows**0.5
    return (SHARPNESS * (kernel + noise / 3)).reshape(shape)
