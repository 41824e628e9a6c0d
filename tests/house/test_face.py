"""What a user meets first: `import guided_jax as gj`, its types, and the pages of the commands."""

import ast
import importlib
import os
import re
import subprocess
import sys

import pytest

import guided_jax as gj
from guided_jax import extras
from guided_jax.app import cli, experiments
from tests.house.test_architecture import ROOMS
from tests.scripts import ROOT

PRIVATE = {"app", "checks", "extras", "numerics", "progress", "strength"}


def python(code):
    """What a new process prints."""
    settings = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=settings)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_public_module_is_an_attribute():
    for name in gj.__all__:
        assert getattr(gj, name) is importlib.import_module(f"guided_jax.{name}")
    assert dir(gj) == sorted([*gj.__all__, "__version__"])
    assert re.fullmatch(r"\d+\.\d+\.\d+", gj.__version__)


def test_every_module_is_public_or_known_to_be_private():
    modules = {path.stem for path in (ROOT / "guided_jax").iterdir() if path.suffix in ("", ".py")}
    assert {name for name in modules if not name.startswith("__")} - PRIVATE == set(gj.__all__)


def test_type_checkers_see_the_same_modules():
    block = next(
        node for node in ast.parse((ROOT / "guided_jax/__init__.py").read_text()).body if isinstance(node, ast.If)
    )
    assert sorted(line.names[0].asname for line in block.body) == sorted(gj.__all__)


def test_a_module_that_is_not_there_is_named():
    with pytest.raises(AttributeError, match=r"no attribute 'samplers'; it has .*sampler"):
        gj.samplers  # noqa: B018


def test_importing_guided_jax_imports_nothing_else():
    """So it takes no time; a module is imported when it is first used."""
    print_modules = "print(*{name.partition('.')[0] for name in sys.modules} - sys.stdlib_module_names)"
    alone = set(python(f"import sys; {print_modules}").split())
    assert set(python(f"import sys, guided_jax; {print_modules}").split()) - alone == {"guided_jax"}
    assert "guided_jax.schedule" in python("import sys, guided_jax; guided_jax.schedule; print(*sys.modules)").split()


def test_the_mathematics_imports_jax_numpy_and_jaxtyping_and_nothing_else():
    """`wadler_lindig` is what jaxtyping imports when a shape with a name is written."""
    found = python(f"""
import importlib, sys
import jax, numpy, jaxtyping
before = {{name.partition(".")[0] for name in sys.modules}}
for name in {ROOMS}:
    importlib.import_module(f"guided_jax.{{name}}")
print(*{{name.partition(".")[0] for name in sys.modules}} - before - sys.stdlib_module_names)
""")
    assert set(found.split()) <= {"guided_jax", "wadler_lindig"}


def test_a_missing_extra_is_named_with_the_line_that_installs_it():
    with pytest.raises(ModuleNotFoundError, match=r"^reading a\.pt needs no_such_package, which is not installed: pip"):
        extras.require("no_such_package", "weights", "reading a.pt")
    assert extras.require("json", "weights", "this") is importlib.import_module("json")
    assert (extras.is_installed("json"), extras.is_installed("no_such_package")) == (True, False)


def test_a_package_that_fails_to_import_keeps_its_error(tmp_path, monkeypatch):
    (tmp_path / "half_installed.py").write_text("import no_such_dependency\n")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(ModuleNotFoundError, match=r"^No module named 'no_such_dependency'"):
        extras.require("half_installed", "weights", "this")


@pytest.mark.slow
def test_the_example_of_the_readme_has_types(tmp_path):
    """As strict as a user's mypy may be; the example itself leaves its own functions without annotations."""
    from mypy import api

    example = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    (tmp_path / "example.py").write_text(example[1])
    allowed = ("--allow-untyped-defs", "--allow-untyped-calls", "--allow-incomplete-defs", "--follow-imports=silent")
    words = ("--strict", *allowed, "--config-file=", f"--cache-dir={tmp_path}", str(tmp_path / "example.py"))
    before = os.environ.get("MYPYPATH")
    os.environ["MYPYPATH"] = str(ROOT)
    try:
        out, err, code = api.run(list(words))
    finally:
        os.environ.pop("MYPYPATH") if before is None else os.environ.update(MYPYPATH=before)
    assert code == 0, out + err


def page(capsys, *words):
    """What a command prints before it ends."""
    with pytest.raises(SystemExit) as stop:
        cli.main(words)
    out, err = capsys.readouterr()
    assert (stop.value.code, err) == (0, "")
    return out


def options(text):
    return set(re.findall(r"(?<![\w-])--[a-z][\w.-]*\w", text))


def test_the_overview_is_one_page(capsys):
    cli.main(["--help"])
    text = capsys.readouterr().out
    assert all(f"\n  {name} " in text for name in cli.COMMANDS)
    assert all(name in text for name in ("GUIDED_JAX_CACHE", "GUIDED_JAX_TRACEBACK", "--help-all"))
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 100


WORDS = {"train": ["train", "digits"]}  # where the options depend on the experiment


@pytest.mark.parametrize("command", cli.COMMANDS)
def test_the_page_of_a_command_fits_a_screen_and_names_real_options(command, capsys):
    text = page(capsys, *WORDS.get(command, [command]), "--help")
    assert f"guided-jax {command}" in text
    assert len(text.splitlines()) <= 24
    assert max(map(len, text.splitlines())) <= 100
    everything = page(capsys, *WORDS.get(command, [command]), "--help-all")
    assert options(text) - {"--help", "--help-all"} <= options(everything)
    assert "--compilation-cache" in everything


def test_every_experiment_is_named_where_one_is_wrong(capsys):
    with pytest.raises(SystemExit, match="2"):
        cli.main(["train", "digit"])
    err = capsys.readouterr().err
    assert all(name in err for name in experiments.names())
