"""LoRA files merged into a Stable Diffusion: recorded numbers, and updates of the weights before they are read."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from guided_jax.pretrained import published, readers, stable_diffusion
from guided_jax.pretrained.stable_diffusion import lora
from tests import latent_golden as golden

FILES = ("pytorch_lora_weights", "kohya", "old_attn_procs")
RANK, ALPHA = 3, 1.5
# Of sd1 and of sdxl: component -> modules in diffusers' names: attention, a linear layer, convolutions 1x1 and 3x3.
BLOCK = "transformer_blocks.0"
ONE = {
    "unet": (
        *(f"down_blocks.0.attentions.0.{BLOCK}.attn1.{name}" for name in ("to_q", "to_out.0")),
        f"up_blocks.1.attentions.1.{BLOCK}.ff.net.0.proj",
        "mid_block.attentions.0.proj_in",
        "down_blocks.1.resnets.0.conv1",
        "up_blocks.0.upsamplers.0.conv",
        "time_embedding.linear_1",
    ),
    "text_encoder": tuple(
        f"text_model.encoder.layers.1.{name}"
        for name in ("self_attn.k_proj", "self_attn.v_proj", "self_attn.out_proj", "mlp.fc1")
    ),
}
XL = {
    "unet": (f"down_blocks.1.attentions.0.{BLOCK}.attn2.to_k", "down_blocks.1.attentions.0.proj_in"),
    "text_encoder": ("text_model.encoder.layers.0.self_attn.q_proj",),
    "text_encoder_2": ("text_model.encoder.layers.0.mlp.fc2", "text_model.encoder.layers.1.self_attn.q_proj"),
}


@pytest.fixture(scope="module")
def sd1():
    description, weights = published.read(golden.FOLDER / "checkpoints" / "sd1")
    return description, weights, published.import_weights(description, weights)


def merged_by(sd1, name, multiplier):
    file = readers.read_state_dict(golden.FOLDER / "lora" / f"{name}.safetensors")
    return published.merge_lora(sd1[0], sd1[2], file, multiplier)


def test_the_recorded_weights_and_output(sd1):
    """The same adapter in three layouts, one of them with alpha."""
    meta, arrays, _ = golden.read("lora")
    weights = {**sd1[1], "network": dict(sd1[1]["network"])}
    for key, array in arrays.items():
        if key.startswith("merged/"):
            weights["network"][key.removeprefix("merged/")] = array
    expected = published.import_weights(sd1[0], weights)
    for name in FILES:
        found = merged_by(sd1, name, meta["multiplier"])
        assert jax.tree.structure(found) == jax.tree.structure(expected)
        for ours, recorded in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
            assert np.abs(np.asarray(ours) - recorded).max() < 1e-6
    unet = stable_diffusion.make_unet(sd1[0].network)
    x, context = golden.nhwc(arrays["x"]), jnp.asarray(arrays["ctx"])
    with jax.default_matmul_precision("highest"):
        apply = jax.jit(lambda params: unet.apply(params["network"], x, jnp.asarray(arrays["t"]), context))
        assert golden.error(apply(found), arrays["out"]) < 1e-4
        assert golden.error(apply(sd1[2]), arrays["out_base"]) < 1e-4


def random_lora(weights, modules):
    """Return {(component, module): (down, up)} that fit the weights, in half precision."""
    rng, found = np.random.default_rng(0), {}
    for component, names in modules.items():
        state = weights[{"unet": "network", "text_encoder": "text_0", "text_encoder_2": "text_1"}[component]]
        for name in names:
            out, *inputs = state[f"{name}.weight"].shape
            ups = (out, RANK, *(1 for _ in inputs[1:]))
            shapes = (RANK, *inputs), ups
            found[component, name] = tuple(rng.normal(0, 0.3, shape).astype(np.float16) for shape in shapes)
    return found


def expect(description, weights, drawn, scale):
    """Return the params of weights to which the products were added before they were read."""
    parts = {"unet": "network", "text_encoder": "text_0", "text_encoder_2": "text_1"}
    changed = {name: dict(state) for name, state in weights.items()}
    for (component, name), (down, up) in drawn.items():
        state, key = changed[parts[component]], f"{name}.weight"
        product = np.einsum("or,ri...->oi...", np.float64(up).reshape(len(up), RANK), np.float64(down))
        state[key] = np.float32(np.float64(state[key]) + scale * product)
    return published.import_weights(description, changed)


def diffusers(component, name):
    return f"{component}.{name}.lora_A.weight", f"{component}.{name}.lora_B.weight", f"{component}.{name}.alpha"


def before(component, name):
    start = f"{component}.{name}.lora_linear_layer" if component != "unet" else f"{name}.lora"
    return f"{start}.down.weight", f"{start}.up.weight", f"{start.rpartition('.lora')[0]}.alpha"


def kohya(component, name, te="te"):
    start = {"unet": "lora_unet_", "text_encoder": f"lora_{te}_", "text_encoder_2": "lora_te2_"}[component]
    start += name.replace(".", "_")
    return f"{start}.lora_down.weight", f"{start}.lora_up.weight", f"{start}.alpha"


def kohya_xl(component, name):
    """By CompVis' names: of one layer a level the second level's first block with attention is input block 3."""
    return kohya(component, name.replace("down_blocks.1.attentions.0", "input_blocks.3.1"), "te1")


def write(drawn, names, alpha=True):
    state = {}
    for at, (down, up) in drawn.items():
        keys = names(*at)
        state |= {keys[0]: down, keys[1]: up} | ({keys[2]: np.full((), ALPHA, np.float16)} if alpha else {})
    return state


def check(found, expected):
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for ours, wanted in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        assert np.abs(np.asarray(ours) - wanted).max() < 2e-6


@pytest.mark.parametrize("names", [diffusers, before, kohya])
def test_every_kind_of_layer(sd1, names):
    drawn = random_lora(sd1[1], ONE)
    expected = expect(*sd1[:2], drawn, -0.5 * ALPHA / RANK)
    check(published.merge_lora(sd1[0], sd1[2], write(drawn, names), -0.5), expected)
    plain = published.merge_lora(sd1[0], sd1[2], write(drawn, names, alpha=False), -0.5 * ALPHA / RANK)
    check(plain, expected)


@pytest.mark.parametrize("names", [pytest.param(diffusers, marks=pytest.mark.slow), kohya_xl])
def test_both_towers_of_xl(names):
    description, weights = published.read(golden.FOLDER / "checkpoints" / "sdxl")
    params, drawn = published.import_weights(description, weights), random_lora(weights, XL)
    found = published.merge_lora(description, params, write(drawn, names), 2.0)
    check(found, expect(description, weights, drawn, 2.0 * ALPHA / RANK))


def test_a_product_of_half_precision_weights_is_rounded_once(sd1):
    half = published.import_weights(*sd1[:2], jnp.bfloat16)
    found = published.merge_lora(sd1[0], half, write(random_lora(sd1[1], ONE), kohya))
    assert jax.tree.map(lambda leaf: leaf.dtype, found) == jax.tree.map(lambda leaf: leaf.dtype, half)


def test_the_alphas_in_a_header(sd1, tmp_path):
    """What diffusers writes of peft's settings, which no tensor of the file has."""
    drawn = random_lora(sd1[1], ONE)
    settings = {"unet.lora_alpha": ALPHA, "text_encoder.lora_alpha": 7, "text_encoder.use_rslora": True}
    settings["text_encoder.alpha_pattern"] = {"self_attn.k_proj": 2.0}
    path = tmp_path / "lora.safetensors"
    save_file(write(drawn, diffusers, alpha=False), path, {lora.SETTINGS: json.dumps(settings)})
    state = lora.read_file(path)
    alphas = {key.removesuffix(".alpha"): float(array) for key, array in state.items() if key.endswith(".alpha")}
    root = np.sqrt(RANK)
    assert alphas == {
        f"{component}.{name}": pytest.approx(
            ALPHA if component == "unet" else 2 * root if name.endswith("k_proj") else 7 * root
        )
        for component, name in drawn
    }
    save_file(write(drawn, diffusers), path, {lora.SETTINGS: "["})
    with pytest.raises(ValueError, match="has a damaged lora_adapter_metadata in its header"):
        lora.read_file(path)


def test_what_does_not_fit_is_named(sd1):
    file = load_file(golden.FOLDER / "lora" / "kohya.safetensors")
    merge = lambda state: published.merge_lora(sd1[0], sd1[2], state)  # noqa: E731
    other = {key.replace("down_blocks_0", "down_blocks_7"): array for key, array in file.items()}
    with pytest.raises(ValueError, match=r"of another model: this one has no unet: down_blocks_7_.* and 5 more"):
        merge(other)
    with pytest.raises(ValueError, match="this one has no text_encoder_2: text_model_x"):
        merge({f"lora_te2_text_model_x.lora_{part}.weight": np.ones((4, 4)) for part in ("up", "down")})
    key = next(key for key in file if key.endswith("lora_up.weight"))
    module = key.removeprefix("lora_unet_").removesuffix(".lora_up.weight")
    with pytest.raises(ValueError, match=f"only one of the two matrices of unet: {module}$"):
        merge({name: array for name, array in file.items() if name != key})
    with pytest.raises(ValueError, match="do not fit each other"):
        merge({**file, key: np.ones((16, 5))})
    with pytest.raises(
        ValueError, match=rf"its matrices of unet: {module} make \(16, 24\), and this one has \(16, 16\)"
    ):
        merge({**file, key: np.ones((24, 4))})
    with pytest.raises(ValueError, match=r"not a LoRA of up and down matrices alone: it has a\.hada_w1_a"):
        merge({**file, "a.hada_w1_a": np.ones(3)})
    with pytest.raises(ValueError, match="is empty"):
        merge({})
    description = published.read(golden.CHECKPOINT)[0]
    with pytest.raises(ValueError, match="a LoRA is for a Stable Diffusion, and this is a dit"):
        published.merge_lora(description, {}, file)
