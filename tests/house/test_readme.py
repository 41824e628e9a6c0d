"""What the documents show works: every python block runs, every command line is understood, every file named is there."""

import re
import shlex
from pathlib import Path

import pytest

from benchmarks import results, samplers, tricks
from guided_jax.app import cli, experiments, judge, nll, posthoc
from guided_jax.app import demo as digits
from guided_jax.app import metrics as command
from guided_jax.app.sample import command as sample
from guided_jax.app.sample import request as sampling
from guided_jax.app.train import command as train
from guided_jax.app.train import monitoring as watching

ROOT = Path(__file__).parents[2]
DOCUMENTS = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


def blocks(language):
    """(document, code) of every fenced block, the code on the lines that it has in the document."""
    for path in DOCUMENTS:
        text = path.read_text()
        for found in re.finditer(rf"^```{language}\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            above = text.count("\n", 0, found.start(1))
            yield pytest.param(path, "\n" * above + found[1], id=f"{path.name}:{above + 1}")


def commands():
    """Every `python ...` line of the shell blocks, as words."""
    for block in blocks("bash"):
        for line in block.values[1].splitlines():
            if line.startswith("python "):
                yield pytest.param(shlex.split(line, comments=True)[1:], id=line)


@pytest.mark.parametrize(("path", "code"), list(blocks("python")))
def test_python_block_runs(path, code):
    exec(compile(code, str(path), "exec"), {"__name__": path.stem})


@pytest.mark.parametrize("words", list(commands()))
def test_command_line_is_understood(words):
    match [word for word in words if word != "--help"]:
        case ["train.py", name, *rest]:
            cli.parse(train.Training, "train.py", rest, train.Training(experiments.load(name)))
        case ["sample.py", *rest]:
            sampling.check_read(cli.parse(sample.Sampling, "sample.py", rest))
        case ["nll.py", *rest]:
            nll.check_read(cli.parse(nll.Measuring, "nll.py", rest))
        case ["-m", "benchmarks.digits", *rest]:
            cli.parse(digits.Demo, "benchmarks.digits", rest)
        case ["-m", "guided_jax.metrics", *rest]:
            cli.parse(command.Metrics, "guided_jax.metrics", rest)
        case ["-m", "configs.judge", *rest]:
            cli.parse(judge.Judging, "configs.judge", rest)
        case ["-m", "configs.posthoc", *rest]:
            cli.parse(posthoc.Reconstructing, "configs.posthoc", rest)
        case ["-m", "benchmarks.results", *rest]:
            cli.parse(results.Results, "benchmarks.results", rest)
        case ["-m", "benchmarks.tricks", *rest]:
            cli.parse(tricks.Options, "benchmarks.tricks", rest)
        case ["-m", "configs.watching", *rest]:
            cli.parse(watching.Watching, "configs.watching", rest)
        case ["-m", "benchmarks.samplers", *rest]:
            cli.parse(samplers.Options, "benchmarks.samplers", rest)
        case _:
            pytest.fail(f"no such script: {words}")


def test_the_readme_shows_something_of_both():
    """Nothing above passes because nothing was found."""
    assert any(block.values[0].name == "README.md" for block in blocks("python"))
    assert len(list(commands())) >= 5


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_every_file_that_is_named_is_there(path):
    text = path.read_text()
    links = [link.partition("#")[0] for link in re.findall(r"\]\(([^)\s]+)\)", text) if "://" not in link]
    missing = [link for link in links if link and not (path.parent / link).exists()]
    inside = re.findall(r"`((?:guided_jax|tests|configs|benchmarks)/[\w/.]*)`", text)
    assert not missing + [name for name in inside if not (ROOT / name).exists()]


def test_every_paper_that_a_docstring_cites_is_in_the_references():
    listed = (ROOT / "docs" / "references.md").read_text()
    for path in sorted((ROOT / "guided_jax").rglob("*.py")):
        missing = [number for number in re.findall(r"\b\d{4}\.\d{5}\b", path.read_text()) if number not in listed]
        assert not missing, f"{path.name} cites {missing}"
