"""The documents are right: every python block runs, every command line parses, every file, name and page exists."""

import argparse
import functools
import importlib
import itertools
import re
import shlex
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest
import yaml

import guided_jax as gj
from guided_jax.app import cli, nll, together
from guided_jax.app.sample import checks
from tests import latent_golden, tiny_clip

ROOT = Path(__file__).parents[2]
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.rglob("*.md"))
DOCUMENTS = [ROOT / "README.md", ROOT / "CHANGELOG.md", *PAGES]
SITE = yaml.safe_load((ROOT / "mkdocs.yml").read_text())
# Benchmarks that the documents start as `python -m`, and the module of each whose `main` runs it.
BENCHMARKS = {
    f"benchmarks.{name}": f"benchmarks.{name}"
    for name in (
        "emoji",
        "chips",
        "first",
        "fewer_calls",
        "memory",
        "restoration",
        "results",
        "samplers",
        "tricks",
        "training_free",
        "speed.stable_diffusion",
    )
}
BENCHMARKS |= {
    f"benchmarks.{name}": f"benchmarks.{name}.__main__"
    for name in ("speed", "speed.peers", "posteriors", "growth", "accelerator")
}
# What a command checks beyond its options' types, before it reads a run; a preset is read from the run.
CHECKS = {
    "sample": lambda options: None if options.preset else checks.check_readers(options),
    "nll": nll.check_readers,
}


def name_of(path):
    return str(path.relative_to(ROOT))


@functools.cache
def blocks(language):
    """(document, title, code) of every fenced block, the code on the lines that it has in the document."""
    return tuple(find_blocks(language))


def find_blocks(language):
    for path in DOCUMENTS:
        text = path.read_text()
        for found in re.finditer(
            rf"^```{language}(?: title=\"([^\"\n]*)\")?\n(.*?)^```$", text, re.MULTILINE | re.DOTALL
        ):
            above = text.count("\n", 0, found.start(2))
            marks = [pytest.mark.slow] if 'load("stable-diffusion' in found[2] else []  # compiles for long
            yield pytest.param(path, found[1], "\n" * above + found[2], id=f"{name_of(path)}:{above + 1}", marks=marks)


def commands():
    """(document, words) of every `guided-jax ...` and `python ...` line of the shell blocks."""
    for block in blocks("bash"):
        for line in block.values[2].replace("\\\n", " ").splitlines():
            words = list(itertools.dropwhile(lambda word: "=" in word, shlex.split(line, comments=True)))
            if words and words[0] in ("python", "guided-jax"):
                yield pytest.param(block.values[0], words, id=line)


@pytest.mark.parametrize(("path", "title", "code"), list(blocks("python")))
def test_python_block_runs(path, title, code, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name, tiny in {"DiT-XL-2-256": "dit", "stable-diffusion-v1-5": "sd1"}.items():  # what the documents load
        (tmp_path / name).symlink_to(latent_golden.FOLDER / "checkpoints" / tiny)
    if "clip-vit-base-patch32" in code:
        tiny_clip.own(tmp_path / "clip-vit-base-patch32")
    exec(compile(code, title or str(path), "exec"), {"__name__": path.stem})


class Parsed(Exception):
    """Stops a command after it has parsed its options."""


def parse_only(run, words, monkeypatch):
    """Return the options that run(words) parses, or None for --help and --list; it does nothing further."""

    def stop_after(parse):
        def stopping(*args, **settings):
            raise Parsed(parse(*args, **settings))

        return stopping

    monkeypatch.setattr(cli, "parse", stop_after(cli.parse))
    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", stop_after(argparse.ArgumentParser.parse_args))
    with pytest.raises((Parsed, SystemExit)) as end:
        run(words)
    if isinstance(end.value, Parsed):
        return end.value.args[0]
    assert not end.value.code
    return None


@pytest.mark.parametrize(("path", "words"), list(commands()))
def test_command_line_parses(path, words, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for block in blocks("python"):  # the experiments that a page shows
        if block.values[0] == path and block.values[1] and "/" not in block.values[1]:
            Path(block.values[1]).write_text(block.values[2])
    match words:
        case ["guided-jax", "--help"]:
            assert "usage" in cli.overview()
        case ["guided-jax", command, *rest]:
            main = importlib.import_module(f"guided_jax.app.{cli.COMMANDS[command][0]}").main
            shared, rest = together.take_options(rest)
            assert not shared or (command in together.COMMANDS and cli.parse(together.Options, command, shared))
            options = parse_only(main, rest, monkeypatch)
            if options is not None:
                CHECKS.get(command, lambda options: None)(options)
        case ["python", "-m", module, *rest] if module in BENCHMARKS:
            parse_only(importlib.import_module(BENCHMARKS[module]).main, rest, monkeypatch)
        case ["python", "-m", "pytest", *rest]:
            assert all((ROOT / word).exists() for word in rest if word.startswith("tests/"))
        case ["python", "-m", "venv", _]:
            pass
        case ["python", script, *_]:
            assert script.startswith("examples/") or (ROOT / script).exists() or Path(script).exists()
        case _:
            pytest.fail(f"no such command: {words}")


def test_the_readme_and_the_docs_show_blocks_and_commands():
    """Nothing above passes because nothing was found."""
    assert any(block.values[0].name == "README.md" for block in blocks("python"))
    assert len(list(commands())) >= 40


@pytest.mark.parametrize("path", DOCUMENTS, ids=name_of)
def test_every_link_and_every_named_file_exists(path):
    text = path.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    inside = re.findall(r"`((?:guided_jax|tests|configs|benchmarks|docs)/[\w/.-]*)`", text)
    created = {block.values[1] for block in blocks("python") if block.values[0] == path}
    missing += [name for name in inside if name not in created and not (ROOT / name).exists()]
    assert not missing


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=name_of)
def test_every_linked_heading_exists(path):
    for link, heading in re.findall(r"\]\(([^)\s#]*\.md)?#([^)\s]+)\)", path.read_text()):
        target = path.parent / link if link else path
        headings = re.findall(r"^#+ (.*)$", target.read_text(), re.MULTILINE)
        slugs = [re.sub(r"[\s-]+", "-", re.sub(r"[^\w\s-]", "", each).strip().lower()) for each in headings]
        assert heading in slugs, f"{link}#{heading}"


ENDINGS = ("html", "json", "jsonl", "md", "npz", "png", "py")


@pytest.mark.parametrize("path", [ROOT / "README.md", *PAGES], ids=name_of)
def test_every_function_that_is_named_exists(path):
    """`guidance.clip` and `gj.guidance.clip(...)`: the attribute of a public module."""
    text = re.sub(r"^```.*?^```$", "", path.read_text(), flags=re.MULTILINE | re.DOTALL)
    created = " ".join(block.values[1] or "" for block in blocks("python") if block.values[0] == path)
    for module, attribute in re.findall(r"`(?:gj\.|guided_jax\.)?(\w+)\.([a-zA-Z]\w+)", text):
        if module in gj.__all__ and attribute not in ENDINGS and f"/{attribute}.py" not in created:
            found = getattr(gj, module)
            assert hasattr(found, attribute) or importlib.import_module(f"{found.__name__}.{attribute}")


def test_every_extra_that_is_named_exists():
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = {
        (name_of(path), extra)
        for path in [*DOCUMENTS, ROOT / "Makefile"]
        for extra in re.findall(r"'(?:\.|guided-jax)\[([\w-]+)\]'", path.read_text())
    }
    assert named
    assert not [each for each in named if each[1] not in project["optional-dependencies"]]


def test_every_test_that_is_named_exists():
    tests = set(
        re.findall(r"^def (test_\w+)", "".join(path.read_text() for path in (ROOT / "tests").rglob("*.py")), re.M)
    )
    tests |= {path.stem for path in (ROOT / "tests").rglob("test_*.py")}
    named = re.findall(r"(?<![\w/])(test_\w+?)(_?\.\.\.)?(?=\W)", "".join(path.read_text() for path in PAGES))
    for name, cut in set(named):
        assert name in tests or (cut and any(test.startswith(name) for test in tests)), name


def test_every_file_of_the_tests_that_a_comment_names_exists():
    for path in [path for room in ("guided_jax", "tests", "benchmarks") for path in (ROOT / room).rglob("*.py")]:
        missing = [name for name in re.findall(r"\btests/[\w/]+\.py\b", path.read_text()) if not (ROOT / name).exists()]
        assert not missing, f"{path.name} names {missing}"


def test_every_paper_that_a_docstring_cites_is_in_the_references():
    listed = (DOCS / "references.md").read_text()
    for path in sorted((ROOT / "guided_jax").rglob("*.py")):
        missing = [number for number in re.findall(r"\b\d{4}\.\d{5}\b", path.read_text()) if number not in listed]
        assert not missing, f"{path.name} cites {missing}"


# --- the site --------------------------------------------------------------------------------------------------------


def navigation(entries):
    """The pages of the navigation."""
    for entry in entries:
        for value in [entry] if isinstance(entry, str) else entry.values():
            yield from [value] if isinstance(value, str) else navigation(value)


def test_every_page_is_in_the_navigation_once():
    listed = list(navigation(SITE["nav"]))
    assert sorted(listed) == sorted(str(page.relative_to(DOCS)) for page in PAGES)


@pytest.mark.parametrize("path", [page for page in PAGES if page.stem != "changelog"], ids=name_of)
def test_every_page_opens_with_what_the_reader_can_do_after_it(path):
    title, text = re.match(r"# (.+)\n\n(.+)", path.read_text()).groups()
    assert title
    assert text.startswith("After this page ")


def test_the_api_pages_show_every_public_function():
    """Each name of each public module is defined in a file that some page of the API shows."""
    shown = set(re.findall(r"^::: ([\w.]+)$", "".join(page.read_text() for page in PAGES), re.MULTILINE))
    for name in shown:
        importlib.import_module(name)
    for module in set(gj.__all__) - {"adm"}:
        found = getattr(gj, module)
        for name in getattr(found, "__all__", ()):
            value = getattr(found, name)
            home = value.__name__ if isinstance(value, type(gj)) else getattr(value, "__module__", found.__name__)
            if home.startswith("guided_jax."):  # constants and aliases of types are described where they are used
                assert home in shown, f"{home}, where {module}.{name} is defined"


@pytest.mark.slow
def test_the_site_builds(tmp_path):
    pytest.importorskip("mkdocs")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", str(tmp_path)]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert built.returncode == 0, built.stderr
    assert (tmp_path / "api" / "guidance.html").read_text().count("classifier_free") > 1
