"""The examples in docstrings of metrics, data, parallel, storage, models and pretrained run as they stand."""

import doctest
import importlib
import inspect

import pytest

# module -> the functions whose example runs here
EXAMPLES = {
    "app.translate": ("translate_errors",),
    "data": ("load",),
    "metrics.frechet": ("frechet_distance",),
    "metrics.kernel": ("kernel_distance",),
    "metrics.neighbours": ("precision_recall",),
    "models.unet": ("UNet",),
    "parallel.devices": ("choose_devices",),
    "parallel.replicated": ("parallel_map",),
    "pretrained.adm.weights": ("load_unet",),
    "storage.images": ("grid", "to_uint8"),
    "storage.npz": ("read",),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_examples_run(name):
    module = importlib.import_module(f"guided_jax.{name}")
    for function in EXAMPLES[name]:
        found = inspect.getattr_static(module, function)
        (test,) = doctest.DocTestFinder(recurse=False).find(found, function, module, module.__dict__.copy())
        assert test.examples, f"{name}.{function} has no example"
        assert not doctest.DocTestRunner().run(test).failed
