"""What Stable Diffusion asks of a chip at its full size, from shapes alone: no weights, no GPU, nothing is computed.

    pip install jax-cuda13-plugin jax-cuda13-pjrt  # of jaxlib's version; --chip cpu does without
    python -m benchmarks.speed.stable_diffusion

The parts are those of `guided-jax sample`: the text towers, one guided step of DDIM, the decoder. Operations are those of
matrix products and convolutions, two for each multiplication. Weights and memory are XLA's plan for the chip: the arguments
that the program reads, and the most that it holds beside its arguments. Attention is the plain one, which stores the
weights of all pairs of positions. With cuDNN's, which cannot be planned without a GPU, it is stored in parts of PART
weights at most: a stand-in with the same operations.
"""

import dataclasses
import os
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

if __name__ == "__main__":  # before JAX looks: nothing here runs on a device
    os.environ["JAX_PLATFORMS"] = "cpu"
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_gpu_autotune_level=0".strip()

import jax
import jax.numpy as jnp

from benchmarks.measured import table
from benchmarks.speed import flops, kernels
from guided_jax import guidance, model, reverse, schedule
from guided_jax.app import cli
from guided_jax.model import Model
from guided_jax.models import prepare_params, tiles
from guided_jax.models.autoencoder import attend_in_parts
from guided_jax.pretrained import published, stable_diffusion
from guided_jax.pretrained.published import stable_diffusion_configs as configs
from guided_jax.pretrained.published.description import Text
from guided_jax.pretrained.published.files import latents_of
from guided_jax.pretrained.published.stable_diffusion_folder import TOWERS
from guided_jax.pretrained.published.text_to_image import make_towers

SCHEDULE = {**configs.BETAS, "_class_name": "DDIMScheduler"}
TOKENS, STEPS = 77, 50
BEGIN, END = 49406, 49407  # of a prompt, which is filled up with ends
SCALE = 7.5
PART = 2**20  # attention weights at once, in place of cuDNN's kernel
Shapes = Any  # a pytree of jax.ShapeDtypeStruct


def describe(parts: dict[str, dict[str, Any]]) -> published.Description:
    """Return the description of a checkpoint, without its files; parts: component -> its configuration."""
    towers = tuple(parts[name] for name in TOWERS if name in parts)
    empty = (BEGIN, *(END,) * (TOKENS - 1))
    text = Text(towers, (empty,) * len(towers), is_penultimate=len(towers) > 1)
    return published.Description("sd", parts["unet"], SCHEDULE, latents_of(parts["vae"]), text=text)


MODELS = {"sd1.5": describe(configs.ONE), "sdxl": describe(configs.XL)}


@dataclasses.dataclass(frozen=True)
class Options:
    """Compile, count, print a table for each model and dtype."""

    models: tuple[Literal["sd1.5", "sdxl"], ...] = ("sd1.5",)
    dtypes: tuple[Literal["float32", "bfloat16"], ...] = ("float32", "bfloat16")
    parts: tuple[str, ...] = ()
    """Only the parts whose names contain one of these; all when none is given."""
    chip: Literal["h100", "cpu"] = "h100"
    """The device that is planned for; the operations are the same."""


class Program(NamedTuple):
    """A function and the shapes of its arguments. fields: of the U-Net, such as another attention."""

    make: Callable[..., Callable]
    arguments: tuple[Shapes, ...]
    fields: dict[str, Any] = {}  # noqa: RUF012  never changed


def make_programs(description: published.Description, dtype: Any) -> dict[str, Program]:
    """Return the programs by name; make: `Model` -> function."""
    own = published.make_model(description, dtype)
    params, x = make_params(description, dtype), jax.ShapeDtypeStruct(own.shape, jnp.float32)
    prompt = published.Prompt(jax.ShapeDtypeStruct(jnp.shape(own.null.ids), jnp.int32))
    states, side = jax.eval_shape(own.condition, params, prompt), own.shape[0] // 2
    batches = {count: (params, *(_rows(tree, count) for tree in (x, states)), states) for count in (1, 4)}
    lean = {
        "perturb": _attend_leanly,
        "perturb_blocks": stable_diffusion.make_unet(description.network).attention_blocks(),
    }
    gradient = params, x, x, states
    return {
        "text, a prompt": Program(lambda own: own.condition, (params, prompt)),
        "guided step of 1": Program(make_step, batches[1]),
        "guided step of 4": Program(make_step, batches[4]),
        "guided step of 4, cuDNN's attention": Program(make_step, batches[4], lean),
        "decoder": Program(lambda own: own.decode, (params, x)),
        f"decoder, tiles of {side}": Program(partial(make_tiled, side), (params, x)),
        "gradient through the U-Net": Program(make_gradient, gradient),
        "gradient through the U-Net, remat": Program(make_gradient, gradient, {"remat": True}),
        "gradient through the U-Net, remat, cuDNN's attention": Program(
            make_gradient, gradient, {"remat": True, **lean}
        ),
    }


def make_params(description: published.Description, dtype: Any) -> Shapes:
    """Return the params of a run in `dtype`; of the towers only the matrices are in it."""
    found, text = published.param_shapes(description), description.text
    assert text is not None
    ids = jax.ShapeDtypeStruct((TOKENS,), jnp.int32)
    towers = zip(make_towers(text, dtype), found["text"], strict=True)
    rounded = [jax.eval_shape(partial(prepare_params, tower), params, ids) for tower, params in towers]
    networks = {name: found[name] for name in ("network", "autoencoder")}
    return {**jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, dtype), networks), "text": rounded}


def make_step(own: Model) -> Callable:
    """Return (params, x, positive, negative) -> x after one step of DDIM, for a batch with one negative prompt.

    Both conditions are called at once, as on an accelerator.
    """
    levels = schedule.respace(own.levels, STEPS)
    now, then = schedule.at(levels, STEPS // 2), schedule.at(levels, STEPS // 2 - 1)
    sampler = reverse.ddim()

    def step(params: Any, x: Any, positive: Any, negative: Any) -> Any:
        both = jax.tree.map(lambda *leaves: jnp.stack(leaves), positive, negative)
        guide = lambda c, u: guidance.classifier_free(c, u, SCALE)  # noqa: E731
        denoise = guidance.batched(lambda condition: model.denoiser(own, params, condition), both, guide)
        return sampler.step(None, denoise, x, sampler.init(x), now, then)[0]

    return jax.vmap(step, in_axes=(None, 0, 0, None))


def make_tiled(side: int, own: Model) -> Callable:
    """Return (params, x) -> the picture, decoded by tiles of side x side latents."""
    return lambda params, x: tiles.apply_in_tiles(partial(own.decode, params), x, side)


def make_gradient(own: Model) -> Callable:
    """Return (params, x, y, condition) -> the gradient in x_t of |y - x_0(x_t)|^2, which `dps` and others follow."""
    level = schedule.at(own.levels, 500)

    def distance(x: Any, params: Any, y: Any, condition: Any) -> Any:
        return jnp.square(model.denoiser(own, params, condition)(x, level).x_0 - y).sum()

    return lambda params, x, y, condition: jax.grad(distance)(x, params, y, condition)


def _attend_leanly(q: Any, k: Any, v: Any, size: tuple[int, int]) -> Any:
    return attend_in_parts(q, k, v, PART)


def _rows(tree: Shapes, count: int) -> Shapes:
    """Return the shapes with an axis for `count` examples in front."""
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct((count, *leaf.shape), leaf.dtype), tree)


def count_operations(description: published.Description, dtype: Any, program: Program) -> int:
    """Return the operations of a program by torch's rules."""
    # Of XLA's own convolution: `flops` counts both gradients of ours, asked for or not. Of plain attention, since remat
    # of the parts would count as well.
    fields = {name: value for name, value in program.fields.items() if name == "remat"} | {"plain_convolution": True}
    own = published.make_model(description, dtype, lambda module: module.clone(**fields))
    return flops.by_torch_rules(program.make(own), *program.arguments)


def measure(description: published.Description, dtype: Any, program: Program, chip: str) -> tuple[str, ...]:
    """Return the row of a program: operations, weights, memory, kernels."""
    own = published.make_model(description, dtype, lambda module: module.clone(**program.fields))
    function = program.make(own)
    if chip == "cpu":
        compiled = jax.jit(function).lower(*program.arguments).compile()
    else:
        compiled = kernels.compiled(function, *program.arguments)
    plan = compiled.memory_analysis()
    numbers = [plan.argument_size_in_bytes / 2**30, plan.temp_size_in_bytes / 2**30]
    launched = str(kernels.launched(compiled.as_text()).total()) if chip != "cpu" else ""
    operations = count_operations(description, dtype, program) / 1e12
    return (f"{operations:.3g}", *(f"{number:.2f}" for number in numbers), launched)


def main(args: Any) -> None:
    """Print a table for each model and dtype, a row when it is planned: some take minutes."""
    options = cli.parse(Options, "python -m benchmarks.speed.stable_diffusion", args, description=__doc__ or "")
    for name in options.models:
        for dtype in options.dtypes:
            description, programs = MODELS[name], make_programs(MODELS[name], jnp.dtype(dtype))
            print(table((f"{name}, {dtype}", "TFLOP", "weights, GiB", "memory, GiB", "kernels"), ()), flush=True)
            for part, program in programs.items():
                if not options.parts or any(each in part for each in options.parts):
                    row = measure(description, jnp.dtype(dtype), program, options.chip)
                    print(f"| {part} | {' | '.join(row)} |", flush=True)
            print()


if __name__ == "__main__":
    cli.script(main)
