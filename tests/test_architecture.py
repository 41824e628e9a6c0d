"""The direction of the imports: LAYERS is the diagram."""

import ast
import pathlib

ROOT = pathlib.Path(__file__).parent.parent
# Each layer may import from those before it. guidance.strength is a type alias that the samplers' signatures name.
LAYERS = ("schedule", "grid", "forward", "prediction", "denoiser", "guidance", "reverse", "sampler")
ASIDE = {
    "losses": (*LAYERS[:5], "likelihood", "times", "weighting"),
    "importance": (),
    "times": (),
    "weighting": ("schedule",),
    "analytic": LAYERS[:6],
    "likelihood": LAYERS[:7],
}
MACHINERY = (
    *("training", "averaging", "loop", "parallel", "checkpoint", "manifest", "stopping"),
    *("data", "images", "files", "wrong_use", "log", "events", "streaming", "models", "adm", "metrics"),
)


def modules():
    """(layer, file) for every file of the package; a package's files belong to the package."""
    package = ROOT / "guided_jax"
    for path in sorted(package.rglob("*.py")):
        yield path.relative_to(package).parts[0].removesuffix(".py"), path


def imports(path):
    """Layers of this package that a file imports."""
    for node in ast.walk(ast.parse(path.read_text())):
        names = []
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module:
            names = [f"{node.module}.{alias.name}" for alias in node.names]
        for name in names:
            parts = name.split(".")
            if parts[0] == "guided_jax" and len(parts) > 1:
                yield parts[1]
            assert parts[0] not in ("configs", "train", "sample"), f"{path} imports {name}: the library sees no config"


def test_the_mathematics_points_one_way():
    for layer, path in modules():
        if layer in LAYERS or layer in ASIDE:
            allowed = {layer, *(LAYERS[: LAYERS.index(layer)] if layer in LAYERS else ASIDE[layer])}
            assert set(imports(path)) <= allowed, f"{path.name} imports {set(imports(path)) - allowed}"


def test_the_machinery_knows_no_alpha():
    for layer, path in modules():
        if layer in MACHINERY:
            assert set(imports(path)) <= set(MACHINERY), f"{path.name} imports {set(imports(path)) - set(MACHINERY)}"


def test_every_file_has_its_place_and_fits_one_idea():
    known = {*LAYERS, *ASIDE, *MACHINERY, "__init__"}
    for layer, path in modules():
        assert layer in known, f"{path} is in no layer of the diagram"
        assert len(path.read_text().splitlines()) <= 320, f"{path} is long enough to become a package"


def test_only_parallel_knows_of_more_than_one_device():
    for layer, path in modules():
        if layer != "parallel":
            text = path.read_text()
            assert "pmap" not in text.replace("`pmap`", "") or layer in ("__init__",), path
            assert "jax.jit(" not in text, path
