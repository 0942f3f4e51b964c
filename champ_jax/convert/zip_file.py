"""Where the members of an uncompressed zip archive lie, as PyTorch writes them.

Python's zipfile would do, but it makes an object of half a kilobyte for every entry that a file claims to have.
"""

from __future__ import annotations

import struct
from pathlib import Path

END, END64, LOCATOR64, ENTRY, LOCAL = b"PK\x05\x06", b"PK\x06\x06", b"PK\x06\x07", b"PK\x01\x02", b"PK\x03\x04"
FULL16, FULL32 = 0xFFFF, 0xFFFFFFFF
MAX_DIRECTORY = 8 << 20
SYMLINK = 0xA000


def stored_members(path: Path) -> dict[str, tuple[int, int]]:
    """Name to (offset of the data, size) of every member.

    Raises ValueError for damage and for what PyTorch does not write: compressed, encrypted or overlapping members, links,
    two of one name.
    """
    total = path.stat().st_size
    with path.open("rb") as file:
        start, size, count = _directory(file, total)
        if size > min(total, MAX_DIRECTORY) or start + size > total or count * 46 > size:
            raise ValueError(f"its directory claims {count} members in {size} bytes at {start} of {total}")
        file.seek(start)
        directory = file.read(size)
        members, at = {}, 0
        for _ in range(count):
            name, offset, length, at = _entry(directory, at)
            if name in members:
                raise ValueError(f"it has two members {name!r}")
            members[name] = (_data_offset(file, name, offset), length)
    last = 0
    for offset, length, name in sorted((offset, length, name) for name, (offset, length) in members.items()):
        if offset < last or offset + length > start:
            raise ValueError(f"member {name!r} overlaps another or lies outside the file")
        last = offset + length
    return members


def _directory(file, total: int) -> tuple[int, int, int]:
    """(offset, size, number of entries) of the central directory."""
    length = min(total, 22 + FULL16)
    file.seek(total - length)
    tail = file.read(length)
    at = tail.rfind(END)
    if at < 0 or at + 22 > len(tail):
        raise ValueError("its end is missing: the file is cut off")
    count, size, start = struct.unpack_from("<HII", tail, at + 10)
    if FULL16 in (count,) or FULL32 in (size, start):
        locator = at - 20
        if locator < 0 or tail[locator : locator + 4] != LOCATOR64:
            raise ValueError("its 64-bit directory is missing")
        file.seek(min(struct.unpack_from("<Q", tail, locator + 8)[0], total))
        record = file.read(56)
        if len(record) < 56 or record[:4] != END64:
            raise ValueError("its 64-bit directory is missing")
        count, size, start = struct.unpack_from("<QQQ", record, 32)
    return start, size, count


def _entry(directory: bytes, at: int) -> tuple[str, int, int, int]:
    """(name, offset of the local header, size, where the next entry begins)."""
    if directory[at : at + 4] != ENTRY or at + 46 > len(directory):
        raise ValueError("its directory is damaged")
    flags, method = struct.unpack_from("<HH", directory, at + 8)
    packed, size, name_length, extra_length, comment_length = struct.unpack_from("<IIHHH", directory, at + 20)
    attributes, offset = struct.unpack_from("<II", directory, at + 38)
    end = at + 46 + name_length + extra_length + comment_length
    if end > len(directory):
        raise ValueError("its directory is damaged")
    name = directory[at + 46 : at + 46 + name_length].decode("utf-8", "replace")[:200]
    packed, size, offset = _wide(directory[at + 46 + name_length : end - comment_length], size, packed, offset)
    if method or packed != size:
        raise ValueError(f"member {name!r} is compressed, which PyTorch never does")
    if flags & 1:
        raise ValueError(f"member {name!r} is encrypted")
    if (attributes >> 16) & 0xF000 == SYMLINK:
        raise ValueError(f"member {name!r} is a link")
    return name, offset, size, end


def _wide(extra: bytes, size: int, packed: int, offset: int) -> tuple[int, int, int]:
    """(packed, size, offset), from the 64-bit extra field where they do not fit 32 bits."""
    at = 0
    while at + 4 <= len(extra):
        kind, length = struct.unpack_from("<HH", extra, at)
        if kind == 1:
            values = [value for (value,) in struct.iter_unpack("<Q", extra[at + 4 : at + 4 + length - length % 8])]
            found = [values.pop(0) if number == FULL32 and values else number for number in (size, packed, offset)]
            return found[1], found[0], found[2]
        at += 4 + length
    return packed, size, offset


def _data_offset(file, name: str, offset: int) -> int:
    """Where the data behind a local header begins."""
    file.seek(offset)
    header = file.read(30)
    if len(header) < 30 or header[:4] != LOCAL:
        raise ValueError(f"member {name!r} is not where the directory says")
    return offset + 30 + sum(struct.unpack_from("<HH", header, 26))
