"""A CLIP of noised pictures: the encoder of ADM's classifier with the time, beside a small tower on given text states.

    u = f(x_t, t) / |f(x_t, t)|,  v = (W_3 gelu(W_2 m) + W_1 m) / |...|      m: mean of the text's states
    logit = min(exp(tau), 100) u . v

Sources: [GLIDE] Nichol et al. 2112.10741 section 2.4 (a CLIP trained on noised pictures); [CLIP] Radford et al. 2103.00020
section 2.4 (the temperature and its limit).
"""

import math
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Key, Num

from guided_jax.models.bert import mean_direction
from guided_jax.models.blocks import dense
from guided_jax.models.classifier import Classifier
from guided_jax.models.clip import similarity
from guided_jax.models.sequence import keep_mask

FIRST_TEMPERATURE, LOWEST_TEMPERATURE = 0.07, 0.01  # of [CLIP]
SHORTEST = 1e-12  # the length below which an embedding is not made longer


class NoisedCLIP(nn.Module):
    """logit = net.apply(params, x_t, t, states, mask); params = net.init(key, x_t, t, states, mask).

    The towers: u = net.apply(params, x_t, t, method="encode_image"), v = net.apply(params, states, mask,
    method="encode_text"); 1 / min(exp(tau), 100) = net.apply(params, method="temperature").

    image: its `num_classes` are the numbers of an embedding. A pool "adaptive" is refused: its last layer starts at 0, and
    an embedding of 0 has no direction. text_width: of the layer between the states and the embedding. The states (tokens,
    width) come from a language model that is not trained here, and can be computed once for each caption.

    >>> image = Classifier(16, 32, (1, 2), 1, (2,), num_head_channels=32)
    >>> net, x, states = NoisedCLIP(image), jnp.zeros((5, 8, 8, 3)), jnp.zeros((5, 7, 384))
    >>> params = jax.eval_shape(net.init, jax.random.key(0), x, 0.0, states)
    >>> jax.eval_shape(lambda params: net.apply(params, x, 0.0, method="encode_image"), params).shape
    (5, 16)
    """

    image: Classifier
    text_width: int = 512

    def setup(self) -> None:
        """Name the temperature, which starts at 0.07, and the text tower; ValueError for a pool that starts at 0."""
        if self.image.pool == "adaptive":
            raise ValueError(
                "pool is 'adaptive', whose embeddings start at 0; choose 'attention', 'spatial', 'spatial_v2'."
            )
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(-math.log(FIRST_TEMPERATURE)), ())
        self.text = TextTower(self.text_width, self.image.num_classes)

    def __call__(
        self,
        x_t: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        states: Float[Array, "*batch length width"],
        mask: Any = None,
    ) -> Float[Array, "*batch"]:
        """The arguments are those of the towers; a text for each picture."""
        return similarity(self.encode_image(x_t, t), self.encode_text(states, mask)) / self.temperature()

    def encode_image(
        self,
        x_t: Float[Array, "*batch h w c"],
        t: Num[Array, "..."] | float | int,
        dropout_keys: Key[Array, "*batch"] | None = None,
    ) -> Float[Array, "*batch d"]:
        """Return embeddings of length 1; the arguments are those of `Classifier`."""
        return _unit(self.image(x_t, t, dropout_keys=dropout_keys))

    def encode_text(self, states: Float[Array, "*batch length width"], mask: Any = None) -> Float[Array, "*batch d"]:
        """Return embeddings of length 1. mask: (*batch, length), 1 for the tokens of the text, else 0; None for all."""
        return _unit(self.text(states, keep_mask(mask, states.shape[:-1])))

    def temperature(self) -> Float[Array, ""]:
        """1 / min(exp(tau), 100). [CLIP] clips tau after each step; here its gradient passes, so that it can come back."""
        tau = self.logit_scale.astype(jnp.float32)
        beyond = jnp.maximum(tau + math.log(LOWEST_TEMPERATURE), 0.0)
        return jnp.exp(jax.lax.stop_gradient(beyond) - tau)


class TextTower(nn.Module):
    """W_3 gelu(W_2 m) + W_1 m with m = sqrt(width) mean / |mean|, the mean of the states that are kept.

    The direction of the mean is what sentence encoders compare texts by; its numbers have size 1 here.
    """

    hidden: int
    features: int

    @nn.compact
    def __call__(self, states: Float[Array, "*batch length width"], keep: Any) -> Float[Array, "*batch d"]:
        """keep: whether each token counts."""
        mean = mean_direction(states.astype(jnp.float32), keep) * math.sqrt(states.shape[-1])
        inner = nn.gelu(dense(mean, self.hidden, "hidden"), approximate=False)
        return dense(mean, self.features, "linear") + dense(inner, self.features, "out")


def _unit(features: Float[Array, "*batch d"]) -> Float[Array, "*batch d"]:
    """features / |features|, with a finite gradient at 0."""
    return features * jax.lax.rsqrt(jnp.maximum(jnp.square(features).sum(-1, keepdims=True), SHORTEST**2))
