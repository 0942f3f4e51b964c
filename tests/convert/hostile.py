"""Files that are damaged or made to do harm: (name, content, part of the message)."""

import io
import json
import pickle
import struct
import zipfile

import numpy as np


def safetensors(header, data=b"") -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return struct.pack("<Q", len(text)) + text + data


def entry(dtype="F32", shape=(2,), offsets=(0, 8)):
    return {"dtype": dtype, "shape": list(shape), "data_offsets": list(offsets)}


def safetensors_files():
    """Damaged safetensors."""
    good = {"a": entry()}
    yield "empty", b"", "header claims"
    yield "seven bytes", b"\x01" * 7, "header claims"
    yield "header of 100 GB", struct.pack("<Q", 100 << 30) + b"{}", "header claims"
    yield "header of 2^64 - 1", struct.pack("<Q", (1 << 64) - 1) + b"{}", "header claims"
    yield "header longer than the file", struct.pack("<Q", 100) + b'{"a": 1}', "header claims"
    yield "header of 9 MB", safetensors(b" " * (9 << 20) + b"{}"), "header claims"
    yield "header cut off", safetensors(b'{"a": {"dtype": "F32"'), "cannot be read"
    yield "header is a list", safetensors([1, 2]), "not a table"
    yield "header is no text", safetensors(b"{\xff\xfe}"), "cannot be read"
    yield "header of a million brackets", safetensors(b'{"a":' + b"[" * 1_000_000), "cannot be read"
    yield "header of nested tables", safetensors(b'{"a":' * 100_000), "cannot be read"
    yield "metadata is a list", safetensors({"__metadata__": [1]}), "metadata"
    yield "entry is a number", safetensors({"a": 3}), "needs exactly"
    yield "entry lacks a field", safetensors({"a": {"dtype": "F32", "shape": [2]}}), "needs exactly"
    yield "entry with a field too many", safetensors({"a": {**entry(), "x": 1}}, bytes(8)), "needs exactly"
    yield "unknown dtype", safetensors({"a": entry("F33")}, bytes(8)), "unknown dtype"
    yield "dtype is a table", safetensors({"a": entry({"x": 1})}, bytes(8)), "unknown dtype"
    yield "negative size", safetensors({"a": entry(shape=(-2,))}, bytes(8)), "whole numbers"
    yield "fractional size", safetensors({"a": entry(shape=(2.0,))}, bytes(8)), "whole numbers"
    yield "size is true", safetensors({"a": entry(shape=(True,), offsets=(0, 4))}, bytes(4)), "whole numbers"
    yield "size of 2^80", safetensors({"a": entry(shape=(1 << 80,))}, bytes(8)), "whole numbers"
    yield "product beyond 2^64", safetensors({"a": entry(shape=(1 << 40, 1 << 40))}, bytes(8)), "its shape needs"
    yield "a thousand dimensions", safetensors({"a": entry(shape=(1,) * 1000, offsets=(0, 4))}, bytes(4)), "has 1000 numbers"
    yield "offsets swapped", safetensors({"a": entry(offsets=(8, 0))}, bytes(8)), "its shape needs"
    yield "three offsets", safetensors({"a": entry(offsets=(0, 4, 8))}, bytes(8)), "has 3 numbers"
    yield "negative offset", safetensors({"a": entry(offsets=(-8, 0))}, bytes(8)), "whole numbers"
    yield "beyond the end", safetensors({"a": entry(offsets=(8, 16))}, bytes(8)), "its shape needs"
    yield "cut off", safetensors(good, bytes(4)), "its shape needs"
    yield "bytes left over", safetensors(good, bytes(12)), "and the data at"
    yield "tensors overlap", safetensors({"a": entry(), "b": entry(offsets=(4, 12))}, bytes(12)), "the one before ends"
    yield "tensors on top of each other", safetensors({"a": entry(), "b": entry()}, bytes(8)), "the one before ends"
    yield "a gap", safetensors({"a": entry(), "b": entry(offsets=(12, 20))}, bytes(20)), "the one before ends"
    yield "shape too small", safetensors({"a": entry(shape=(1,))}, bytes(8)), "its shape needs"
    first, second = json.dumps(entry()), json.dumps(entry(offsets=(8, 16)))
    yield "a name twice", safetensors(f'{{"a":{first},"a":{second}}}'.encode(), bytes(16)), "the one before ends"


def geometries():
    """Whole safetensors whose names or header claim more layers than any network has; what is built of them must be small."""
    shapes = {"model.diffusion_model.input_blocks.0.0.weight": (8, 4, 3, 3), "first_stage_model.encoder.conv_in.weight": (8, 3, 3, 3)}
    shapes |= {"model.diffusion_model.input_blocks.50000001.0.op.weight": (8, 8, 3, 3)}
    yield "50 million layers by name", zeros(shapes), "Stable Diffusion 1.x"
    clip = "vision_model.embeddings."
    shapes = {f"{clip}class_embedding": (8,), f"{clip}patch_embedding.weight": (8, 3, 4, 4), f"{clip}position_embedding.weight": (5, 8)}
    shapes |= {"visual_projection.weight": (4, 8), "vision_model.encoder.layers.0.mlp.fc1.weight": (8, 8)}
    for name, value in (("layers", 10**9), ("layers", -1), ("layers", "x"), ("heads", 0), ("hidden", [[]]), ("unknown", 3)):
        header = {"__metadata__": {"champ_jax": json.dumps({"clip": {name: value}})}}
        yield f"CLIP whose header says {name} {value}", zeros(shapes, header), ""
    yield "CLIP whose header is null", zeros(shapes, {"__metadata__": {"champ_jax": '{"clip": null}'}}), ""
    yield "CLIP without a matrix", zeros(shapes | {"visual_projection.weight": ()}), ""


def zeros(shapes, header=()) -> bytes:
    """A safetensors file with these shapes, all zero."""
    described, at = dict(header), 0
    for name, shape in shapes.items():
        size = 4 * int(np.prod(shape))
        described[name] = entry(shape=shape, offsets=(at, at + size))
        at += size
    return safetensors(described, bytes(at))


class Calls:
    """Pickles as a call of any function with any arguments."""

    def __init__(self, function, *arguments):
        self.made = (function, arguments)

    def __reduce__(self):
        return self.made


def zipped(pickled: bytes, members=(), **options) -> bytes:
    """A file of torch.save with this pickle and these members besides."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", options.get("method", zipfile.ZIP_STORED)) as archive:
        archive.writestr("archive/data.pkl", pickled)
        for name, content in members:
            archive.writestr(name, content)
        archive.writestr("archive/version", "3\n")
    return file.getvalue()


def tensor(key=b"0", count=2, offset=0, shape=(2,), strides=(1,), kind=b"FloatStorage") -> bytes:
    """{'a': a tensor}, pickled as torch.save does."""

    def numbers(values):
        return b"(" + b"".join(pickle.dumps(value, 2)[2:-1] for value in values) + b"t"

    storage = b"(X\x07\x00\x00\x00storagectorch\n" + kind + b"\nX\x01\x00\x00\x00" + key + b"X\x03\x00\x00\x00cpu"
    storage += pickle.dumps(count, 2)[2:-1] + b"tQ"
    arguments = storage + pickle.dumps(offset, 2)[2:-1] + numbers(shape) + numbers(strides) + b"\x89ccollections\nOrderedDict\n)R"
    return b"\x80\x02}X\x01\x00\x00\x00actorch._utils\n_rebuild_tensor_v2\n(" + arguments + b"tRs."


DATA = (("archive/data/0", np.zeros(2, np.float32).tobytes()),)
GOOD = zipped(tensor(), DATA)


def pickles():
    """Pickles that would run something, or exhaust memory or the stack."""
    import os
    import subprocess

    yield "os.system", pickle.dumps(Calls(os.system, "touch EXECUTED")), "names 'posix.system'"
    yield "os.system, protocol 0", pickle.dumps(Calls(os.system, "touch EXECUTED"), 0), "names 'posix.system'"
    yield "eval", pickle.dumps(Calls(eval, "open('EXECUTED', 'w')")), "names 'builtins.eval'"
    yield "exec", pickle.dumps(Calls(exec, "open('EXECUTED', 'w')")), "names 'builtins.exec'"
    yield "open", pickle.dumps(Calls(open, "EXECUTED", "w")), "names 'io.open'"
    yield "subprocess", pickle.dumps(Calls(subprocess.Popen, ["touch", "EXECUTED"])), "names 'subprocess.Popen'"
    yield "getattr", pickle.dumps(Calls(getattr, "x", "upper")), "names 'builtins.getattr'"
    yield "__import__", pickle.dumps(Calls(__import__, "os")), "names 'builtins.__import__'"
    yield "inside a dict", pickle.dumps({"state_dict": {"a": Calls(eval, "1")}}), "names 'builtins.eval'"
    yield "old instance", b"(cos\nsystem\nX\x0e\x00\x00\x00touch EXECUTEDo.", "names 'os.system'"
    yield "old inst", b"(S'touch EXECUTED'\nios\nsystem\n.", "operation INST"
    yield "newobj_ex", b"\x80\x04\x8c\x02os\x8c\x06system\x93)}\x92.", "names 'os.system'"
    yield "extension registry", b"\x80\x02\x82\x01.", "operation EXT1"
    yield "persistent id as text", b"Pos.system\n.", "operation PERSID"
    yield "torch.load itself", b"\x80\x02ctorch\nload\n(X\x01\x00\x00\x00xtR.", "names 'torch.load'"
    yield "torch storage by path", b"\x80\x02ctorch.storage\n_load_from_bytes\n(tR.", "_load_from_bytes"
    yield "numpy loader", b"\x80\x02cnumpy\nload\n(X\x01\x00\x00\x00xtR.", "names 'numpy.load'"
    yield "call of a number", b"\x80\x02K\x05)R.", "damaged"
    yield "no end", b"\x80\x02}", "damaged"
    yield "nothing", b"", "damaged"
    yield "text", b"hello world", "damaged"
    yield "mark missing", b"\x80\x02u.", "damaged"
    yield "empty stack", b"\x80\x02R.", "damaged"
    yield "memo never set", b"\x80\x02h\x07.", "damaged"
    yield "memo at 4 billion", b"\x80\x02}r\xff\xff\xff\xff.", "no tensor"
    yield "text of 2^62 bytes", b"\x80\x04\x8d" + struct.pack("<Q", 1 << 62) + b"x.", "damaged"
    yield "bytes of 2^62", b"\x80\x04\x8e" + struct.pack("<Q", 1 << 62) + b"x.", "damaged"
    yield "number of 2 GB", b"\x80\x02\x8b" + struct.pack("<i", (1 << 31) - 1) + b"x.", "damaged"
    yield "a million lists in each other", b"\x80\x02" + b"]" * 1_000_000 + b"a" * 999_999 + b".", "operations"
    yield "ten thousand lists in each other", b"\x80\x02" + b"]" * 10_000 + b"a" * 9_999 + b".", "deeper"
    yield "tuples in each other", b"\x80\x02)" + b"\x85" * 50_000 + b".", "deeper"
    yield "a list in itself", b"\x80\x02]q\x00h\x00a.", "deeper"
    yield "a dict in itself", b"\x80\x02}q\x00X\x01\x00\x00\x00ah\x00s.", "deeper"
    yield "lists doubling", doubling(), "state dict"
    yield "a million empty dicts", b"\x80\x02" + b"}" * 1_000_000 + b".", "operations"
    yield "unhashable key", b"\x80\x02}]K\x01s.", "damaged"
    yield "lists copied again and again", copied(), "operations"
    yield "keys that collide", colliding(), "damaged"
    yield "append to a dict", b"\x80\x02}K\x01a.", "damaged"


def copied() -> bytes:
    """A list of ten thousand, made a table of pairs two thousand times."""
    pairs = b"]q\x00(" + b"K\x00K\x00\x86" * 5_000 + b"e0"
    return b"\x80\x02" + pairs + b"](" + b"ccollections\nOrderedDict\nh\x00\x85R" * 2_000 + b"e."


def colliding() -> bytes:
    """A table whose keys, multiples of 2^61 - 1, have one hash."""
    entries = b"".join(b"\x8a\x0b" + (k * ((1 << 61) - 1)).to_bytes(11, "little") + b"N" for k in range(1, 20_000))
    return b"\x80\x02}(" + entries + b"u."


def doubling() -> bytes:
    """A list of two of a list of two of ... forty deep: 2^40 leaves if it were walked without remembering."""
    steps = b"".join(b"](h" + bytes([i]) + b"h" + bytes([i]) + b"eq" + bytes([i + 1]) for i in range(40))
    return b"\x80\x02]q\x00" + steps + b"."


def torch_files():
    """Zip archives around pickles."""
    for name, content, message in pickles():
        yield f"pickle: {name}", zipped(content), message
    yield "storage missing", zipped(tensor()), "storage '0' is missing"
    yield "storage cut off", zipped(tensor(), [("archive/data/0", b"1234")]), "beyond its storage"
    yield "offset beyond", zipped(tensor(offset=1), DATA), "beyond its storage"
    yield "strides beyond", zipped(tensor(strides=(2,)), DATA), "beyond its storage"
    yield "repeats its storage", zipped(tensor(shape=(1 << 40,), strides=(0,)), DATA), "repeats its storage"
    yield "negative stride", zipped(tensor(strides=(-1,)), DATA), "damaged"
    yield "negative offset", zipped(tensor(offset=-1), DATA), "damaged"
    yield "shape of 2^61", zipped(tensor(shape=(1 << 61,)), DATA), "a tensor of shape"
    yield "unknown storage", zipped(tensor(kind=b"EvilStorage"), DATA), "unknown kind"
    yield "compressed", zipped(tensor(), DATA, method=zipfile.ZIP_DEFLATED), "compressed"
    bomb = zipped(tensor(count=64 << 20), [("archive/data/0", bytes(256 << 20))], method=zipfile.ZIP_DEFLATED)
    yield "bomb of 256 MB", bomb, "compressed"
    yield "two pickles", zipped(tensor(), [("other/data.pkl", b"x"), *DATA]), "expected one data.pkl"
    yield "no pickle", zipped(tensor(), DATA).replace(b"data.pkl", b"atad.pkl"), "expected one data.pkl"
    yield "TorchScript", zipped(tensor(), [("archive/code/x.py", b"import os"), ("archive/constants.pkl", b"")]), "TorchScript"
    yield "big-endian", zipped(tensor(), [("archive/byteorder", b"big"), *DATA]), "big-endian"
    yield "linked member", linked(), "is a link"
    yield "cut in half", GOOD[: len(GOOD) // 2], "cut off"
    yield "without its end", GOOD[:-22], "cut off"
    yield "directory elsewhere", GOOD[:-6] + struct.pack("<I", 5) + GOOD[-2:], "damaged"
    yield "directory of 4 billion", GOOD[:-12] + struct.pack("<HI", 65534, 1 << 31) + GOOD[-6:], "directory claims"
    yield "members on top of each other", overlapping(), "overlaps"
    yield "a member twice", doubled(), "two members"
    yield "escaping names", zipped(tensor(key=b"x"), [("archive/data/../../../etc/passwd", b"x")]), "is missing"
    yield "tar of old", b"x" * 257 + b"ustar" + bytes(500), "tar archive"
    yield "HTML", b"<!DOCTYPE html><html>not found</html>", "no file of PyTorch"
    yield "a git pointer", b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n", "no file of PyTorch"
    yield "old form, cut off", old_form()[:-6], "cut off"
    yield "old form, runs something", old_form(pickle.dumps(Calls(eval, "1"), 2)), "names '__builtin__.eval'"
    yield "old form, count too large", old_form(count=1 << 40), "claims"
    yield "old form, negative count", old_form(count=-1), "claims"


def old_form(tree: bytes | None = None, count: int = 2) -> bytes:
    """As PyTorch saved before 1.6."""
    parts = [pickle.dumps(0x1950A86A20F9469CFC6C, 2), pickle.dumps(1001, 2), pickle.dumps({"little_endian": True}, 2)]
    parts += [tree or tensor(), pickle.dumps(["0"], 2), struct.pack("<q", count), np.arange(2, dtype=np.float32).tobytes()]
    return b"".join(parts)


def linked() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        archive.writestr("archive/data.pkl", tensor())
        link = zipfile.ZipInfo("archive/data/0")
        link.external_attr = 0o120777 << 16
        archive.writestr(link, "/etc/passwd")
    return file.getvalue()


def overlapping() -> bytes:
    """The second member's entry points at the first one's header."""
    content = bytearray(zipped(tensor(), DATA))
    at = content.rindex(b"PK\x01\x02")
    struct.pack_into("<I", content, at + 42, 0)
    struct.pack_into("<II", content, at + 20, 60, 60)
    return bytes(content)


def doubled() -> bytes:
    content = zipped(tensor(), [("archive/data/0", bytes(8)), ("archive/data/1", bytes(8))])
    return content.replace(b"archive/data/1", b"archive/data/0")
