"""The direction of the imports: LAYERS is the diagram."""

import ast
import pathlib

import guided_jax as gj

ROOT = pathlib.Path(__file__).parents[2]
# Each layer may import from the layers above it, and a module of a layer from those before it in the same layer, but for
# SIBLINGS, which do not see each other.
LAYERS = (
    ("numerics", "checks"),
    ("schedule", "grid", "forward", "prediction", "denoiser", "strength", "stateful", "operators", "model"),
    ("criteria",),
    ("guidance", "reverse"),
    ("sampler", "particles", "likelihood", "analytic"),
    ("losses",),
    ("certificate",),
)
SIBLINGS = (("guidance", "reverse"),)
MEASURES = "certificate"  # the one room of the mathematics that also measures samples
ROOMS = [name for layer in LAYERS for name in layer]
# Knows no alpha: nothing of LAYERS but the arithmetic and the checks of arguments.
MACHINERY = ("extras", "progress", *gj.MACHINERY)
# Makes a `Model` of published weights, and the sampler of their scheduler: the one place of the machinery that knows what a
# level is.
MODELS_OF_WEIGHTS, THEIRS = ("pretrained", "published"), ("schedule", "model", "reverse")
APP = "app"
DOORS = ("__main__.py",)  # `python -m`, which call the application


def modules():
    """(room, file) for every file of the package; a package's files belong to the package."""
    package = ROOT / "guided_jax"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).parts[0].removesuffix(".py"), path


def imports(path):
    """Rooms of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "guided_jax" and len(parts) > 1 and not parts[1].startswith("__"):
                yield parts[1]
            assert parts[0] not in ("configs", "train", "sample", "tests", "benchmarks"), f"{path} imports {name}"


def allowed(room):
    """What a room of LAYERS may import."""
    for depth, layer in enumerate(LAYERS):
        if room in layer:
            found = {name for above in LAYERS[:depth] for name in above} | set(layer[: layer.index(room) + 1])
            return found - {name for pair in SIBLINGS if room in pair for name in pair if name != room}
    return None


def test_the_mathematics_points_one_way():
    for room, path in modules():
        if (may := allowed(room)) is not None:
            may |= {"metrics"} if room == MEASURES else set()
            assert set(imports(path)) <= may, f"{path.name} imports {set(imports(path)) - may}"


def test_the_machinery_knows_no_alpha():
    for room, path in modules():
        may = {*MACHINERY, "numerics", "checks", *(THEIRS if path.parts[-3:-1] == MODELS_OF_WEIGHTS else ())}
        if room in MACHINERY and path.name not in DOORS:
            assert set(imports(path)) <= may, f"{path.name} imports {set(imports(path)) - may}"


def test_only_doors_import_the_application():
    for room, path in modules():
        if room != APP and path.name not in DOORS:
            assert APP not in set(imports(path)), path


def test_every_file_has_its_place_and_fits_one_idea():
    rooms = {*ROOMS, *MACHINERY, APP, "__init__", "__main__"}
    for room, path in modules():
        assert room in rooms, f"{path} is in no layer of the diagram"
        assert len(path.read_text().splitlines()) <= 320, f"{path} is long enough to become a package"


def test_only_parallel_knows_of_more_than_one_device():
    """And compiles: `jax.jit` and `jax.pmap` are called by the application and by users."""
    for room, path in modules():
        if room not in ("parallel", APP):
            names = [
                node for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Attribute | ast.alias)
            ]
            used = {node.attr if isinstance(node, ast.Attribute) else node.name for node in names}
            assert not used & {"jit", "pmap"}, path
