"""A pickle read as data: an interpreter of its opcodes in which nothing can run.

Python's own unpickler imports and calls what the file names. This one knows plain containers, notes
every global by its dotted name, and hands calls to a function of ours that never imports anything.
It works on a stack of its own, so that depth is no danger, and bounds bytes and opcodes.
Source: the opcode table of the standard library's ``pickletools``.
"""

import io
import pickletools
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, BinaryIO

from sedarchive.sizes import MIB

PICKLE_LIMIT = 512 * MIB
_OPCODE_LIMIT = 10_000_000
_INTEGER_BITS = 1024
_NAME_LIMIT = 4096

_VALUES = frozenset([
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "STRING", "BINSTRING", "SHORT_BINSTRING",
    "BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8", "UNICODE", "SHORT_BINUNICODE", "BINUNICODE", "BINUNICODE8",
    "FLOAT", "BINFLOAT",
])  # fmt: skip
_LITERALS = {"NONE": None, "NEWTRUE": True, "NEWFALSE": False}
_EMPTY: dict[str, Callable[[], Any]] = {"EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list}
_TUPLES = {"TUPLE1": 1, "TUPLE2": 2, "TUPLE3": 3}


@dataclass(frozen=True)
class Global:
    """A function or class that a pickle names; never looked up."""

    module: str
    name: str

    @property
    def dotted(self) -> str:
        return f"{self.module}.{self.name}"


@dataclass(eq=False, slots=True)
class Opaque:
    """An object that is not rebuilt: what the pickle says of it, kept as data."""

    kind: str
    """Dotted name of the global it was to be made by."""
    args: Any = ()
    state: Any = None
    items: dict[Any, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Rules:
    """What the interpreter asks of the format that a pickle belongs to."""

    check: Callable[[Global], None]
    """Called on each global as it is met; raises to refuse the file."""
    call: Callable[[Global, tuple[Any, ...]], Any]
    """Result of a call that the pickle asks for."""
    persistent: Callable[[Any], Any]
    """Object that a persistent id stands for."""


def interpret(stream: BinaryIO, rules: Rules, most: int = _OPCODE_LIMIT) -> Any:
    """Read the object that the next pickle of `stream` describes; the stream is left behind its last byte.

    Parameters
    ----------
    stream
        Bytes of the pickle, and of whatever follows.
    rules
        What globals, calls and persistent ids become.
    most
        Opcodes that it may have.

    Raises
    ------
    ValueError, IndexError, KeyError, TypeError, EOFError
        If it is malformed, or over the limits of 512 MiB and ten million opcodes.
    """
    machine = _Machine(rules)
    for count, (opcode, argument, _) in enumerate(pickletools.genops(_Bounded(stream))):  # type: ignore[arg-type]
        if count >= most:
            raise ValueError(f"the pickle has more than {most} opcodes")
        machine.step(opcode.name, argument)
    return machine.pop()


def interpret_bytes(data: bytes, rules: Rules) -> Any:
    """Read the object that a pickle held in memory describes; see :func:`interpret`."""
    return interpret(io.BytesIO(data), rules)


class _Bounded:
    """A stream that refuses to go on after :data:`PICKLE_LIMIT` bytes, whatever lengths the pickle claims."""

    def __init__(self, stream: BinaryIO) -> None:
        self._stream = stream
        self._left = PICKLE_LIMIT

    def read(self, size: int) -> bytes:
        if size > self._left:
            raise ValueError(f"the pickle claims more than {PICKLE_LIMIT} bytes")
        return self._spend(self._stream.read(size))

    def readline(self) -> bytes:
        return self._spend(self._stream.readline(self._left))

    def _spend(self, data: bytes) -> bytes:
        self._left -= len(data)
        return data


class _Machine:
    """Stack, marks and memo of one pickle."""

    def __init__(self, rules: Rules) -> None:
        self._rules = rules
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, Any] = {}

    def step(self, name: str, argument: Any) -> None:
        """Carry out one opcode."""
        if name in _VALUES:
            self._push(_checked_value(argument))
        elif name in _LITERALS:
            self._push(_LITERALS[name])
        elif name in _EMPTY:
            self._push(_EMPTY[name]())
        elif name in _TUPLES:
            self._push(tuple(self._pop_many(_TUPLES[name])))
        else:
            operation = _OPERATIONS.get(name)
            if operation is None:
                raise ValueError(f"the pickle uses the opcode {name}, which no checkpoint needs")
            operation(self, argument)

    def pop(self) -> Any:
        return self._stack.pop()

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_many(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise IndexError("the stack of the pickle is empty")
        values = self._stack[-count:]
        del self._stack[-count:]
        return values

    def _pop_mark(self) -> list[Any]:
        start = self._marks.pop()
        values = self._stack[start:]
        del self._stack[start:]
        return values

    def mark(self, _: Any) -> None:
        self._marks.append(len(self._stack))

    def discard(self, _: Any) -> None:
        if self._marks and self._marks[-1] == len(self._stack):
            self._marks.pop()
        else:
            self._stack.pop()

    def discard_mark(self, _: Any) -> None:
        self._pop_mark()

    def duplicate(self, _: Any) -> None:
        self._push(self._stack[-1])

    def put(self, index: int) -> None:
        self._memo[index] = self._stack[-1]

    def memoize(self, _: Any) -> None:
        self._memo[len(self._memo)] = self._stack[-1]

    def get(self, index: int) -> None:
        self._push(self._memo[index])

    def tuple_(self, _: Any) -> None:
        self._push(tuple(self._pop_mark()))

    def list_(self, _: Any) -> None:
        self._push(self._pop_mark())

    def dict_(self, _: Any) -> None:
        self._push(_paired(self._pop_mark()))

    def append(self, _: Any) -> None:
        value = self.pop()
        _extend(self._stack[-1], [value])

    def appends(self, _: Any) -> None:
        values = self._pop_mark()
        _extend(self._stack[-1], values)

    def setitem(self, _: Any) -> None:
        pair = self._pop_many(2)
        _update(self._stack[-1], _paired(pair))

    def setitems(self, _: Any) -> None:
        values = self._pop_mark()
        _update(self._stack[-1], _paired(values))

    def global_(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(self._named(module, name))

    def stack_global(self, _: Any) -> None:
        module, name = self._pop_many(2)
        self._push(self._named(module, name))

    def reduce(self, _: Any) -> None:
        function, args = self._pop_many(2)
        self._push(self._call(function, args))

    def newobj_ex(self, _: Any) -> None:
        function, args, _keywords = self._pop_many(3)
        self._push(self._call(function, args))

    def obj(self, _: Any) -> None:
        function, *args = self._pop_mark()
        self._push(self._call(function, tuple(args)))

    def inst(self, argument: str) -> None:
        module, _, name = argument.partition(" ")
        self._push(self._call(self._named(module, name), tuple(self._pop_mark())))

    def build(self, _: Any) -> None:
        state = self.pop()
        if isinstance(self._stack[-1], Opaque):
            self._stack[-1].state = state

    def persistent(self, argument: Any) -> None:
        self._push(self._rules.persistent(argument))

    def binary_persistent(self, _: Any) -> None:
        self._push(self._rules.persistent(self.pop()))

    def nothing(self, _: Any) -> None:
        """Protocol number, frame and stop carry no data."""

    def _named(self, module: Any, name: Any) -> Global:
        if not isinstance(module, str) or not isinstance(name, str):
            raise TypeError("the pickle names a global by something that is not text")
        if len(module) + len(name) > _NAME_LIMIT:
            raise ValueError("the pickle names a global by a text of absurd length")
        found = Global(module, name)
        self._rules.check(found)
        return found

    def _call(self, function: Any, args: Any) -> Any:
        if not isinstance(function, Global) or not isinstance(args, tuple):
            return Opaque("an object of a pickle", args)
        return self._rules.call(function, args)


_OPERATIONS: dict[str, Callable[[_Machine, Any], None]] = {
    "MARK": _Machine.mark,
    "POP": _Machine.discard,
    "POP_MARK": _Machine.discard_mark,
    "DUP": _Machine.duplicate,
    "PUT": _Machine.put,
    "BINPUT": _Machine.put,
    "LONG_BINPUT": _Machine.put,
    "MEMOIZE": _Machine.memoize,
    "GET": _Machine.get,
    "BINGET": _Machine.get,
    "LONG_BINGET": _Machine.get,
    "TUPLE": _Machine.tuple_,
    "FROZENSET": _Machine.tuple_,
    "LIST": _Machine.list_,
    "DICT": _Machine.dict_,
    "APPEND": _Machine.append,
    "APPENDS": _Machine.appends,
    "ADDITEMS": _Machine.appends,
    "SETITEM": _Machine.setitem,
    "SETITEMS": _Machine.setitems,
    "GLOBAL": _Machine.global_,
    "STACK_GLOBAL": _Machine.stack_global,
    "REDUCE": _Machine.reduce,
    "NEWOBJ": _Machine.reduce,
    "NEWOBJ_EX": _Machine.newobj_ex,
    "OBJ": _Machine.obj,
    "INST": _Machine.inst,
    "BUILD": _Machine.build,
    "PERSID": _Machine.persistent,
    "BINPERSID": _Machine.binary_persistent,
    "PROTO": _Machine.nothing,
    "FRAME": _Machine.nothing,
    "STOP": _Machine.nothing,
}


def _checked_value(value: Any) -> Any:
    if isinstance(value, int) and value.bit_length() > _INTEGER_BITS:
        raise ValueError("the pickle holds an integer of absurd size")
    return value


def _paired(values: list[Any]) -> dict[Any, Any]:
    if len(values) % 2:
        raise ValueError("the pickle holds a key without a value")
    return {_key(key): value for key, value in zip(values[::2], values[1::2], strict=True)}


def _key(key: Any) -> Any:
    """Make a key that is cheap to hash: nested tuples that share parts would take for ever."""
    if key is None or isinstance(key, str | int | float | bytes | Global):
        return key
    return Opaque("a key of a pickle", key)


def _extend(target: Any, values: list[Any]) -> None:
    if isinstance(target, list):
        target.extend(values)
    elif not isinstance(target, Opaque):
        raise TypeError("the pickle appends to something that is not a list")


def _update(target: Any, pairs: dict[Any, Any]) -> None:
    if isinstance(target, Opaque):
        target.items.update(pairs)
    elif isinstance(target, dict):
        target.update(pairs)
    else:
        raise TypeError("the pickle sets an item of something that is not a dict")
