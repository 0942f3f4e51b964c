"""Reads pickles of PyTorch without running anything that is in them.

Python's own unpickler calls whatever function a file names. This one is a stack machine over the same operations that
makes plain containers, numbers and text, and knows the few names that a file of tensors contains. It imports nothing and
calls nothing of the file's choosing.
"""

from __future__ import annotations

import io
import pickletools
from collections.abc import Callable
from typing import Any, NamedTuple

from champ_jax.errors import UserError

# Names that appear in harmless files and mean nothing to us; calls of them give their arguments, unused.
INERT = {
    "_codecs.encode", "builtins.set", "__builtin__.set", "builtins.int", "builtins.list", "argparse.Namespace",
    "numpy.dtype", "numpy.ndarray",
    "numpy.core.multiarray.scalar", "numpy._core.multiarray.scalar",
    "numpy.core.multiarray._reconstruct", "numpy._core.multiarray._reconstruct",
    "torch.device", "torch.Size", "torch.serialization._get_layout",
    # Stable Diffusion 1.x names it in the training state beside its weights.
    "pytorch_lightning.callbacks.model_checkpoint.ModelCheckpoint",
}  # fmt: skip
TABLES = {"collections.OrderedDict", "collections.defaultdict", "builtins.dict"}
DTYPES = {"float16", "float32", "float64", "bfloat16", "int8", "int16", "int32", "int64", "uint8", "bool"}
DTYPES |= {"float8_e4m3fn", "float8_e5m2"}
TENSOR = {"torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v3"}
SUBCLASS = "torch._tensor._rebuild_from_type_v2"
"""Of tensors with attributes and of buffers: called with the function that makes the plain tensor, and its arguments."""
PARAMETER = {"torch._utils._rebuild_parameter", "torch._utils._rebuild_parameter_with_state"}


class Name(NamedTuple):
    """A global that the file names, 'module.attribute'; never looked up."""

    text: str


class Inert(NamedTuple):
    """What a harmless call would have given."""

    of: str


class TensorView(NamedTuple):
    """A tensor: where it lies in a storage, which `persistent` described; sizes in elements; dtype if not the storage's."""

    storage: Any
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    dtype: Name | None = None


def load(data: io.BytesIO, persistent: Callable[[Any], Any], operations: int, source: str) -> Any:
    """Reads one pickle from where `data` stands and leaves it behind its end.

    Args:
      data: the open pickle.
      persistent: from the identifier of a storage (a tuple) to what stands for it.
      operations: how many it may have; one byte of a pickle can make an object of a hundred.
      source: the file, for error messages.

    Returns:
      Dicts, lists, tuples, numbers, text, TensorView, and Name and Inert where nothing of use was.

    Raises:
      UserError: it names anything else, is damaged, or is not a pickle.
    """
    try:
        return _Machine(persistent).run(data, operations)
    except _Refused as error:
        raise UserError(f"{source} holds more than tensors: it {error}. It was not opened any further; get it as safetensors.") from error
    except (ValueError, IndexError, KeyError, TypeError, AttributeError, OverflowError, RecursionError, MemoryError, EOFError) as error:
        raise UserError(f"{source} is damaged or no file of PyTorch: {str(error)[:200] or type(error).__name__}. Copy it again.") from error


class _Refused(Exception):
    """The pickle asks for something that tensors do not need."""


_MARK = object()


class _Machine:
    """The stack, the marks within it and the memo of a pickle being read."""

    def __init__(self, persistent):
        self.persistent = persistent
        self.stack: list[Any] = []
        self.memo: dict[int, Any] = {}

    def run(self, data, operations) -> Any:
        self.operations = operations
        for opcode, argument, _ in pickletools.genops(data):
            self.operations -= 1
            if self.operations < 0:
                raise _Refused(f"has more than {operations} operations, far more than its size needs")
            if opcode.name == "STOP":
                return self.stack.pop()
            if opcode.name in _CONSTANTS:
                self.stack.append(_CONSTANTS[opcode.name]())
            elif opcode.name in _LITERALS:
                self.stack.append(argument)
            elif handler := getattr(self, f"op_{opcode.name.lower()}", None):
                handler(argument)
            elif opcode.name not in ("PROTO", "FRAME"):
                raise _Refused(f"uses the operation {opcode.name}")
        raise ValueError("it has no end")

    def until_mark(self) -> list[Any]:
        """Takes everything above the last mark, and the mark, off the stack."""
        for at in range(len(self.stack) - 1, -1, -1):
            if self.stack[at] is _MARK:
                taken = self.stack[at + 1 :]
                del self.stack[at:]
                return taken
        raise ValueError("a mark is missing")

    def op_mark(self, _):
        self.stack.append(_MARK)

    def op_pop(self, _):
        self.stack.pop()

    def op_pop_mark(self, _):
        self.until_mark()

    def op_dup(self, _):
        self.stack.append(self.stack[-1])

    def op_memoize(self, _):
        self.memo[len(self.memo)] = self.stack[-1]

    def op_put(self, index):
        self.memo[index] = self.stack[-1]

    op_binput = op_long_binput = op_put

    def op_get(self, index):
        self.stack.append(self.memo[index])

    op_binget = op_long_binget = op_get

    def op_tuple(self, _):
        self.stack.append(tuple(self.until_mark()))

    def op_tuple1(self, _):
        self._tuple(1)

    def op_tuple2(self, _):
        self._tuple(2)

    def op_tuple3(self, _):
        self._tuple(3)

    def _tuple(self, length):
        if len(self.stack) < length:
            raise ValueError("the stack is empty")
        taken = tuple(self.stack[-length:])
        del self.stack[-length:]
        self.stack.append(taken)

    def op_list(self, _):
        self.stack.append(self.until_mark())

    def op_dict(self, _):
        self.stack.append(_pairs(self.until_mark()))

    def op_append(self, _):
        value = self.stack.pop()
        self._onto(list).append(value)

    def op_appends(self, _):
        values = self.until_mark()
        self._onto(list).extend(values)

    def op_setitem(self, _):
        value, key = self.stack.pop(), self.stack.pop()
        self._onto(dict).update(_pairs([key, value]))

    def op_setitems(self, _):
        values = self.until_mark()
        self._onto(dict).update(_pairs(values))

    def _onto(self, kind):
        """The container on top of the stack; what is put into an inert object goes nowhere."""
        if isinstance(self.stack[-1], Inert):
            return kind()
        if not isinstance(self.stack[-1], kind):
            raise ValueError(f"{type(self.stack[-1]).__name__} in place of a {kind.__name__}")
        return self.stack[-1]

    def op_global(self, argument):
        self._name(argument.replace(" ", ".", 1))

    def op_stack_global(self, _):
        attribute, module = self.stack.pop(), self.stack.pop()
        if not (isinstance(module, str) and isinstance(attribute, str)):
            raise ValueError("a name that is not text")
        self._name(f"{module}.{attribute}")

    def _name(self, text):
        if text not in TENSOR | PARAMETER | INERT | TABLES | {SUBCLASS} and not _is_storage_or_dtype(text):
            raise _Refused(f"names {text[:100]!r}")
        self.stack.append(Name(text))

    def op_reduce(self, _):
        arguments, function = self.stack.pop(), self.stack.pop()
        if not isinstance(function, Name) or not isinstance(arguments, tuple):
            raise ValueError("a call of something that is no function")
        if function.text in TABLES and arguments and isinstance(arguments[0], (list, tuple)):
            self.operations -= len(arguments[0])  # copying a list a thousand times is one operation each otherwise
        self.stack.append(_call(function.text, arguments))

    def op_newobj(self, argument):
        self.op_reduce(argument)

    def op_build(self, _):
        """Attributes of an object, such as an OrderedDict's `_metadata`: not needed."""
        self.stack.pop()

    def op_binpersid(self, _):
        self.stack.append(self.persistent(self.stack.pop()))


def _call(name: str, arguments: tuple) -> Any:
    """What calling one of the known names gives."""
    if name in TENSOR:
        storage, offset, shape, strides = arguments[:4]
        whole = [offset, *shape, *strides]
        if not all(type(x) is int and 0 <= x < 1 << 62 for x in whole) or len(shape) != len(strides) or len(shape) > 32:
            raise ValueError("a tensor without a shape that makes sense")
        dtype = arguments[6] if name.endswith("_v3") and len(arguments) > 6 and isinstance(arguments[6], Name) else None
        return TensorView(storage, offset, tuple(shape), tuple(strides), dtype)
    if name == SUBCLASS:
        function, _, inner = arguments[:3]
        if not isinstance(function, Name) or not isinstance(inner, tuple) or function.text == SUBCLASS:
            raise ValueError("a tensor with attributes that is none")
        return _call(function.text, inner)
    if name in PARAMETER:
        return arguments[0]
    if name in TABLES:
        pairs = arguments[0] if arguments and isinstance(arguments[0], (list, tuple)) else ()
        return _pairs([x for pair in pairs for x in _pair(pair)])
    return Inert(name)


def _pair(items: Any) -> tuple:
    if not isinstance(items, (list, tuple)) or len(items) != 2:
        raise ValueError("a table with an entry that is no pair")
    return tuple(items)


def _pairs(flat: list[Any]) -> dict:
    """{key: value, ...} of [key, value, ...]; keys must be text, numbers or names."""
    if len(flat) % 2:
        raise ValueError("a table with a key without a value")
    for key in flat[::2]:
        # Large numbers can be made to collide, which makes a table slow.
        if not isinstance(key, (str, bytes, Name, Inert)) and not (isinstance(key, int) and abs(key) < 1 << 31):
            raise ValueError(f"a table with a key that is a {type(key).__name__}")
    return dict(zip(flat[::2], flat[1::2]))


def _is_storage_or_dtype(text: str) -> bool:
    """torch.FloatStorage, torch.storage.UntypedStorage, torch.float16 and the like."""
    module, _, attribute = text.rpartition(".")
    if module not in ("torch", "torch.storage", "torch.cuda"):
        return False
    return attribute.endswith("Storage") or attribute in DTYPES


_CONSTANTS = {
    "NONE": lambda: None, "NEWTRUE": lambda: True, "NEWFALSE": lambda: False,
    "EMPTY_DICT": dict, "EMPTY_LIST": list, "EMPTY_TUPLE": tuple, "EMPTY_SET": list,
}  # fmt: skip
_LITERALS = {
    "INT", "BININT", "BININT1", "BININT2", "LONG", "LONG1", "LONG4", "FLOAT", "BINFLOAT",
    "STRING", "BINSTRING", "SHORT_BINSTRING", "BINBYTES", "SHORT_BINBYTES", "BINBYTES8",
    "UNICODE", "BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8",
}  # fmt: skip
