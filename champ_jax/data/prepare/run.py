"""From a user's folder to records: work cut into pieces that any process can do, finished pieces kept, one set of records at the end.

A piece is a stretch of one source, no longer than a clip, so memory does not grow with the length of a video. What becomes of it
waits in `OUT/.parts/KEY/` as a small set of records of its own, with a report. Its key is made of the piece, the
settings and the size and time of the source's files: a run that was killed goes on where it was, and a changed source is done again.
"""

import dataclasses
import hashlib
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, ThreadPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from champ_jax.data.estimate.people import EstimatorLost
from champ_jax.data.prepare.layouts import Found
from champ_jax.data.prepare.piece import Piece, Report, Settings, Tools, length_of, prepare_piece
from champ_jax.data.prepare.source import Source
from champ_jax.data.records import drop_split, open_records, splits_of, write_records
from champ_jax.data.workers import become_worker
from champ_jax.errors import UserError
from champ_jax.files import write_text

PARTS, DONE = ".parts", "prepared.txt"
SPLITS = ("train", "validation", "test")
_tools: Tools | None = None  # of a worker process


@dataclasses.dataclass(frozen=True)
class Outcome:
    """A run's result: clips written by split, and {source, or source and seconds: reason} of what was left out."""

    clips: dict[str, int]
    dropped: dict[str, str]
    reports: list[Report]


def cut(found: Found, settings: Settings, say: Callable[[str], None] = print) -> tuple[list[Piece], dict[str, str]]:
    """The pieces of all sources, in order, and {name: reason} of the sources that cannot be read."""
    pieces, refused = [], dict(found.refused)

    def look(source: Source) -> list[Piece] | UserError:
        try:
            return pieces_of(source, settings)
        except UserError as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:  # each asks a decoder, and waits for it
        for source, result in zip(found.sources, pool.map(look, found.sources)):
            if isinstance(result, UserError):
                refused[source.name] = str(result)
                say(f"left out {source.name}: {result}")
            else:
                pieces += result
    return pieces, refused


def pieces_of(source: Source, settings: Settings) -> list[Piece]:
    """A source cut into equal pieces of at most `settings.clip_seconds`. UserError if it is too short or cannot be read."""
    length, stamp, identity = length_of(source, settings), stamp_of(source), number_of(source.subject)
    if source.layout == "records":
        return [Piece(source, number, number, 1, identity, stamp) for number in range(length)]
    least = settings.least_frames
    if length < least:
        raise UserError(f"{source.path}: {length} frames at {float(settings.fps):g} a second; a clip has at least {least}")
    count = -(-length // settings.clip_frames)
    edges = [round(number * length / count) for number in range(count + 1)]
    return [Piece(source, number, low, high - low, identity, stamp) for number, (low, high) in enumerate(zip(edges, edges[1:]))]


def stamp_of(source: Source) -> str:
    """Changes with any of a source's files, and with its licence."""
    files = [source.path, source.keypoints, source.music, *source.frames.values()]
    files += [path for maps in source.maps.values() for path in maps.values()]
    if source.keypoints is not None and source.keypoints.is_dir():
        files += sorted(source.keypoints.glob("*.json"))
    if isinstance(source.features, Path):
        files += [source.features, source.features.with_suffix(".json")]
    else:
        files += (source.features or {}).values()
    if source.layout == "records":
        files += sorted(source.path.glob(f"*-{source.part}*"))
    found = [(path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in files if path is not None and path.is_file()]
    return hashlib.sha256(json.dumps([source.license, *found]).encode()).hexdigest()[:16]


def number_of(subject: str) -> int:
    """A number below 2**31 for a subject's name, whoever else there is: adding people changes nobody's."""
    return int.from_bytes(hashlib.sha256(subject.encode()).digest()[:4], "big") >> 1


def split_of(source: Source, validation: float) -> str:
    """The split of a source: its layout's own, else by its subject, so that nobody is in two."""
    if source.part in SPLITS:
        return source.part
    return "validation" if number_of(source.subject) < validation * 2**31 else "train"


def key_of(piece: Piece, settings: Settings) -> str:
    """Names a piece's result: the same for the same source, settings and files, on every host."""
    text = json.dumps([piece.source.name, str(piece.source.fps), piece.first, piece.count, piece.stamp, settings.fingerprint()])
    return f"{piece.source.name[:80]}-{piece.number:05d}-{hashlib.sha256(text.encode()).hexdigest()[:16]}"


def prepare(
    pieces: list[Piece],
    settings: Settings,
    out: Path,
    workers: int = 1,
    share: tuple[int, int] = (0, 1),
    again: bool = False,
    progress: Callable[[int, int, Report], None] = lambda done, total, report: None,
) -> None:
    """Does the pieces of this share (index, count) that are not done yet, or all of them `again`.

    Raises:
      UserError: a tool that all need is missing, or a worker died.
    """
    mine = pieces[share[0] :: share[1]]
    folders = {key_of(piece, settings): piece for piece in mine}
    parts = out / PARTS
    parts.mkdir(parents=True, exist_ok=True)
    for key in folders if again else ():
        shutil.rmtree(parts / key, ignore_errors=True)
    left = {key: piece for key, piece in folders.items() if not (parts / key / "report.json").is_file()}
    done = len(folders) - len(left)
    for report in _work(left, settings, parts, workers):
        done += 1
        progress(done, len(folders), report)


def _work(left: dict[str, Piece], settings: Settings, parts: Path, workers: int) -> Iterator[Report]:
    """The report of each piece as it gets done, in any order."""
    if not left:
        return
    if workers <= 1 or len(left) <= 1:
        with Tools.open(settings) as tools:
            for key, piece in left.items():
                yield _do(key, piece, settings, parts, tools)
        return
    with Tools.open(settings):  # a missing file is one line here, and a broken pool there
        pass
    context = get_context("spawn")
    with ProcessPoolExecutor(min(workers, len(left)), context, initializer=_start_worker, initargs=(settings,)) as pool:
        waiting = {pool.submit(_do_in_worker, key, piece, settings, parts): key for key, piece in left.items()}
        try:
            while waiting:
                for future in wait(waiting, return_when=FIRST_COMPLETED).done:
                    del waiting[future]
                    yield future.result()
        except BrokenProcessPool as error:
            raise UserError(
                f"{parts}: a worker process died (out of memory, or a library crashed). What is done is kept: start the same command "
                "again, with fewer --workers"
            ) from error
        finally:
            pool.shutdown(wait=True, cancel_futures=True)


def _start_worker(settings: Settings) -> None:
    global _tools
    become_worker()
    _tools = Tools.open(settings)


def _do_in_worker(key: str, piece: Piece, settings: Settings, parts: Path) -> Report:
    return _do(key, piece, settings, parts, _tools)


def _do(key: str, piece: Piece, settings: Settings, parts: Path, tools: Tools) -> Report:
    try:
        examples, report = prepare_piece(piece, settings, tools)
    except (EstimatorLost, OSError):
        raise
    except Exception as error:  # one clip, whatever libraries find wrong with it, must not end the others
        reason = str(error) if isinstance(error, UserError) else f"{type(error).__name__}: {error}"
        examples, report = [], Report(piece.source.name, dropped={"": reason})
    # The worker of a killed run may still be at the same piece: each has a folder of its own, and the first one that is whole counts.
    partial = parts / f".{key}.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir()
    if examples:
        write_records(partial, "part", examples)
    (partial / "report.json").write_text(json.dumps(dataclasses.asdict(report)))
    try:
        partial.rename(parts / key)
    except OSError:
        if not (parts / key / "report.json").is_file():
            raise
        shutil.rmtree(partial)
    return report


def read_report(folder: Path) -> Report:
    """The report of a finished piece."""
    return Report(**json.loads((folder / "report.json").read_text()))


def publish(pieces: list[Piece], settings: Settings, out: Path) -> Outcome:
    """Writes the records of all pieces, in order, split by split. What an earlier run left in other splits goes.

    Raises:
      UserError: pieces are not done yet, not one clip came of them, or the folder holds records that were not prepared.
    """
    parts = out / PARTS
    check_folder(out)
    keys = [key_of(piece, settings) for piece in pieces]
    missing = [piece for piece, key in zip(pieces, keys) if not (parts / key / "report.json").is_file()]
    if missing:
        raise UserError(
            f"{out}: {len(missing)} of {len(pieces)} pieces are not done, the first of {missing[0].source.name}; run the other shares"
        )
    reports = [read_report(parts / key) for key in keys]
    write_text(out / DONE, "")
    clips = {}
    for split in SPLITS:
        chosen = [
            parts / key
            for piece, key, report in zip(pieces, keys, reports)
            if report.clips and split_of(piece.source, settings.validation) == split
        ]
        if chosen:
            clips[split] = write_records(out, split, _examples(chosen), overwrite=True)
    for split in set(splits_of(out)) - set(clips) if clips else ():
        drop_split(out, split)
    dropped = {f"{report.source} {part}".strip(): reason for report in reports for part, reason in report.dropped.items()}
    if not clips:
        some = "; ".join(f"{name}: {reason}" for name, reason in list(dropped.items())[:5])
        raise UserError(f"{out}: not one clip came of {len(pieces)} pieces. {some}")
    return Outcome(clips, dropped, reports)


def check_folder(out: Path) -> None:
    """Raises UserError for a folder of records that were not made by `prepare`: it would take their place."""
    if (out / "dataset_info.json").is_file() and not (out / DONE).is_file():
        raise UserError(f"{out}: holds records that were made otherwise; give another --out")


def _examples(folders: Iterable[Path]) -> Iterator[dict[str, Any]]:
    for folder in folders:
        records = open_records(folder, "part")
        for number in range(len(records)):
            yield records[number].fields


def digest_of(pieces: list[Piece], settings: Settings) -> str:
    """Names what a set of records is made of."""
    keys = [f"{key_of(piece, settings)} {split_of(piece.source, settings.validation)}" for piece in pieces]
    return hashlib.sha256("\n".join(keys).encode()).hexdigest()


def is_done(pieces: list[Piece], settings: Settings, out: Path) -> bool:
    """Whether the records in a folder were made of these very pieces."""
    path = out / DONE
    return path.is_file() and (out / "dataset_info.json").is_file() and path.read_text() == digest_of(pieces, settings)


def finish(pieces: list[Piece], settings: Settings, out: Path) -> None:
    """Notes what the records were made of, and deletes the finished pieces."""
    write_text(out / DONE, digest_of(pieces, settings))
    shutil.rmtree(out / PARTS, ignore_errors=True)
