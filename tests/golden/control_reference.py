"""Writes latent/control_*.npz: what diffusers' ControlNet adds to a U-Net, and what the U-Net makes of it. By hand, with

    torch 2.13.0, diffusers 0.42.1
    python tests/golden/control_reference.py

Both networks have the weights of `weights`, which the tests call too, so that only configurations, shapes, inputs and
outputs are stored. Nothing is 0, unlike in a ControlNet that is not trained yet.
"""

import json
import pathlib
import zlib

import numpy as np

FOLDER = pathlib.Path(__file__).parent / "latent"
COMMON = {
    "block_out_channels": [8, 16],
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 12,
    "attention_head_dim": 2,
}
ONE = COMMON | {"down_block_types": ["CrossAttnDownBlock2D", "DownBlock2D"]}
XL = COMMON | {
    "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
    "transformer_layers_per_block": [1, 2],
    "use_linear_projection": True,
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 16,
}
HINT = {
    "one": {"conditioning_embedding_out_channels": [4, 6, 8]},
    "xl": {"conditioning_embedding_out_channels": [4, 8]},
}
SCALE = 0.7


def weights(shapes, seed):
    """key -> array, each by a generator of its own key: norms around 1, all else small, nothing 0."""
    return {key: _drawn(key, shape, seed) for key, shape in shapes.items()}


def _drawn(key, shape, seed):
    drawn = np.random.default_rng([seed, zlib.crc32(key.encode())]).standard_normal(shape).astype(np.float32)
    if len(shape) == 1:
        return np.float32(0.2) * drawn + np.float32("norm" in key and key.endswith("weight"))
    return drawn * np.float32(np.prod(shape[1:]) ** -0.5)


def fill(model, seed):
    """Give a torch module the weights of its keys and shapes; return {key: shape}."""
    import torch

    shapes = {key: list(tensor.shape) for key, tensor in model.state_dict().items()}
    model.load_state_dict({key: torch.as_tensor(array) for key, array in weights(shapes, seed).items()})
    return shapes


def record(name, config):
    """Write the residuals, the output and its gradients for x, the text and the picture."""
    import torch
    from diffusers import ControlNetModel, UNet2DConditionModel

    up = [kind.replace("Down", "Up") for kind in reversed(config["down_block_types"])]
    of_unet, of_control = {**config, "up_block_types": up}, {**config, **HINT[name]}
    unet, control = UNet2DConditionModel(**of_unet).eval(), ControlNetModel(**of_control).eval()
    shapes = {"unet": fill(unet, 0), "control": fill(control, 1)}
    rng = np.random.default_rng(2)
    factor = 2 ** (len(HINT[name]["conditioning_embedding_out_channels"]) - 1)
    sizes = {"x": (2, 4, 6, 4), "context": (2, 5, 12), "image": (2, 3, 6 * factor, 4 * factor), "vjp_w": (2, 4, 6, 4)}
    arrays = {key: rng.standard_normal(size).astype(np.float32) for key, size in sizes.items()}
    arrays["image"] = rng.uniform(size=sizes["image"]).astype(np.float32)
    arrays["t"] = np.array([3, 801])
    added = {}
    if name == "xl":
        arrays |= {"pooled": rng.standard_normal((2, 8)).astype(np.float32), "time_ids": np.array([[6, 4], [3, 2]])}
        added = {"text_embeds": torch.as_tensor(arrays["pooled"]), "time_ids": torch.as_tensor(arrays["time_ids"])}
    x, context, image = (torch.tensor(arrays[key], requires_grad=True) for key in ("x", "context", "image"))
    t, options = torch.as_tensor(arrays["t"]), {"added_cond_kwargs": added, "return_dict": False}
    skips, middle = control(x, t, context, image, conditioning_scale=SCALE, **options)
    residuals = {"down_block_additional_residuals": skips, "mid_block_additional_residual": middle}
    (output,) = unet(x, t, context, **residuals, **options)
    (output * torch.as_tensor(arrays["vjp_w"])).sum().backward()
    arrays |= {f"skip{i}": skip for i, skip in enumerate(skips)} | {"middle": middle, "out": output}
    arrays |= {"vjp_x": x.grad, "vjp_context": context.grad, "vjp_image": image.grad}
    arrays["out_alone"] = unet(x, t, context, **options)[0]
    arrays = {
        key: np.asarray(getattr(array, "detach", lambda array=array: array)(), np.float32)
        for key, array in arrays.items()
    }
    meta = {"unet": of_unet, "control": of_control, "shapes": shapes, "scale": SCALE}
    np.savez_compressed(FOLDER / f"control_{name}.npz", meta=json.dumps(meta), **arrays)


if __name__ == "__main__":
    record("one", ONE)
    record("xl", XL)
