"""Inception-v3 for evaluation, in its two published forms. Source: [Inception] Szegedy et al. 1512.00567.

Names of modules and parameters are those of torchvision's weights with "." between them; blocks are listed there in the
order of their outputs' channels. Only inference: batch norms use the statistics that come with the weights.
"""

from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from guided_jax.models.ops.norm import along_last

SIDE = 299  # pixels of its input


class InceptionOutput(NamedTuple):
    """pool (2048,): the mean over the last positions. spatial (17, 17, 7): the first channels of Mixed_6d, which has
    TensorFlow's mixed_6/conv in front. logits (classes,): with their bias."""

    pool: Any
    spatial: Any
    logits: Any


class BatchNorm(nn.Module):
    """(x - running_mean) / sqrt(running_var + 0.001) * scale + bias."""

    @nn.compact
    def __call__(self, x: Float[Array, "*batch c"]) -> Float[Array, "*batch c"]:
        shape = (x.shape[-1],)
        scale, variance = (self.param(name, nn.initializers.ones, shape) for name in ("scale", "running_var"))
        bias, mean = (self.param(name, nn.initializers.zeros, shape) for name in ("bias", "running_mean"))
        factor = scale * jax.lax.rsqrt(variance + 1e-3)
        return x * along_last(factor, x.ndim) + along_last(bias - mean * factor, x.ndim)


class Conv(nn.Module):
    """relu(batch norm(x * k)), padded with zeros so that a stride of 1 keeps the size, unless `valid`."""

    features: int
    kernel: tuple[int, int] = (1, 1)
    stride: int = 1
    valid: bool = False

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w c"]) -> Float[Array, "*batch h2 w2 c2"]:
        padding = "VALID" if self.valid else [(side // 2, side // 2) for side in self.kernel]
        strides = (self.stride, self.stride)
        x = nn.Conv(self.features, self.kernel, strides, padding, use_bias=False, name="conv")(x)
        return nn.relu(BatchNorm(name="bn")(x))


def max_pool(x: Float[Array, "*batch h w c"], stride: int = 2) -> Float[Array, "*batch h2 w2 c"]:
    """The maximum over 3x3 windows; a stride of 1 keeps the size."""
    padding = "VALID" if stride == 2 else ((1, 1), (1, 1))
    return nn.max_pool(x, (3, 3), (stride, stride), padding)


class InceptionV3(nn.Module):
    """InceptionOutput = inception.apply(params, x): x (*batch, 299, 299, 3) in [-1, 1].

    fid: the network of 2015 behind FID (pytorch-fid; TensorFlow's classify_image_graph_def), whose average pools exclude
    padding and whose last block has a maximum pool for an average pool; False: torchvision's network.
    width: factor of all channels, for tests.
    """

    num_classes: int = 1008
    fid: bool = True
    width: float = 1.0

    @nn.compact
    def __call__(self, x: Float[Array, "*batch h w 3"]) -> InceptionOutput:
        x = self._stem(x)
        for name, channels in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = self._block_a(x, name, channels)
        x = self._block_b(x, "Mixed_6a")
        for name, channels in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = self._block_c(x, name, channels)
            if name == "Mixed_6d":
                spatial = x[..., :7]
        x = self._block_d(x, "Mixed_7a")
        x = self._block_e(x, "Mixed_7b", last=False)
        x = self._block_e(x, "Mixed_7c", last=True)
        pool = x.mean((-3, -2))
        return InceptionOutput(pool, spatial, nn.Dense(self.num_classes, name="fc")(pool))

    def _channels(self, channels: int) -> int:
        return max(1, round(channels * self.width))

    def _conv(self, block: str, name: str, channels: int, kernel: Any = 1, **more: Any) -> Any:
        """Return a convolution of the block under its name in the weights, block.name."""
        kernel = (kernel, kernel) if isinstance(kernel, int) else kernel
        return Conv(self._channels(channels), kernel, name=f"{block}.{name}" if block else name, **more)

    def _chain(self, x: Array, block: str, prefix: str, *convolutions: tuple[int, Any]) -> Array:
        """Apply convolutions (channels, kernel) one after the other, named prefix_1, prefix_2, ..."""
        for number, (channels, kernel) in enumerate(convolutions, 1):
            x = self._conv(block, f"{prefix}_{number}", channels, kernel)(x)
        return x

    def _average(self, x: Array) -> Array:
        """The mean over 3x3 windows, stride 1."""
        return nn.avg_pool(x, (3, 3), (1, 1), ((1, 1), (1, 1)), count_include_pad=not self.fid)

    def _stem(self, x: Array) -> Array:
        x = self._conv("", "Conv2d_1a_3x3", 32, 3, stride=2, valid=True)(x)
        x = self._conv("", "Conv2d_2a_3x3", 32, 3, valid=True)(x)
        x = max_pool(self._conv("", "Conv2d_2b_3x3", 64, 3)(x))
        x = self._conv("", "Conv2d_3b_1x1", 80)(x)
        return max_pool(self._conv("", "Conv2d_4a_3x3", 192, 3, valid=True)(x))

    def _block_a(self, x: Array, block: str, pooled: int) -> Array:
        branches = [
            self._conv(block, "branch1x1", 64)(x),
            self._chain(x, block, "branch5x5", (48, 1), (64, 5)),
            self._chain(x, block, "branch3x3dbl", (64, 1), (96, 3), (96, 3)),
            self._conv(block, "branch_pool", pooled)(self._average(x)),
        ]
        return jnp.concatenate(branches, -1)

    def _block_b(self, x: Array, block: str) -> Array:
        double = self._chain(x, block, "branch3x3dbl", (64, 1), (96, 3))
        branches = [
            self._conv(block, "branch3x3", 384, 3, stride=2, valid=True)(x),
            self._conv(block, "branch3x3dbl_3", 96, 3, stride=2, valid=True)(double),
            max_pool(x),
        ]
        return jnp.concatenate(branches, -1)

    def _block_c(self, x: Array, block: str, inner: int) -> Array:
        row, column = (1, 7), (7, 1)
        double = ((inner, 1), (inner, column), (inner, row), (inner, column), (192, row))
        branches = [
            self._conv(block, "branch1x1", 192)(x),
            self._chain(x, block, "branch7x7", (inner, 1), (inner, row), (192, column)),
            self._chain(x, block, "branch7x7dbl", *double),
            self._conv(block, "branch_pool", 192)(self._average(x)),
        ]
        return jnp.concatenate(branches, -1)

    def _block_d(self, x: Array, block: str) -> Array:
        one = self._conv(block, "branch3x3_1", 192)(x)
        seven = self._chain(x, block, "branch7x7x3", (192, 1), (192, (1, 7)), (192, (7, 1)))
        branches = [
            self._conv(block, "branch3x3_2", 320, 3, stride=2, valid=True)(one),
            self._conv(block, "branch7x7x3_4", 192, 3, stride=2, valid=True)(seven),
            max_pool(x),
        ]
        return jnp.concatenate(branches, -1)

    def _block_e(self, x: Array, block: str, last: bool) -> Array:
        one = self._conv(block, "branch3x3_1", 384)(x)
        double = self._chain(x, block, "branch3x3dbl", (448, 1), (384, 3))
        pooled = max_pool(x, 1) if self.fid and last else self._average(x)
        branches = [
            self._conv(block, "branch1x1", 320)(x),
            *self._pair(one, block, "branch3x3_2"),
            *self._pair(double, block, "branch3x3dbl_3"),
            self._conv(block, "branch_pool", 192)(pooled),
        ]
        return jnp.concatenate(branches, -1)

    def _pair(self, x: Array, block: str, name: str) -> tuple[Array, Array]:
        """Apply a 1x3 and a 3x1 convolution to the same input."""
        return self._conv(block, f"{name}a", 384, (1, 3))(x), self._conv(block, f"{name}b", 384, (3, 1))(x)
