"""What the tests leave out of every program that they compile and of every run that they train, for the time it takes."""

import functools

import jax
import numpy as np
from flax.core import meta, scope
from PIL import Image

from guided_jax.models import prepare
from guided_jax.parallel import devices
from guided_jax.storage import log

PLOT, OPTIONS = log.plot, devices.compiler_options


def blank_curves(path, png, shared=None):
    """Write an empty picture where `log.plot` draws curves, which takes more than a second for each checkpoint."""
    if not log.read(path):
        raise ValueError(f"{path} holds no metrics yet")
    Image.new("L", (400, 300)).save(png, format="png")


def share_contexts(calls=200):
    """Let so many programs be lowered in one MLIR context: a new one for each takes as long as lowering a small program.

    A context keeps what was made in it, so a new one begins after so many.
    """
    from jax._src.interpreters import mlir

    make = getattr(mlir, "make_ir_context", None)
    if make is None:  # private to JAX, and elsewhere in some later version
        return
    held = functools.lru_cache(maxsize=1)(lambda number: make())
    count = iter(range(10**9))
    mlir.make_ir_context = lambda: held(next(count) // calls)


def remember_layers():
    """Let `prepare_params` trace a network once for the same shapes: each command that draws prepares the same few."""
    find, found = prepare._find_layers, {}

    def find_layers(network, params, *example):
        leaves, structure = jax.tree.flatten(jax.eval_shape(lambda *given: given, params, *example))
        key = network, structure, tuple(leaves), jax.default_backend()
        try:
            hash(key)
        except TypeError:  # of a network with a list among its fields
            return find(network, params, *example)
        if key not in found:
            found[key] = find(network, params, *example)
        return found[key]

    prepare._find_layers = find_layers


def remember_initial_shapes(most=10_000):
    """Let Flax find the shape that a parameter has to have once for the same initializer and arguments.

    It traces the initializer of every parameter each time that a network is called, a third of the time of tracing the
    network. A parameter of another shape is refused as ever.
    """
    param = scope.Scope.param

    @functools.lru_cache(most)
    def initial_shapes(initialize, *arguments):
        made = jax.eval_shape(lambda: initialize(jax.random.key(0), *arguments))
        return [np.shape(leaf) for leaf in jax.tree.leaves(made)]

    def remembered(self, name, initialize, *arguments, unbox=True, **options):
        if not options and self.has_variable("params", name):
            value = self.get_variable("params", name)
            try:
                expected = initial_shapes(initialize, *arguments)
            except TypeError:  # of an argument that has no hash
                expected = None
            if [np.shape(leaf) for leaf in jax.tree.leaves(value)] == expected:
                self.reserve(name, "params")
                return meta.unbox(value) if unbox else value
        return param(self, name, initialize, *arguments, unbox=unbox, **options)

    scope.Scope.param = remembered


def remember_sources():
    """Let tyro read the source of a settings class once, and not again for each command line."""
    from tyro import _docstrings

    tokens = getattr(_docstrings, "_ClassTokenization", None)
    if tokens is not None:  # private to tyro
        tokens.make = staticmethod(functools.cache(tokens.make))


def remember_options():
    """Let tyro find the options of a settings class once for the same defaults: nine tenths of reading a command line."""
    from tyro import _parsers

    kind = getattr(_parsers, "ParserSpecification", None)
    make = getattr(kind, "from_callable_or_type", None)
    if make is None:  # private to tyro
        return
    found = {}

    def remembered(f, **settings):
        if settings["parent_classes"]:  # a part of another
            return make(f, **settings)
        key = f, repr(sorted(settings.items(), key=lambda item: item[0]))
        if key not in found:
            found[key] = settings["default_instance"], make(f, **settings)
        return found[key][1]

    kind.from_callable_or_type = staticmethod(remembered)
