"""Wrong arguments raise one sentence that names the value and the way out, as a user meets it: without beartype."""

import json
import os
import subprocess
import sys
import textwrap

import jax
import jax.numpy as jnp
import pytest
from jax.experimental import checkify

from guided_jax import checks, guidance, models, schedule

# Each line is tried in one process of its own, in which nothing checks types but the library itself.
CASES = {
    "network that returns a tuple": ("denoiser.from_network(lambda x, t: (x, 1))(x, level)", "returned a tuple"),
    "network that returns a list": ("denoiser.from_network(lambda x, t: [x])(x, level)", "returned a list"),
    "network that returns a dict": ("denoiser.from_network(lambda x, t: {'a': x})(x, level)", "returned a dict"),
    "network that returns None": ("denoiser.from_network(lambda x, t: None)(x, level)", "returned a NoneType"),
    "learned variance in a tuple": (
        "denoiser.from_network(lambda x, t: (x, x), learned_variance=True)(x, level)",
        "returned a tuple",
    ),
    "edm network that returns a tuple": ("denoiser.edm(lambda x, c: (x, 1))(x, level)", "returned a tuple"),
    "batched network that returns a tuple": ("denoiser.from_batched(lambda x, t: (x, 1))(x, 1.0)", "returned a tuple"),
    "trained network that returns a tuple": (
        "losses.diffusion(lambda x, t, c, k: (x, 1), keys, jnp.ones((2, 3)), None, levels)",
        "returned a tuple",
    ),
    "int as key of sample": ("sampler.sample(0, net, reverse.ddim(), x, levels)", "jax.random.key(0)"),
    "int as key of run": ("sampler.run(7, net, reverse.ddim(), x, levels)", "jax.random.key(7)"),
    "int as key of keys": ("sampler.keys(3, [0, 1])", "jax.random.key(3)"),
    "int as key of a bound": ("likelihood.variational_bound(1, net, x, levels)", "jax.random.key(1)"),
    "int as key of the mixture": ("mixture.sample(5)", "jax.random.key(5)"),
    "int as key of hutchinson": ("likelihood.hutchinson(5)", "jax.random.key(5)"),
    "None as key": ("sampler.sample(None, net, reverse.ddim(), x, levels)", "key is None"),
    "scale that is a list": ("guidance.classifier_free(net, net, [1.0, 2.0])(x, level)", "scale is [1.0, 2.0]"),
    "scale that is a string": ("guidance.classifier_free(net, net, '2')(x, level)", "scale is '2'"),
    "scale that is None": ("guidance.autoguidance(net, net, None)(x, level)", "scale is None"),
    "scale of a batch, x of one example": (
        "guidance.classifier_free(net, net, jnp.ones(3))(x, level)",
        "scale has shape (3,)",
    ),
    "scale of a batch by level": (
        "guidance.classifier(net, lambda x, level: x.sum(), lambda level: jnp.ones(3))(x, level)",
        "jax.vmap",
    ),
    "eta of a batch": ("reverse.ddim(jnp.ones(3))", "eta has shape (3,)"),
    "eta that is a string": ("reverse.dpm_solver(2, '1')", "eta is '1'"),
    "size of a Langevin step that is a list": (
        "sampler.sample(keys[0], net, reverse.langevin([0.1]), x, levels)",
        "size is [0.1]; give a number, a traced value or a function of the level",
    ),
    "respace to 50.9": ("schedule.respace(levels, 50.9)", "cannot read the steps 50.9"),
    "respace to 5.0": ("schedule.respace(levels, 5.0)", "cannot read the steps 5.0"),
    "respace to True": ("schedule.respace(levels, True)", "cannot read the steps True"),
    "respace to [3, True]": ("schedule.respace(levels, [3, True])", "cannot read the steps [3, True]"),
    "respace to [3, 2.5]": ("schedule.respace(levels, [3, 2.5])", "cannot read the steps [3, 2.5]"),
    "label beyond the classes": (
        "guidance.from_logits(lambda x, level: jnp.zeros(4), 4)(x, level)",
        "label 4 is out of range; it has to be between 0 and 3",
    ),
    "label below 0": ("guidance.from_logits(lambda x, level: jnp.zeros(4), -1)(x, level)", "label -1 is out of range"),
    "one label of several": (
        "guidance.from_logits(lambda x, level: jnp.zeros(4), jnp.array([0, 9]))(x, level)",
        "label 9 is out of range",
    ),
    "label that no component has": ("mixture.denoiser(-1)", "no component of the mixture has the label -1"),
    "trained label beyond the classes": (
        "losses.classification(lambda x, t, k: jnp.zeros((2, 4)), keys, jnp.ones((2, 3)), jnp.array([1, 4]), levels)",
        "label 4 is out of range",
    ),
    "position beyond the table": ("schedule.at(levels, jnp.array([0, 11]))", "level 11 is outside the table"),
}
SCRIPT = """
import json, sys
import jax, jax.numpy as jnp
from guided_jax import analytic, denoiser, guidance, likelihood, losses, reverse, sampler, schedule
x, levels, keys = jnp.ones(3), schedule.cosine(10), jax.random.split(jax.random.key(0), 2)
level, net = schedule.at(levels, 5), denoiser.from_network(lambda x, t: x)
mixture = analytic.GaussianMixture(jnp.ones(2), jnp.zeros((2, 3)), jnp.ones(2))
messages = {}
for name, line in json.load(sys.stdin).items():
    try:
        messages[name] = ["nothing", str(eval(line))]
    except Exception as error:
        messages[name] = [type(error).__name__, str(error)]
print(json.dumps(messages))
"""


@pytest.fixture(scope="module")
def messages():
    lines = json.dumps({name: line for name, (line, _) in CASES.items()})
    command = [sys.executable, "-c", textwrap.dedent(SCRIPT)]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, env={**os.environ}, check=True)
    return json.loads(done.stdout)


@pytest.mark.parametrize("name", CASES)
def test_a_wrong_argument_raises_one_sentence(name, messages):
    kind, message = messages[name]
    assert kind == ("IndexError" if "position" in name else "ValueError"), message
    assert CASES[name][1] in message
    assert "\n" not in message


def unet():
    return models.UNet(
        out_channels=1,
        model_channels=8,
        channel_mult=(1,),
        num_res_blocks=1,
        attention_resolutions=(),
        num_head_channels=8,
        num_classes=4,
        null_label=True,
        num_groups=4,
    )


def test_a_label_that_the_network_does_not_have_is_refused():
    net, x = unet(), jnp.zeros((4, 4, 1))
    params = jax.eval_shape(lambda: net.init(jax.random.key(0), x, 0.0, 0))
    for label in (5, -1, jnp.int32(7)):
        with pytest.raises(ValueError, match=f"label {label} is out of range; it has to be between 0 and 4"):
            jax.eval_shape(lambda p, label=label: net.apply(p, x, 0.0, label), params)
    for label in (0, 3, 4, None):  # 4 is the null label
        assert jax.eval_shape(lambda p, label=label: net.apply(p, x, 0.0, label), params).shape == x.shape


def test_checkify_reports_a_traced_label_that_is_out_of_range():
    log_prob = guidance.from_logits(lambda x, level: jnp.arange(4.0), 0)
    level = schedule.at(schedule.cosine(10), 5)

    def chosen(label):
        return guidance.from_logits(lambda x, level: jnp.arange(4.0), label)(jnp.ones(2), level)

    checked = jax.jit(checkify.checkify(chosen, errors=checkify.index_checks))
    error, value = checked(jnp.int32(3))
    assert error.get() is None
    assert float(value) > float(log_prob(jnp.ones(2), level))
    assert "out-of-bounds" in checked(jnp.int32(4))[0].get()


def test_traced_values_pass():
    """What is not known while tracing raises nothing."""
    jax.jit(lambda index, value: (checks.check_index("label", index, 3), checks.check_number("scale", value)))(9, 2.0)
    with pytest.raises(ValueError, match=r"scale has shape \(2,\)"):
        jax.jit(lambda value: checks.check_number("scale", value))(jnp.ones(2))
