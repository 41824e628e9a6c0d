"""ControlNets against diffusers: what they add to a U-Net, what the U-Net makes of it, and the gradients of both."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import traverse_util

from guided_jax.pretrained import stable_diffusion
from guided_jax.pretrained.stable_diffusion import control as files
from guided_jax.pretrained.stable_diffusion.names import compvis_key
from tests import latent_golden as golden
from tests.golden.control_reference import weights

LOADED = {}


def load(name):
    """Return (meta, arrays, unet, its params, control, its params) of a recorded pair; read once."""
    if name not in LOADED:
        meta, arrays, _ = golden.read(f"control_{name}")
        unet = stable_diffusion.load_unet(meta["unet"], weights(meta["shapes"]["unet"], 0))
        control = stable_diffusion.load_control(meta["control"], weights(meta["shapes"]["control"], 1))
        LOADED[name] = meta, arrays, *unet, *control
    return LOADED[name]


@pytest.mark.parametrize(
    ("name", "gradients"), [*golden.cases(["one"], []), pytest.param("xl", True, marks=pytest.mark.slow)]
)
def test_the_recorded_residuals_output_and_gradients(name, gradients):
    meta, arrays, unet, params, control, own = load(name)
    x, image, weight = (golden.nhwc(arrays[key]) for key in ("x", "image", "vjp_w"))
    t, context = jnp.asarray(arrays["t"]), jnp.asarray(arrays["context"])
    added = {key: jnp.asarray(arrays[key]) for key in ("pooled", "time_ids") if key in arrays}

    def outputs(x, context, image):
        residuals = control.apply(own, x, t, context, image, **added, scale=meta["scale"])
        return unet.apply(params, x, t, context, **added, control=residuals), residuals

    @jax.jit
    def compute(x, context, image):
        if not gradients:
            return *outputs(x, context, image), ()
        output, pull, residuals = jax.vjp(outputs, x, context, image, has_aux=True)
        return output, residuals, pull(weight)

    with jax.default_matmul_precision("highest"):
        output, residuals, found = compute(x, context, image)
    assert len(residuals.skips) == 4
    for i, skip in enumerate(residuals.skips):
        assert golden.error(skip, arrays[f"skip{i}"]) < 1e-4
    assert golden.error(residuals.middle, arrays["middle"]) < 1e-4
    assert golden.error(output, arrays["out"]) < 1e-4
    for ours, key in zip(found, ("vjp_x", "vjp_context", "vjp_image") if gradients else (), strict=True):
        assert golden.error(ours, arrays[key]) < 5e-4


def test_the_layout_of_its_authors():
    """In one file with the U-Net that it steers, whose weights are ignored."""
    _, _, _, _, module, params = load("one")
    flat = traverse_util.flatten_dict(params["params"])
    state = {"model.diffusion_model.out.2.bias": np.zeros(4)}
    meta = load("one")[0]
    theirs = weights(meta["shapes"]["control"], 1)
    for path in flat:
        key = files.control_key(list(path), 1, 2 * len(module.widths))
        state[f"control_model.{compvis_key(list(path))}"] = theirs[key]
    assert "control_model.input_hint_block.10.weight" in state
    assert "control_model.zero_convs.3.0.bias" in state
    assert "control_model.middle_block_out.0.weight" in state
    again = stable_diffusion.load_control(meta["control"], state)[1]
    jax.tree.map(np.testing.assert_array_equal, again, params)


def test_an_untrained_one_changes_nothing():
    """Whatever its weights are but those of the layers that end in the U-Net, of which the initial ones are drawn."""
    _, _, _, _, module, own = load("one")
    x, context, image = jnp.ones((6, 4, 4)), jnp.ones((5, 12)), jnp.ones((24, 16, 3))
    ends = [name for name in own["params"] if "zero_convs" in name or "middle_block_out" in name]

    @jax.jit
    def initial(key):
        params = module.init(key, x, 5.0, context, image)["params"]
        return {name: params[name] for name in ends}

    params = {"params": own["params"] | initial(jax.random.key(0))}
    residuals = jax.jit(lambda params: module.apply(params, x, 5.0, context, image))(params)
    assert len(ends) == len(residuals.skips) + 1
    assert all(not leaf.any() for leaf in jax.tree.leaves(residuals))


def test_what_does_not_fit_is_named():
    meta, _, unet, params, module, own = load("one")
    x, context = jax.ShapeDtypeStruct((6, 4, 4), jnp.float32), jnp.ones((5, 12))
    with pytest.raises(
        ValueError, match=r"the picture of a ControlNet has shape \(16, 16, 3\); beside x it has \(24, 16, 3\)"
    ):
        jax.eval_shape(lambda x: module.apply(own, x, 5.0, context, jnp.ones((16, 16, 3))), x)
    residuals = jax.eval_shape(lambda x: module.apply(own, x, 5.0, context, jnp.ones((24, 16, 3))), x)
    less = residuals._replace(skips=residuals.skips[1:])
    with pytest.raises(ValueError, match="of a ControlNet for another U-Net"):
        jax.eval_shape(lambda x, control: unet.apply(params, x, 5.0, context, control=control), x, less)
    for config, message in (
        ({"global_pool_conditions": True}, "global_pool_conditions of the configuration is True"),
        ({"controlnet_conditioning_channel_order": "bgr"}, "only rgb is a ControlNet"),
        ({"_class_name": "UNet2DConditionModel"}, "only ControlNetModel is a ControlNet"),
        ({"conditioning_embedding_out_channels": [4, 0]}, "have to be positive whole numbers"),
        ({"act_fn": "relu"}, "act_fn of the configuration is 'relu'"),
    ):
        with pytest.raises(ValueError, match=message):
            stable_diffusion.make_control({**meta["control"], **config})
    state = weights(meta["shapes"]["control"], 1)
    del state["controlnet_mid_block.bias"], state["controlnet_cond_embedding.blocks.3.weight"]
    with pytest.raises(
        ValueError, match=r"missing controlnet_cond_embedding\.blocks\.3\.weight, controlnet_mid_block\.bias"
    ):
        stable_diffusion.load_control(meta["control"], state)
