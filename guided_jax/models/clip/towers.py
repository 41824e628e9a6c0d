"""The two transformers of CLIP, one of text and one of pictures.

    x = tokens + positions                                                  text, causal
    x = norm([class, W patches] + positions)                                pictures
    x += attention(norm(x)),  x += W act(W norm(x))                         in each layer
    projected = W norm(x) at the end of the text, or at the class token

Source: [CLIP] Radford et al. 2103.00020.
"""

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from guided_jax.checks import check_index
from guided_jax.models.encoder import to_patches
from guided_jax.models.sequence import (
    SelfAttention,
    activation,
    causal_mask,
    keep_mask,
    layer_norm,
    mask_bias,
    small_normal,
)

LEGACY_EOS = 2  # what old configurations say, whatever their tokenizer has: the end of the text is its highest id


class TextFeatures(NamedTuple):
    """What the text tower returns, float32 unless the tower's dtype is said.

    last: (*batch, length, width) after the final norm. penultimate: the input of the last layer, not normed, in the tower's
    dtype. pooled: (*batch, width), the row of `last` at the end of the text. projected: (*batch, projection), W pooled, or
    None of a tower without projection.
    """

    last: Array
    penultimate: Array
    pooled: Array
    projected: Array | None


class VisionFeatures(NamedTuple):
    """What the vision tower returns: tokens (*batch, 1 + patches, width), not normed, in the tower's dtype, the class token
    first; pooled (*batch, width), the class token after the norm; projected (*batch, projection), W pooled, or None. The
    last two are float32.
    """

    tokens: Array
    pooled: Array
    projected: Array | None


class Layer(nn.Module):
    """x += attention(norm(x)), x += W act(W norm(x))."""

    num_heads: int
    mlp_width: int
    activation: str
    norm_epsilon: float
    dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, x: Float[Array, "*batch length width"], bias: Any = None) -> Float[Array, "*batch length width"]:
        """bias: as of `blocks.attend`."""
        h = layer_norm(self.norm_epsilon, "norm_1")(x).astype(self.dtype)
        x = x + SelfAttention(self.num_heads, dtype=self.dtype, name="attention")(h, bias)
        h = layer_norm(self.norm_epsilon, "norm_2")(x).astype(self.dtype)
        h = activation(self.activation)(nn.Dense(self.mlp_width, dtype=self.dtype, name="fc1")(h))
        return x + nn.Dense(x.shape[-1], dtype=self.dtype, name="fc2")(h)


def _layers(tower: Any) -> list[Layer]:
    arguments = (tower.num_heads, tower.mlp_width, tower.activation, tower.norm_epsilon, tower.dtype)
    return [Layer(*arguments) for _ in range(tower.depth)]


def _projection(features: int | None) -> nn.Dense | None:
    return None if features is None else nn.Dense(features, use_bias=False, dtype=jnp.float32)


class CLIPText(nn.Module):
    """features = net.apply(params, ids), `TextFeatures`; params = net.init(key, ids).

    Every hidden state: states = net.apply(params, ids, method="hidden_states"), of which states[0] are the tokens with
    their positions and states[-1] comes before the final norm; net.apply(params, states[-(k + 1)], method="normalize")
    skips k layers.

    max_length: tokens at most. activation: "quick_gelu" of OpenAI's weights, "gelu" of OpenCLIP's.
    eos_token_id: the text ends at the first such id; 2 means at its highest id, as in all old configurations.
    projection_width: numbers of `projected`; None for a tower without.
    dtype: of the layers; embeddings, norms, softmax and the projection are float32.

    >>> net = CLIPText(vocab_size=50, width=32, depth=2, num_heads=4, mlp_width=64, eos_token_id=49)
    >>> ids = jnp.zeros((5, 77), int)
    >>> params = jax.eval_shape(net.init, jax.random.key(0), ids)
    >>> jax.eval_shape(net.apply, params, ids).last.shape
    (5, 77, 32)
    """

    vocab_size: int = 49408
    width: int = 512
    depth: int = 12
    num_heads: int = 8
    mlp_width: int = 2048
    max_length: int = 77
    activation: str = "quick_gelu"
    eos_token_id: int = 49407
    projection_width: int | None = None
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Name the layers."""
        self.token_embedding = nn.Embed(self.vocab_size, self.width, embedding_init=small_normal, dtype=jnp.float32)
        self.position_embedding = self.param("position_embedding", small_normal, (self.max_length, self.width))
        self.layers = _layers(self)
        self.final_norm = layer_norm(self.norm_epsilon)
        self.projection = _projection(self.projection_width)

    def __call__(self, ids: Int[Array, "*batch length"], mask: Any = None, vectors: Any = None) -> TextFeatures:
        """ids: any number of batch axes, none included; traced ids out of range are not seen. mask: 1 for tokens that may
        be attended to, 0 for others, of the shape of ids; None for all, as the diffusion models want it. vectors: (*batch,
        length, width), in place of the rows that `embed` returns for the ids, which then tell only where the text ends.
        ValueError for ids outside the vocabulary and texts that are too long.
        """
        states = self.hidden_states(ids, mask, vectors)
        last = self.normalize(states[-1])
        pooled = jnp.take_along_axis(last, self._end(ids)[..., None, None], axis=-2)[..., 0, :]
        projected = None if self.projection is None else self.projection(pooled)
        return TextFeatures(last, states[-2], pooled, projected)

    def hidden_states(
        self, ids: Int[Array, "*batch length"], mask: Any = None, vectors: Any = None
    ) -> tuple[Array, ...]:
        """Return the depth + 1 states (*batch, length, width) before the layers, between them and after; none is normed."""
        ids = jnp.asarray(ids)
        length = ids.shape[-1]
        if length > self.max_length:
            raise ValueError(f"the tower reads {self.max_length} tokens at most, and was given {length}; cut the text.")
        x = self.embed(ids) if vectors is None else jnp.asarray(vectors, jnp.float32)
        positions = self.position_embedding[:length].astype(jnp.float32)
        x = (x + positions.reshape((1,) * (x.ndim - 2) + positions.shape)).astype(self.dtype)
        allowed = causal_mask(length)
        if mask is not None:
            allowed = allowed.reshape((1,) * (ids.ndim - 1) + allowed.shape) & keep_mask(mask, ids.shape)[..., None, :]
        return _run(self.layers, x, mask_bias(allowed))

    def embed(self, ids: Int[Array, "*batch length"]) -> Float[Array, "*batch length width"]:
        """Return the row of the table of tokens for each id, float32."""
        check_index("id", ids, self.vocab_size)
        return self.token_embedding(jnp.asarray(ids))

    def normalize(self, x: Float[Array, "*batch length width"]) -> Float[Array, "*batch length width"]:
        """Return the final norm of a hidden state, float32."""
        return self.final_norm(x)

    def _end(self, ids: Array) -> Array:
        """Return where each text ends."""
        ids = jnp.asarray(ids)
        return jnp.argmax(ids if self.eos_token_id == LEGACY_EOS else ids == self.eos_token_id, axis=-1)


class CLIPVision(nn.Module):
    """features = net.apply(params, pixels), `VisionFeatures`; params = net.init(key, pixels).

    pixels: (*batch, image_size, image_size, channels) as `preprocess` returns them. The fields are those of `CLIPText`.
    net.apply(params, pixels, method="hidden_states") has every state; [0] comes before the layers, [-1] is `tokens`.
    """

    image_size: int = 224
    patch_size: int = 32
    channels: int = 3
    width: int = 768
    depth: int = 12
    num_heads: int = 12
    mlp_width: int = 3072
    activation: str = "quick_gelu"
    projection_width: int | None = None
    norm_epsilon: float = 1e-5
    dtype: Any = jnp.float32

    def setup(self) -> None:
        """Name the layers."""
        self.patch_embedding = nn.Dense(self.width, use_bias=False, dtype=self.dtype)
        self.class_embedding = self.param("class_embedding", small_normal, (self.width,))
        positions = (self.image_size // self.patch_size) ** 2 + 1
        self.position_embedding = self.param("position_embedding", small_normal, (positions, self.width))
        self.pre_norm = layer_norm(self.norm_epsilon)
        self.layers = _layers(self)
        self.post_norm = layer_norm(self.norm_epsilon)
        self.projection = _projection(self.projection_width)

    def __call__(self, pixels: Float[Array, "*batch h w c"]) -> VisionFeatures:
        """ValueError for pictures of another size."""
        tokens = self.hidden_states(pixels)[-1]
        pooled = self.post_norm(tokens[..., 0, :])
        return VisionFeatures(tokens, pooled, None if self.projection is None else self.projection(pooled))

    def hidden_states(self, pixels: Float[Array, "*batch h w c"]) -> tuple[Array, ...]:
        """Return the depth + 1 states (*batch, 1 + patches, width) before the layers, between them and after."""
        size = (self.image_size, self.image_size, self.channels)
        if pixels.shape[-3:] != size:
            raise ValueError(
                f"the tower takes pictures of shape {size} and was given {pixels.shape[-3:]}; preprocess resizes them."
            )
        patches = self.patch_embedding(to_patches(pixels.astype(self.dtype), self.patch_size))
        patches = patches.reshape(*patches.shape[:-3], -1, self.width).astype(jnp.float32)
        first = jnp.broadcast_to(self.class_embedding.astype(jnp.float32), (*patches.shape[:-2], 1, self.width))
        positions = self.position_embedding.astype(jnp.float32)
        x = jnp.concatenate([first, patches], axis=-2) + positions.reshape((1,) * (patches.ndim - 2) + positions.shape)
        return _run(self.layers, self.pre_norm(x).astype(self.dtype))


def _run(layers: Sequence[Layer], x: Array, bias: Any = None) -> tuple[Array, ...]:
    """Return x and the output of each layer in turn."""
    states = [x]
    for layer in layers:
        states.append(layer(states[-1], bias))
    return tuple(states)


class CLIP(nn.Module):
    """Both towers: logit = net.apply(params, pixels, ids); theirs are `text` and `vision` of params["params"].

    net.apply(params, ids, method="encode_text") is what `text` returns, and "encode_image" what `vision` returns; their
    `projected` are compared by `similarity`.
    """

    text: CLIPText
    vision: CLIPVision

    def setup(self) -> None:
        """Name the temperature, which starts at 0.07."""
        self.logit_scale = self.param("logit_scale", nn.initializers.constant(-math.log(0.07)), ())

    def __call__(
        self, pixels: Float[Array, "*batch h w c"], ids: Int[Array, "*batch length"]
    ) -> Float[Array, "*batch"]:
        """exp(logit_scale) cos(picture, text), of one picture and one text, or of one text for each picture."""
        image, text = self.encode_image(pixels).projected, self.encode_text(ids).projected
        if image is None or text is None:
            raise ValueError("a tower has no projection; give both the same projection_width.")
        return jnp.exp(self.logit_scale.astype(jnp.float32)) * similarity(image, text)

    def encode_text(self, ids: Int[Array, "*batch length"], mask: Any = None, vectors: Any = None) -> TextFeatures:
        """Return what `CLIPText` returns for the ids, the mask and the vectors."""
        return self.text(ids, mask, vectors)

    def encode_image(self, pixels: Float[Array, "*batch h w c"]) -> VisionFeatures:
        """Return what `CLIPVision` returns for the pixels."""
        return self.vision(pixels)


def similarity(u: Float[Array, "*#batch d"], v: Float[Array, "*#batch d"]) -> Float[Array, "..."]:
    """u . v / (|u| |v|), at most 1; batch axes are broadcast: similarity(u[:, None], v[None]) is that of all pairs.

    >>> similarity(jnp.array([[3.0, 0.0], [0.0, 2.0]]), jnp.array([[1.0, 1.0]])).tolist()
    [0.7071067690849304, 0.7071067690849304]
    """
    u, v = (jnp.asarray(each, jnp.float32) for each in (u, v))
    norms = jnp.square(u).sum(-1) * jnp.square(v).sum(-1)
    return (u * v).sum(-1) * jax.lax.rsqrt(norms)
