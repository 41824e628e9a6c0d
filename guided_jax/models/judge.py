"""A small classifier of clean pictures that judges samples. It is not used for guidance."""

from collections.abc import Sequence

import flax.linen as nn
from jaxtyping import Array, Float, PyTree

from guided_jax.models.blocks import conv3x3, dense, downsample
from guided_jax.models.ops.norm import group_norm


class Judge(nn.Module):
    """(features, logits) = judge.apply(params, x): x (*batch, h, w, c) in [-1, 1], of any size.

    Two convolutions 3x3 for each of `channels`, halved in between while both sides are at least 4. Features are the means
    over the positions after the last width but one, so their number does not depend on the size of the picture: after the
    last, a trained classifier has drawn each class together to nearly a point, which hides what samples lack in variety.
    It takes no noise level and shares no weights with the classifier that guides. A mutable collection "maps" receives the
    features of every position after each width, (*batch, h, w, channels). ValueError for fewer than two widths.
    """

    num_classes: int
    channels: Sequence[int] = (32, 64, 64)
    num_groups: int = 8

    @nn.compact
    def __call__(
        self, x: Float[Array, "*batch h w c"]
    ) -> tuple[Float[Array, "*batch d"], Float[Array, "*batch {self.num_classes}"]]:
        if len(self.channels) < 2:
            raise ValueError(f"channels is {tuple(self.channels)}; a judge has two widths or more")
        for level, channels in enumerate(self.channels):
            if level and min(x.shape[-3:-1]) >= 4:
                x = downsample(x)
            for i in range(2):
                name = f"{level}_{i}"
                x = nn.silu(
                    group_norm(conv3x3(x, channels, f"conv_{name}", plain=True), self.num_groups, f"norm_{name}")
                )
            if self.is_mutable_collection("maps") and not self.is_initializing():
                self.sow("maps", str(level), x)
            if level == len(self.channels) - 2:
                features = x.mean((-3, -2))
        return features, dense(x.mean((-3, -2)), self.num_classes, "head")


def feature_maps(judge: Judge, params: PyTree, x: Float[Array, "*batch h w c"]) -> list[Float[Array, "..."]]:
    """Return the features of every position after each width, (*batch, h', w', channels), of pictures in [-1, 1]."""
    _, found = judge.apply(params, x, mutable=["maps"])
    return [found["maps"][str(level)][0] for level in range(len(judge.channels))]
