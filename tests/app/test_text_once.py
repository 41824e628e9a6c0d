"""A text tower runs before the steps, once for the prompt of each sample and once for its negative prompt."""

import jax
import jax.numpy as jnp

from benchmarks.speed import flops
from guided_jax.app import published_model
from guided_jax.app import run as runs
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import draw, prompts
from guided_jax.pretrained import published
from tests import latent_golden as golden

COUNT, STEPS = 3, 4  # samples in a batch
FOLDER = golden.FOLDER / "checkpoints" / "sd1"
WORDS = (
    "run",
    "--prompt",
    "a photo of a cat",
    "--guidance",
    "classifier-free",
    "--sampler",
    "ddim",
    "--steps",
    str(STEPS),
)


def test_towers_run_before_the_loop_and_once_for_each_prompt():
    """The operations of a guided batch of one prompt; those of a loop are those of all its turns."""
    description, _ = published.read(FOLDER)
    params, own = published.param_shapes(description), published.make_model(description)
    facts, text = published_model.facts_of(description), published_model.make_text(description, FOLDER)
    run = runs.from_params(own, facts, {}, text=text, decode_size=1)
    options, run = prompts.resolve_prompts(sample.parse(WORDS), run)
    drawn = jax.vmap(draw.make_draw(run, options.method, labelled=True), in_axes=(None, 0, 0, 0))
    keys = jax.random.split(jax.random.key(0), COUNT)
    counted = flops.by_torch_rules(drawn, {"diffusion": params}, keys, jnp.zeros(COUNT, int), jnp.ones(COUNT))

    tower = flops.by_torch_rules(own.condition, params, own.null)
    states = jax.eval_shape(
        lambda params: jax.tree.map(lambda leaf: jnp.stack([leaf] * COUNT), own.condition(params, own.null)), params
    )
    network = flops.by_torch_rules(
        jax.vmap(own.network, in_axes=(None, 0, None, 0)),
        params,
        jnp.zeros((COUNT, *own.shape)),
        jnp.float32(1),
        states,
    )
    assert counted == 2 * STEPS * network + 2 * COUNT * tower
