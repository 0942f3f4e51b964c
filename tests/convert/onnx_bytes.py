"""ONNX files byte by byte, right ones and wrong ones."""

import struct


def varint(value: int) -> bytes:
    value &= (1 << 64) - 1
    out = b""
    while value > 127:
        out += bytes([value & 127 | 128])
        value >>= 7
    return out + bytes([value])


def number(field: int, value: int) -> bytes:
    return varint(field << 3) + varint(value)


def span(field: int, payload: bytes | str) -> bytes:
    payload = payload.encode() if isinstance(payload, str) else payload
    return varint(field << 3 | 2) + varint(len(payload)) + payload


def fixed32(field: int, value: float) -> bytes:
    return varint(field << 3 | 5) + struct.pack("<f", value)


def tensor(name: str, dims, data: bytes, dtype: int = 1) -> bytes:
    """A tensor; `data` are its data fields."""
    return span(1, b"".join(map(varint, dims))) + number(2, dtype) + span(8, name) + data


def node(op_type: str, inputs=(), outputs=(), attributes=b"") -> bytes:
    return b"".join(span(1, x) for x in inputs) + b"".join(span(2, x) for x in outputs) + span(4, op_type) + attributes


def model(tensors=(), nodes=(), inputs=("x",), outputs=("y",)) -> bytes:
    graph = b"".join(span(1, x) for x in nodes) + b"".join(span(5, x) for x in tensors)
    graph += b"".join(span(11, span(1, x)) for x in inputs) + b"".join(span(12, span(1, x)) for x in outputs)
    return number(1, 8) + span(2, "test") + span(7, graph)
