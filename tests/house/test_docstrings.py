"""The examples of all docstrings run; those of the mathematics name every argument."""

import ast
import doctest
import importlib
import inspect
import pathlib
import re

import jax
import jax.numpy as jnp
import pytest

import guided_jax as gj
from tests.house.test_architecture import ROOMS

ROOT = pathlib.Path(gj.__file__).parent
FILES = sorted(path for room in ROOMS for path in (*ROOT.glob(f"{room}.py"), *ROOT.glob(f"{room}/*.py")))
MODULES = {".".join(path.relative_to(ROOT).with_suffix("").parts): path for path in FILES if path.stem != "__init__"}
# The functions that people start with: each has an example.
EXAMPLES = """
    schedule.cosine schedule.linear schedule.respace schedule.at schedule.interpolate schedule.karras grid.log_snr
    forward.diffuse forward.posterior prediction.from_eps prediction.score denoiser.from_network denoiser.edm
    denoiser.from_batched guidance.classifier guidance.classifier_free guidance.clip guidance.autoguidance guidance.interval
    guidance.rescale guidance.compose guidance.projected guidance.from_logits guidance.dynamic_threshold guidance.pigdm
    guidance.mmps operators.matrix
    reverse.ddim reverse.ddpm reverse.classifier_ddpm reverse.dpm_solver reverse.heun reverse.with_state reverse.chain
    reverse.repaint sampler.sample sampler.run sampler.keys sampler.encode analytic.GaussianMixture
    analytic.GaussianMixture.denoiser analytic.GaussianMixture.log_prob likelihood.variational_bound likelihood.log_density
    losses.denoising losses.corrupt operators.mask model.Model model.denoiser data.load metrics.frechet.frechet_distance
    metrics.kernel.kernel_distance metrics.neighbours.precision_recall models.UNet parallel.devices.choose_devices
    parallel.replicated.parallel_map pretrained.adm.weights.load_unet storage.images.grid storage.images.to_uint8
    storage.npz.read denoiser.from_tree particles.twisted particles.measurement particles.reward particles.corrected
    particles.classifier sampler.gibbs_like
    analytic.GaussianMixture.posterior analytic.GaussianMixture.evidence metrics.distributions.sliced_wasserstein
""".split()  # noqa: SIM905
NAMES = {"gj": gj, "jax": jax, "jnp": jnp}  # what an example of the mathematics may use without importing it
SHOWN = [path for path in sorted(ROOT.rglob("*.py")) if ">>>" in path.read_text()]


def name_of(path):
    return ".".join(path.relative_to(ROOT.parent).with_suffix("").parts).removesuffix(".__init__")


@pytest.mark.parametrize("path", SHOWN, ids=name_of)
def test_examples_run(path):
    """Of the machinery with the names of its own module."""
    module = importlib.import_module(name_of(path))
    names = {**NAMES} if path in FILES else {**vars(module)}
    runner = doctest.DocTestRunner(verbose=False, optionflags=doctest.FAIL_FAST)
    output = []
    for test in doctest.DocTestFinder().find(module, module.__name__, globs=names):
        runner.run(test, out=output.append)
    assert runner.summarize(verbose=False).attempted
    assert runner.failures == 0, "".join(output)


@pytest.mark.parametrize("path", EXAMPLES)
def test_has_an_example(path):
    found = gj
    for name in path.split("."):
        found = getattr(found, name) if hasattr(found, name) else importlib.import_module(f"{found.__name__}.{name}")
    assert ">>>" in inspect.getdoc(found)


def public_functions():
    """(module, node) of every function and class without an underscore at the top of a file, and of every public method."""
    for name, path in MODULES.items():
        for node in ast.parse(path.read_text()).body:
            inner = node.body if isinstance(node, ast.ClassDef) else []
            for each in (node, *inner):
                if isinstance(each, ast.FunctionDef | ast.ClassDef) and not each.name.startswith("_"):
                    yield pytest.param(each, id=f"{name}.{each.name}")


@pytest.mark.parametrize("node", list(public_functions()))
def test_the_docstring_is_a_sentence_and_names_every_argument(node):
    text = ast.get_docstring(node)
    assert text, "no docstring"
    first = text.split("\n\n")[0]
    assert first.strip().endswith((".", ":")), first
    assert not re.match(r"(What|Which|How|Who|Whether|Where|That)\b", first), f"opens with a question: {first}"
    if isinstance(node, ast.ClassDef):
        return
    arguments = [*node.args.args, *node.args.kwonlyargs, *[a for a in (node.args.vararg, node.args.kwarg) if a]]
    missing = [
        each.arg for each in arguments if each.arg not in ("self", "cls") and not re.search(rf"\b{each.arg}\b", text)
    ]
    assert not missing, f"does not name {', '.join(missing)}"
