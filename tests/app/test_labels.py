"""Classes by name: what the command line takes, what it is resolved to, and what is said of a name that is not known."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from guided_jax import data
from guided_jax.app import cli, facts
from guided_jax.app.sample.command import request
from guided_jax.app.sample.labels import resolve_labels
from guided_jax.app.sample.request import Method, Sampling

ANIMALS = facts.Facts((4, 4, 1), 4, (0.25,) * 4, 8, ("cat", "dog", "owl", "yak"))


def resolved(*words, known=ANIMALS):
    return resolve_labels(cli.parse(Sampling, "guided-jax sample", ["run", *words]), known)


def test_names_and_numbers_are_one_request():
    names = resolved("--labels", "cat", "yak", "2", "--any-of", "dog", "--also", "owl", "0", "--negative", "yak")
    numbers = Sampling(Path("run"), Method(any_of=(1,), also=(2, 0), negative=3), labels=(0, 3, 2))
    assert names == numbers
    assert request(names) == request(numbers)
    assert resolved() == Sampling(Path("run"))


@pytest.mark.parametrize(
    ("known", "said"),
    [
        (ANIMALS, "there is no class 'cow'; there is cat, dog, owl, yak, or give a number from 0 to 3"),
        (
            ANIMALS._replace(class_names=None),
            "this run does not know the names of its classes, give a number from 0 to 3",
        ),
        (
            ANIMALS._replace(num_classes=30, class_names=tuple(map(str, range(30)))),
            "6, 7, ..., or give a number from 0 to 29",
        ),
    ],
)
@pytest.mark.parametrize("option", ["--labels", "--any-of", "--also", "--negative"])
def test_an_unknown_name_is_one_sentence_with_those_that_there_are(option, known, said):
    with pytest.raises(ValueError, match=r"^there is no class 'cow'; ") as error:
        resolved(option, "cow", known=known)
    assert said in str(error.value)


def test_a_number_stays_a_number_where_classes_are_called_by_numbers(capsys):
    """Folders 1, 10 and 2: class 2 is called 2, class 1 is called 10."""
    known = facts.Facts((4, 4, 1), 3, (0.3, 0.3, 0.4), class_names=("1", "10", "2"))
    assert resolved("--labels", "2", known=known).labels == (2,)
    assert capsys.readouterr().err == ""
    assert resolved("--labels", "1", known=known).labels == (1,)
    assert (
        capsys.readouterr().err == "note: label 1 is the number of class '10'; the class named '1' has the number 0\n"
    )


def test_a_run_keeps_the_names_of_its_data():
    source = data.in_memory(np.zeros((2, 4, 4, 1), np.uint8), np.arange(2), 2, ("cat", "dog"))
    known = facts.of_source(source)
    assert (known.class_names, known.class_frequencies) == (("cat", "dog"), (0.5, 0.5))
    saved = known._asdict()
    assert facts.of_json(saved) == known
    del saved["class_names"], saved["num_examples"]  # of an older run
    assert facts.of_json(saved) == known._replace(class_names=None, num_examples=None)


def test_a_request_by_numbers_is_what_it_was():
    options = dataclasses.replace(Sampling(Path("run")), labels=(3, 7))
    assert resolve_labels(options, ANIMALS._replace(num_classes=10, class_names=None)) == options
