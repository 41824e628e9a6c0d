"""The tests notice at least 95 % of the deliberate slips of `tests/slips.py`; each of the others has a reason."""

import ast

import pytest

from tests import slips


def test_every_slip_is_still_a_change():
    """The text is in the file and is code: a slip in a docstring would count as not noticed."""
    for slip in slips.SLIPS:
        text = (slips.ROOT / "guided_jax" / slip.file).read_text()
        assert slip.old in text, slip
        assert code(text) != code(text.replace(slip.old, slip.new, 1)), slip
        for name in slip.tests.split():
            assert slips.path_of(name).exists(), slip
    assert len(slips.SLIPS) >= 60


def code(text):
    """Return the syntax tree of a module without its comments and docstrings."""
    tree = ast.parse(text)
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.FunctionDef | ast.ClassDef) and ast.get_docstring(node) is not None:
            node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)


@pytest.mark.slow
def test_slips_are_noticed():
    killed, survivors = slips.main([])
    assert killed >= 0.95 * len(slips.SLIPS)
    unexplained = [slip for slip in survivors if slip.new not in slips.EXPECTED_TO_SURVIVE]
    assert not unexplained
