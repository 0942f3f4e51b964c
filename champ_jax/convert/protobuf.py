"""The wire format of protocol buffers: the fields of a message in a file, one after the other, within strict limits.

Nothing here recurses, and no payload is read: a message's fields are numbers or spans of the file. Every field costs from
one budget, so that a small file cannot become a large structure in memory.
"""

from __future__ import annotations

import dataclasses
import struct
from collections.abc import Iterator, Mapping

VARINT, FIXED64, SPAN, FIXED32 = 0, 1, 2, 5
KINDS = {VARINT: "a number", FIXED64: "8 bytes", SPAN: "a span", FIXED32: "4 bytes"}
STRIDE = 5
"""Bytes from one number to the next in an array of 4-byte numbers that is not packed: each has a tag of one byte."""
MAX_FIELDS = 1 << 19
MAX_TEXT = 1 << 10


@dataclasses.dataclass(frozen=True, slots=True)
class Field:
    """number: which field of its message. kind: how it is stored. value: the number, of a VARINT. begin, end: the bytes of its
    payload. count: of FIXED32, how many fields in a row these are; each next payload begins `STRIDE` bytes after the last."""

    number: int
    kind: int
    value: int
    begin: int
    end: int
    count: int = 1


class Wire:
    """Reads fields from bytes (a memory map, or bytes in memory), at most `MAX_FIELDS` in all."""

    def __init__(self, data, budget: int = MAX_FIELDS):
        self.data = data
        self.budget = budget

    def spend(self, count: int = 1) -> None:
        """Takes from the budget. Raises ValueError when it is used up."""
        self.budget -= count
        if self.budget < 0:
            raise ValueError("it has more parts than any network of this kind")

    def fields(self, begin: int, end: int, kinds: Mapping[int, tuple[int, ...]]) -> Iterator[Field]:
        """The fields of the message in bytes begin..end, unknown ones left out.

        Args:
          begin, end: where the message lies.
          kinds: number of each known field to the ways in which it may be stored.

        Raises:
          ValueError: a field that ends outside the message, or that is stored in a way it must not be.
        """
        at = begin
        while at < end:
            self.spend()
            start = at
            tag, at = self.varint(at, end)
            number, kind, value = tag >> 3, tag & 7, 0
            if not 0 < number < 1 << 29 or kind not in KINDS:
                raise ValueError(f"byte {start} begins no field: number {number}, stored as {kind}")
            if number in kinds and kind not in kinds[number]:
                expected = " or ".join(KINDS[known] for known in kinds[number])
                raise ValueError(f"the field {number} at byte {start} is {KINDS[kind]}, and should be {expected}")
            first, count = at, 1
            if kind == VARINT:
                value, at = self.varint(at, end)
            elif kind == SPAN:
                length, first = self.varint(at, end)
                at = first + length
            elif kind == FIXED32:
                count = self._run(start, end) if first == start + 1 else 1
                at = first + 4 + STRIDE * (count - 1)
            else:
                at += 8
            if at > end:
                raise ValueError(f"the field {number} at byte {start} claims to end at byte {at}, and what it is in ends at {end}")
            if number in kinds:
                yield Field(number, kind, value, first, at, count)

    def _run(self, start: int, end: int) -> int:
        """How many fields of 4 bytes with the tag of the one at `start` follow each other, that one included."""
        tag, count, block = self.data[start : start + 1], 1, 16
        while True:
            at = start + STRIDE * count
            tags = self.data[at : min(at + STRIDE * block, end - STRIDE + 1) : STRIDE]
            same = len(tags) - len(tags.lstrip(tag))
            count += same
            if same < block:
                return count
            block *= 2

    def varint(self, at: int, end: int) -> tuple[int, int]:
        """(unsigned number of up to 64 bits, byte after it)."""
        value = 0
        for i in range(10):
            if at + i >= end:
                raise ValueError(f"it breaks off at byte {end}, within a number")
            byte = self.data[at + i]
            value |= (byte & 127) << 7 * i
            if byte < 128:
                if value >= 1 << 64:
                    break
                return value, at + i + 1
        raise ValueError(f"the number at byte {at} is longer than 64 bits")

    def integers(self, field: Field) -> list[int]:
        """The signed 64-bit numbers of a repeated field: one, or those packed in a span."""
        if field.kind == VARINT:
            return [signed(field.value)]
        values, at = [], field.begin
        while at < field.end:
            self.spend()
            value, at = self.varint(at, field.end)
            values.append(signed(value))
        return values

    def floats(self, field: Field) -> list[float]:
        """The 4-byte numbers of a repeated field: a run of single ones, or those packed in a span."""
        stride = STRIDE if field.kind == FIXED32 else 4
        count, rest = divmod(field.end - field.begin + stride - 4, stride)
        if rest:
            raise ValueError(f"the numbers at byte {field.begin} end within a number")
        self.spend(count)
        return [struct.unpack_from("<f", self.data, field.begin + stride * i)[0] for i in range(count)]

    def text(self, field: Field) -> str:
        """A name. Raises ValueError for one too long or not in UTF-8."""
        if field.end - field.begin > MAX_TEXT:
            raise ValueError(f"the name at byte {field.begin} has {field.end - field.begin} bytes; names have at most {MAX_TEXT}")
        try:
            return bytes(self.data[field.begin : field.end]).decode()
        except UnicodeDecodeError as error:
            raise ValueError(f"the name at byte {field.begin} is not text") from error


def signed(value: int) -> int:
    """An unsigned number of 64 bits as a signed one."""
    return value - (1 << 64) if value >= 1 << 63 else value
