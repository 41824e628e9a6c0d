"""Writes dino.npz: DINOv2 of transformers on pictures, and torch's bicubic interpolation. Run by hand, with both:

    python tests/golden/dino_reference.py

Weights are drawn by `weights`, which the test calls too: only pictures, keys, shapes and outputs are stored. The original,
facebookresearch/dinov2, differs in how it interpolates positions: its numbers are those of a network whose own table is the
interpolated one. Computed in float64.
"""

import ast
import pathlib
import zlib

import numpy as np

SIZE = {"hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 3, "mlp_ratio": 4, "patch_size": 14}
# case -> (image_size of the table, registers, pictures' height and width, whether as the original interpolates)
CASES = {
    "own_size": (70, 0, (70, 70), False),
    "smaller": (70, 0, (42, 56), False),
    "larger": (42, 0, (70, 84), False),
    "registers": (70, 4, (42, 56), False),
    "original": (70, 0, (42, 56), True),
    "metric": (518, 0, (224, 224), True),
}
GRADIENTS = ("registers", "original")
RESIZED = {"larger": (9, 14, 28), "smaller": (100, 61, 28), "mixed": (50, 20, 28)}  # height, width, side after
METRIC_PICTURES = (2, 40, 56, 3)
MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def recorded_weights(case):
    """The weights of a recorded network, drawn again by its keys and shapes."""
    with np.load(pathlib.Path(__file__).with_name("dino.npz"), allow_pickle=False) as file:
        keys, shapes = file[f"{case}/keys"], file[f"{case}/shapes"]
    return weights({str(key): ast.literal_eval(str(shape)) for key, shape in zip(keys, shapes, strict=True)})


def weights(shapes, seed=0):
    """key -> array, each by a generator of its own key, so that their order does not matter; nothing is 0 or constant."""
    return {key: _draw(key, shape, seed) for key, shape in shapes.items()}


def _draw(key, shape, seed):
    generator = np.random.default_rng([seed, zlib.crc32(key.encode())])
    if key.endswith(("lambda1", "norm1.weight", "norm2.weight", "layernorm.weight")):
        return generator.uniform(0.5, 1.5, shape).astype(np.float32)
    if len(shape) in (2, 4) and key.endswith(".weight"):
        return (generator.standard_normal(shape) / np.sqrt(np.prod(shape[1:]))).astype(np.float32)
    return generator.normal(0, 0.5, shape).astype(np.float32)


def pictures(name, *shape):
    """Normal numbers, or bytes where the name says so, by a generator of the name."""
    generator = np.random.default_rng([1, zlib.crc32(name.encode())])
    return (
        generator.integers(0, 256, shape, np.uint8) if "bytes" in name else generator.standard_normal(shape, np.float32)
    )


def make(image_size, registers):
    """(model, its shapes under the keys of its files), filled with `weights`."""
    import tempfile

    import torch
    import transformers
    from safetensors.numpy import load_file

    if registers:
        config = transformers.Dinov2WithRegistersConfig(**SIZE, image_size=image_size, num_register_tokens=registers)
        kind = transformers.Dinov2WithRegistersModel
    else:
        config, kind = transformers.Dinov2Config(**SIZE, image_size=image_size), transformers.Dinov2Model
    with tempfile.TemporaryDirectory() as folder:
        from safetensors.numpy import save_file

        kind(config).save_pretrained(folder)
        shapes = {key: array.shape for key, array in load_file(f"{folder}/model.safetensors").items()}
        save_file(weights(shapes), f"{folder}/model.safetensors", {"format": "pt"})
        model = kind.from_pretrained(folder, attn_implementation="eager", dtype=torch.float32)
    return model.double().eval(), shapes


def with_interpolated_table(model, size):
    """The same network made for pictures of `size`, its table interpolated as facebookresearch/dinov2 does: by the factor
    (patches + 0.1) / (patches of the table), each side on its own."""
    import torch
    import torch.nn.functional as F

    table = model.embeddings.position_embeddings.detach()
    side = round((table.shape[1] - 1) ** 0.5)
    patches = [each // 14 for each in size]
    grid = table[:, 1:].reshape(1, side, side, -1).permute(0, 3, 1, 2)
    factors = tuple((number + 0.1) / side for number in patches)
    grid = F.interpolate(grid.float(), scale_factor=factors, mode="bicubic").double()
    assert list(grid.shape[2:]) == patches
    found = torch.cat([table[:, :1], grid.permute(0, 2, 3, 1).reshape(1, -1, table.shape[2])], 1)
    model.embeddings.interpolate_pos_encoding = lambda *_: found
    return model


def run(model, x, cotangent=None):
    """(pooled, patches) as N, h, w, d, and the gradient of sum(cotangent pooled) by x, N, H, W, 3."""
    import torch

    x = torch.from_numpy(x).double().permute(0, 3, 1, 2).requires_grad_()
    found = model(pixel_values=x).last_hidden_state
    rows, columns = (side // 14 for side in x.shape[2:])
    patches = found[:, -rows * columns :].reshape(len(x), rows, columns, -1)
    outputs = {"pooled": found[:, 0], "patches": patches}
    if cotangent is not None:
        total = (found[:, 0] * torch.from_numpy(cotangent)).sum()
        outputs["gradient"] = torch.autograd.grad(total, x)[0].permute(0, 2, 3, 1)
    return {name: value.detach().numpy().astype(np.float32) for name, value in outputs.items()}


def resized(x, side):
    import torch
    import torch.nn.functional as F

    x = torch.from_numpy(x).permute(0, 3, 1, 2).float()
    return F.interpolate(x, size=(side, side), mode="bicubic", antialias=True).permute(0, 2, 3, 1).numpy()


def main():
    stored = {}
    for case, (image_size, registers, size, original) in CASES.items():
        model, shapes = make(image_size, registers)
        if original:
            model = with_interpolated_table(model, size)
        if case == "metric":
            x = (resized(pictures("metric bytes", *METRIC_PICTURES), 224) / 255 - MEAN) / STD
            outputs = {"pooled": run(model, x.astype(np.float32))["pooled"]}
        else:
            x, cotangent = pictures(case, 2, *size, 3), pictures(f"{case} cotangent", 2, SIZE["hidden_size"])
            outputs = run(model, x, cotangent if case in GRADIENTS else None)
        stored |= {f"{case}/{name}": value for name, value in outputs.items()}
        stored[f"{case}/keys"] = np.array(sorted(shapes))
        stored[f"{case}/shapes"] = np.array([str(tuple(shapes[key])) for key in sorted(shapes)])
    for name, (height, width, side) in RESIZED.items():
        stored[f"resized/{name}"] = resized(pictures(f"resized bytes {name}", 1, height, width, 3), side)
    np.savez_compressed(pathlib.Path(__file__).with_name("dino.npz"), **stored)


if __name__ == "__main__":
    main()
