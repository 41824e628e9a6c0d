"""Messages of the library, which speak of arguments, in the words of the command line."""

import contextlib
from collections.abc import Iterator, Mapping

from guided_jax.data.splits import MissingSplit

# What the commands add to a folder that is no judge.
JUDGE = {"is no trained judge": "is no trained judge; train one with 'guided-jax judge RUN'"}


@contextlib.contextmanager
def translate_errors(options: Mapping[str, str]) -> Iterator[None]:
    """Raise a ValueError from within again, with each phrase of the library replaced by what the command calls it.

    options: phrase, such as an argument, -> option; in this order.

    >>> with translate_errors({"labelled=False": "--data.no-labelled"}):
    ...     raise ValueError("there are no labels; leave them out with labelled=False")
    Traceback (most recent call last):
    ValueError: there are no labels; leave them out with --data.no-labelled
    """
    try:
        yield
    except ValueError as error:
        message = str(error)
        for phrase, option in options.items():
            message = message.replace(phrase, option)
        raise (MissingSplit if isinstance(error, MissingSplit) else ValueError)(message) from error
