"""Writes inception.npz: what an independent Inception-v3 in torch makes of two pictures. Run by hand, with torch:

    python tests/golden/inception_reference.py

The architecture is written down here a second time, as tables of its branches in the channels-first layout of torch, from
the papers and from the keys and shapes of the published weights. Weights are drawn by `weights`, which the test calls too:
only pictures and outputs are stored.
"""

import pathlib
import zlib

import numpy as np

BRANCHES_A = {"branch1x1": [("", 64, (1, 1))], "branch5x5": [("_1", 48, (1, 1)), ("_2", 64, (5, 5))]}
BRANCHES_A["branch3x3dbl"] = [("_1", 64, (1, 1)), ("_2", 96, (3, 3)), ("_3", 96, (3, 3))]


def branches_c(inner):
    """Branch -> its convolutions (suffix, channels, kernel), of the 17 x 17 blocks."""
    row, column = (1, 7), (7, 1)
    double = [(inner, (1, 1)), (inner, column), (inner, row), (inner, column), (192, row)]
    return {
        "branch1x1": [("", 192, (1, 1))],
        "branch7x7": [("_1", inner, (1, 1)), ("_2", inner, row), ("_3", 192, column)],
        "branch7x7dbl": [(f"_{i}", channels, kernel) for i, (channels, kernel) in enumerate(double, 1)],
    }


def weights(shapes, seed=0):
    """key -> array, each by a generator of its own key, so that their order does not matter."""
    return {key: _drawn(key, shape, seed) for key, shape in shapes.items()}


def _drawn(key, shape, seed):
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith(("conv.weight", "fc.weight")):
        scale = np.sqrt(2 / np.prod(shape[1:]))
        return (generator.standard_normal(shape, np.float32) * scale).astype(np.float32)
    if key.endswith(("bn.weight", "running_var")):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    return generator.normal(0, 0.1, shape).astype(np.float32)


class Reference:
    """One network; `shapes` is filled on the way, so a first pass without weights tells what they are."""

    def __init__(self, width, fid, classes):
        self.width, self.fid, self.classes, self.shapes, self.values = width, fid, classes, {}, None

    def tensor(self, key, *shape):
        import torch

        self.shapes[key] = shape
        return torch.zeros(shape) if self.values is None else torch.from_numpy(self.values[key])

    def conv(self, x, name, channels, kernel, stride=1, same=True):
        import torch.nn.functional as F

        channels = max(1, round(channels * self.width))
        padding = tuple(side // 2 for side in kernel) if same else 0
        x = F.conv2d(x, self.tensor(f"{name}.conv.weight", channels, x.shape[1], *kernel), None, stride, padding)
        scale, bias, mean, variance = (
            self.tensor(f"{name}.bn.{leaf}", channels) for leaf in ("weight", "bias", "running_mean", "running_var")
        )
        return F.relu(F.batch_norm(x, mean, variance, scale, bias, False, 0.1, 1e-3))

    def mean3(self, x):
        import torch.nn.functional as F

        return F.avg_pool2d(x, 3, 1, 1, count_include_pad=not self.fid)

    def branches(self, x, block, table, pooled):
        import torch

        outputs = []
        for branch, convolutions in table.items():
            y = x
            for suffix, channels, kernel in convolutions:
                y = self.conv(y, f"{block}.{branch}{suffix}", channels, kernel)
            outputs.append(y)
        outputs.append(self.conv(self.mean3(x), f"{block}.branch_pool", pooled, (1, 1)))
        return torch.cat(outputs, 1)

    def reduction(self, x, block, left, right):
        """The blocks that halve: two chains that end in a 3x3 of stride 2, and a maximum."""
        import torch
        import torch.nn.functional as F

        outputs = []
        for chain in (left, right):
            y = x
            for name, channels, kernel in chain[:-1]:
                y = self.conv(y, f"{block}.{name}", channels, kernel)
            name, channels = chain[-1]
            outputs.append(self.conv(y, f"{block}.{name}", channels, (3, 3), 2, same=False))
        return torch.cat([*outputs, F.max_pool2d(x, 3, 2)], 1)

    def block_e(self, x, block, last):
        import torch
        import torch.nn.functional as F

        one = self.conv(x, f"{block}.branch3x3_1", 384, (1, 1))
        two = self.conv(x, f"{block}.branch3x3dbl_1", 448, (1, 1))
        two = self.conv(two, f"{block}.branch3x3dbl_2", 384, (3, 3))
        pooled = F.max_pool2d(x, 3, 1, 1) if last and self.fid else self.mean3(x)
        outputs = [
            self.conv(x, f"{block}.branch1x1", 320, (1, 1)),
            self.conv(one, f"{block}.branch3x3_2a", 384, (1, 3)),
            self.conv(one, f"{block}.branch3x3_2b", 384, (3, 1)),
            self.conv(two, f"{block}.branch3x3dbl_3a", 384, (1, 3)),
            self.conv(two, f"{block}.branch3x3dbl_3b", 384, (3, 1)),
            self.conv(pooled, f"{block}.branch_pool", 192, (1, 1)),
        ]
        return torch.cat(outputs, 1)

    def __call__(self, x):
        """(pool, spatial in N, H, W, C, logits) of pictures (N, 3, 299, 299)."""
        import torch.nn.functional as F

        x = self.conv(x, "Conv2d_1a_3x3", 32, (3, 3), 2, same=False)
        x = self.conv(x, "Conv2d_2a_3x3", 32, (3, 3), same=False)
        x = F.max_pool2d(self.conv(x, "Conv2d_2b_3x3", 64, (3, 3)), 3, 2)
        x = self.conv(x, "Conv2d_3b_1x1", 80, (1, 1))
        x = F.max_pool2d(self.conv(x, "Conv2d_4a_3x3", 192, (3, 3), same=False), 3, 2)
        for block, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = self.branches(x, block, BRANCHES_A, pooled)
        double = [("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)), ("branch3x3dbl_3", 96)]
        x = self.reduction(x, "Mixed_6a", [("branch3x3", 384)], double)
        for block, inner in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = self.branches(x, block, branches_c(inner), 192)
            if block == "Mixed_6d":
                spatial = x[:, :7].permute(0, 2, 3, 1)
        seven = [("branch7x7x3_1", 192, (1, 1)), ("branch7x7x3_2", 192, (1, 7)), ("branch7x7x3_3", 192, (7, 1))]
        one = [("branch3x3_1", 192, (1, 1)), ("branch3x3_2", 320)]
        x = self.reduction(x, "Mixed_7a", one, [*seven, ("branch7x7x3_4", 192)])
        x = self.block_e(self.block_e(x, "Mixed_7b", False), "Mixed_7c", True)
        pool = x.mean((2, 3))
        matrix, bias = self.tensor("fc.weight", self.classes, pool.shape[1]), self.tensor("fc.bias", self.classes)
        return pool, spatial, pool @ matrix.T + bias


def run(width, fid, classes, pictures):
    """(shapes, arrays) of one network: its outputs for x / 127.5 - 1 after torch's own bilinear resize."""
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255
    x = 2 * F.interpolate(x, size=(299, 299), mode="bilinear", align_corners=False) - 1
    network = Reference(width, fid, classes)
    with torch.no_grad():
        network(x[:1])
        network.values = weights(network.shapes)
        found = network(x)
    names = ("pool", "spatial", "logits")
    return network.shapes, {name: value.numpy() for name, value in zip(names, found, strict=True)}


def main():
    pictures = np.random.default_rng(0).integers(0, 256, (2, 40, 56, 3), np.uint8)
    stored = {"pictures": pictures}
    for name, settings in CASES.items():
        shapes, outputs = run(*settings, pictures)
        stored |= {f"{name}/{key}": value for key, value in outputs.items()}
        stored[f"{name}/keys"] = np.array(sorted(shapes))
        stored[f"{name}/shapes"] = np.array([str(shapes[key]) for key in sorted(shapes)])
    np.savez_compressed(pathlib.Path(__file__).with_name("inception.npz"), **stored)


# width, fid, classes
CASES = {"fid": (0.125, True, 1008), "torchvision": (0.125, False, 1000), "full": (1.0, True, 1008)}


if __name__ == "__main__":
    main()
