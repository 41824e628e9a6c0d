"""A reader of pickles that executes nothing.

A pickle is a program for a small machine with a stack: it names functions and classes, and asks for calls of them.
Python's own machine imports and calls them. This one has neither an import nor a call: what is named has to be in a list of
names, and a call is kept as a `Record` of its name and arguments. Its values are None, bool, int, float, str, tuple, list,
dict and set of those, `Record`, `Global`, and `Blob` for bytes, which stay in the file.

Source: the instructions as Python's `pickletools` documents them, protocols 2 to 5; only those that data need are known.
"""

import pickle
import pickletools
import struct
from collections.abc import Callable, Collection
from typing import Any, BinaryIO, NamedTuple

MOST_INSTRUCTIONS = 200_000  # of one pickle; EDM2's networks take tens of thousands
LONGEST_TEXT = 2**24  # bytes
LONGEST_NAME = 200


class Blob(NamedTuple):
    """Bytes of the file, from `start` on."""

    start: int
    length: int


class Global(NamedTuple):
    """What the file names: "module.name"."""

    name: str


class Record:
    """A call that the file asks for and that was not made: of `name` with `args`; `state` is what it sets afterwards."""

    def __init__(self, name: str, args: tuple[Any, ...]):
        self.name, self.args, self.state = name, args, None


class Refused(Exception):
    """The file asks for what is not in the list of names, or for an instruction that data do not need."""


class Damaged(Exception):
    """The file is cut short, or is no pickle."""


def read_pickle(
    file: BinaryIO,
    end: int,
    names: Collection[str],
    dicts: Collection[str] = (),
    most: int = MOST_INSTRUCTIONS,
) -> Any:
    """Return the data of the pickle at the position of `file`, which is after it then.

    Args:
        file: open for reading.
        end: where the bytes end that may be read.
        names: "module.name" of what the file may ask for; "persistent" for what it stores outside of the pickle.
        dicts: those of them that are classes of dicts, and become a dict.
        most: instructions that are followed.

    Raises Refused naming what else it asks for, and Damaged.
    """
    machine = _Machine(file, end, frozenset(names), frozenset(dicts))
    try:
        return machine.run(most)
    except (IndexError, KeyError, TypeError, ValueError):
        raise Damaged(f"it makes no sense before byte {file.tell()}") from None


class _Machine:
    def __init__(self, file: BinaryIO, end: int, names: frozenset[str], dicts: frozenset[str]):
        self.file, self.end, self.names, self.dicts = file, end, names, dicts
        self.stack: list[Any] = []
        self.below: list[list[Any]] = []  # the stacks below each mark
        self.memo: dict[int, Any] = {}

    def run(self, most: int) -> Any:
        """Follow the instructions to the last and return what they leave on the stack."""
        for _ in range(most):
            code = self.take(1)
            if code == pickle.STOP:
                (value,) = self.stack
                return value
            if code in VALUES:
                value = VALUES[code](self)  # before the stack is looked at, which it may replace
                self.stack.append(value)
            elif code in CHANGES:
                CHANGES[code](self)
            else:
                self.refuse(code)
        raise Refused(f"more than {most} instructions")

    def refuse(self, code: bytes) -> None:
        """Raise Refused for an instruction that is not in the tables, naming what it asks for; Damaged for none."""
        names = {opcode.code: opcode.name for opcode in pickletools.opcodes}
        name = names.get(code.decode("latin-1"))
        if name is None:
            raise Damaged(f"{code!r} at byte {self.file.tell() - 1} is no instruction")
        if code == pickle.INST:
            self.named(self.line(), self.line())
        raise Refused(f"the instruction {name}")

    # --- reading ---

    def take(self, length: int) -> bytes:
        """Return the next bytes of the file; as many as are claimed have to be there."""
        if not 0 <= length <= self.end - self.file.tell():
            raise Damaged(f"{length} bytes are claimed at byte {self.file.tell()} of {self.end}")
        return self.file.read(length)

    def number(self, form: str) -> Any:
        """Return a number in the format `form` of struct."""
        return struct.unpack(form, self.take(struct.calcsize(form)))[0]

    def text(self, length: int) -> str:
        if length > LONGEST_TEXT:
            raise Refused(f"a text of {length} bytes")
        return self.take(length).decode()

    def blob(self, length: int) -> Blob:
        """Return where the bytes are, and pass over them."""
        found = Blob(self.file.tell(), length)
        if length > self.end - found.start:
            raise Damaged(f"{length} bytes are claimed at byte {found.start} of {self.end}")
        self.file.seek(length, 1)
        return found

    def line(self) -> str:
        found = self.file.readline(min(LONGEST_NAME, self.end - self.file.tell()))
        return found.decode()[: -1 if found.endswith(b"\n") else None]

    # --- names and calls ---

    def named(self, module: Any, name: Any) -> Global:
        """Return module.name, of the list; nothing is imported."""
        if not isinstance(module, str) or not isinstance(name, str):
            raise Refused("a name that is no text")
        full = f"{module}.{name}"
        if full not in self.names or "." in name:  # Python takes attributes of attributes after a dot
            raise Refused(full[:LONGEST_NAME])
        return Global(full)

    def call(self) -> None:
        """Replace a name and its arguments by the record of the call, or by the dict that it would make."""
        args, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Global) or not isinstance(args, tuple):
            raise Refused("a call of what is no function")
        if function.name not in self.dicts:
            self.stack.append(Record(function.name, args))
        elif args:
            raise Refused(f"arguments of {function.name}")
        else:
            self.stack.append({})

    def build(self) -> None:
        """Keep the state that the file sets on the result of a call; a dict has none."""
        state, value = self.stack.pop(), self.stack[-1]
        if isinstance(value, Record) and value.state is None:
            value.state = state
        elif type(value) is not dict or state:
            raise Refused("a state of what is no record")

    def persistent(self) -> None:
        """Keep the name of data that the file stores outside of the pickle."""
        if "persistent" not in self.names:
            raise Refused("data outside of the pickle")
        self.stack.append(Record("persistent", (self.stack.pop(),)))

    # --- containers ---

    def mark(self) -> None:
        self.below.append(self.stack)
        self.stack = []

    def since_mark(self) -> list[Any]:
        """Return what was put on the stack since the last mark, which is removed."""
        found, self.stack = self.stack, self.below.pop()
        return found

    def extend(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not list:
            raise Refused("items of what is no list")
        self.stack[-1].extend(items)

    def update(self, items: list[Any]) -> None:
        """Set the items key, value, key, value, ... of a dict, whose keys are texts."""
        if type(self.stack[-1]) is not dict or not all(type(key) is str for key in items[::2]) or len(items) % 2:
            raise Refused("items of what is no dict with names")
        self.stack[-1].update(zip(items[::2], items[1::2], strict=True))

    def add(self, items: list[Any]) -> None:
        if type(self.stack[-1]) is not set or not all(type(item) is str for item in items):
            raise Refused("members of what is no set of names")
        self.stack[-1].update(items)

    def last(self, count: int) -> list[Any]:
        """Return the last `count` values, which are removed."""
        return [self.stack.pop() for _ in range(count)][::-1]


def _memoize(machine: _Machine, index: int) -> None:
    machine.memo[index] = machine.stack[-1]


Action = Callable[[_Machine], Any]

# Instructions that put a value on the stack.
VALUES: dict[bytes, Action] = {
    pickle.NONE: lambda machine: None,
    pickle.NEWTRUE: lambda machine: True,
    pickle.NEWFALSE: lambda machine: False,
    pickle.BININT: lambda machine: machine.number("<i"),
    pickle.BININT1: lambda machine: machine.number("<B"),
    pickle.BININT2: lambda machine: machine.number("<H"),
    pickle.LONG1: lambda machine: int.from_bytes(machine.take(machine.number("<B")), "little", signed=True),
    pickle.BINFLOAT: lambda machine: machine.number(">d"),
    pickle.SHORT_BINUNICODE: lambda machine: machine.text(machine.number("<B")),
    pickle.BINUNICODE: lambda machine: machine.text(machine.number("<I")),
    pickle.BINUNICODE8: lambda machine: machine.text(machine.number("<Q")),
    pickle.SHORT_BINBYTES: lambda machine: machine.blob(machine.number("<B")),
    pickle.BINBYTES: lambda machine: machine.blob(machine.number("<I")),
    pickle.BINBYTES8: lambda machine: machine.blob(machine.number("<Q")),
    pickle.BYTEARRAY8: lambda machine: machine.blob(machine.number("<Q")),
    pickle.EMPTY_TUPLE: lambda machine: (),
    pickle.EMPTY_LIST: lambda machine: [],
    pickle.EMPTY_DICT: lambda machine: {},
    pickle.EMPTY_SET: lambda machine: set(),
    pickle.TUPLE: lambda machine: tuple(machine.since_mark()),
    pickle.TUPLE1: lambda machine: tuple(machine.last(1)),
    pickle.TUPLE2: lambda machine: tuple(machine.last(2)),
    pickle.TUPLE3: lambda machine: tuple(machine.last(3)),
    pickle.BINGET: lambda machine: machine.memo[machine.number("<B")],
    pickle.LONG_BINGET: lambda machine: machine.memo[machine.number("<I")],
    pickle.GLOBAL: lambda machine: machine.named(machine.line(), machine.line()),
    pickle.STACK_GLOBAL: lambda machine: machine.named(*machine.last(2)),
}
# Instructions that change what is there.
CHANGES: dict[bytes, Action] = {
    pickle.PROTO: lambda machine: machine.take(1),
    pickle.FRAME: lambda machine: machine.take(8),
    pickle.MARK: _Machine.mark,
    pickle.MEMOIZE: lambda machine: _memoize(machine, len(machine.memo)),
    pickle.BINPUT: lambda machine: _memoize(machine, machine.number("<B")),
    pickle.LONG_BINPUT: lambda machine: _memoize(machine, machine.number("<I")),
    pickle.APPEND: lambda machine: machine.extend(machine.last(1)),
    pickle.APPENDS: lambda machine: machine.extend(machine.since_mark()),
    pickle.SETITEM: lambda machine: machine.update(machine.last(2)),
    pickle.SETITEMS: lambda machine: machine.update(machine.since_mark()),
    pickle.ADDITEMS: lambda machine: machine.add(machine.since_mark()),
    pickle.REDUCE: _Machine.call,
    pickle.NEWOBJ: _Machine.call,
    pickle.BUILD: _Machine.build,
    pickle.BINPERSID: _Machine.persistent,
}
