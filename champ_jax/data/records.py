"""Clips on disk: ArrayRecord shards that tensorflow-datasets reads without TensorFlow.

A directory holds, for each split, its shards, `index-SPLIT.json` (what a loader must know of every clip before it
opens one) and, for all splits together, `features.json` and `dataset_info.json`. The latter is written last, so a
directory either has a split completely or does not have it.
"""

import dataclasses
import hashlib
import json
import os
import tempfile
import threading
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from champ_jax.data import schema
from champ_jax.data.clip import Clip
from champ_jax.errors import UserError
from champ_jax.files import write_text

_INFO = "dataset_info.json"

MAX_BAD = 0.01  # of a split's records


@dataclasses.dataclass(frozen=True)
class ClipInfo:
    """What is known of a clip without opening its record.

    n_frames motion frames, `stored` of them with pixels; maps: the guidance kinds stored with them; music_dim and
    face_dim are 0 where the clip has none; music_spec and face_model name where the vectors come from.
    """

    clip_id: str
    identity_id: int
    n_frames: int
    stored: int
    width: int
    height: int
    maps: tuple[str, ...]
    music_dim: int
    music_spec: str
    face_dim: int
    face_model: str


def describe(fields: dict[str, Any]) -> ClipInfo:
    """The index entry of a complete example or of a clip's fields."""
    return ClipInfo(
        clip_id=fields["clip_id"],
        identity_id=int(fields["identity_id"]),
        n_frames=int(fields["n_frames"]),
        stored=len(fields["frame_index"]),
        width=int(fields["width"]),
        height=int(fields["height"]),
        maps=tuple(kind for kind in schema.IMAGES if kind != "frames" and len(fields[kind])),
        music_dim=int(fields["music"].shape[1]) if len(fields["music"]) else 0,
        music_spec=fields["music_spec"],
        face_dim=int(fields["face_emb"].shape[1]) if len(fields["face_emb"]) else 0,
        face_model=fields["face_model"],
    )


def _template(directory: Path, split: str):
    from tensorflow_datasets.core import naming

    return naming.ShardedFileTemplate(data_dir=directory, dataset_name=schema.SCHEMA_NAME, split=split, filetype_suffix="array_record")


def _load_info(directory: Path):
    """The tfds builder of `directory`; UserError if its metadata is unreadable or of another schema."""
    import tensorflow_datasets as tfds

    path = directory / _INFO
    try:
        found = json.loads(path.read_text())
        builder = tfds.builder_from_directory(directory)
        fields = set(builder.info.features)
    except FileNotFoundError as error:
        raise UserError(f"{directory}: no records here ({Path(error.filename or path).name} is missing). "
                        "Render or prepare data first, or correct the path.") from error  # fmt: skip
    except Exception as error:
        raise UserError(f"{path}: unreadable metadata ({_line(error)}). Write the records again.") from error
    version = str(found.get("version"))
    if found.get("name") != schema.SCHEMA_NAME or version.split(".")[0] != schema.SCHEMA_VERSION.split(".")[0]:
        raise UserError(
            f"{path}: records of {found.get('name')} version {version}, expected {schema.SCHEMA_NAME} version "
            f"{schema.SCHEMA_VERSION}. Write them again with this version of champ_jax."
        )
    missing = sorted(set(schema.FIELDS) - set(schema.MAPS) - fields)
    if missing:
        raise UserError(f"{path}: the records lack the fields {missing}. Write them again with this version.")
    return builder


def _line(error: BaseException, without: str = "") -> str:
    """An exception's first line, for one-line messages; `without` these words in front."""
    text = str(error).removeprefix(without).strip().splitlines()
    return text[0][:160] if text else type(error).__name__


class _Shards:
    """Writes serialised records into numbered temporary files, starting a new one every `limit` bytes."""

    def __init__(self, folder: Path, limit: int):
        self.folder, self.limit = folder, limit
        self.paths: list[Path] = []
        self.lengths: list[int] = []
        self.bytes = 0
        self.digest = hashlib.sha256()
        self._size = 0
        self._writer = None

    def write(self, record: bytes) -> None:
        from array_record.python import array_record_module

        if self._writer is None or self._size >= self.limit:
            self.close()
            self.paths.append(self.folder / str(len(self.paths)))
            self.lengths.append(0)
            self._size = 0
            # One record a group: random access then reads one clip, not its neighbours.
            self._writer = array_record_module.ArrayRecordWriter(str(self.paths[-1]), "group_size:1")
        self._writer.write(record)
        self.digest.update(record)
        self.lengths[-1] += 1
        self.bytes += len(record)
        self._size += len(record)

    def close(self) -> None:
        if self._writer is not None:
            self._writer.close()
            self._writer = None


def write_records(
    directory: str | os.PathLike,
    split: str,
    examples: Iterable[dict[str, Any]],
    shard_bytes: int = 1 << 28,
    overwrite: bool = False,
) -> int:
    """Writes `examples` (schema.py; optional fields may be left out) as a split, one at a time; returns their number.

    The split appears in the directory's metadata only once all of it is in place. Raises UserError on an invalid
    example, on none at all, and on a split that exists already unless `overwrite`.
    """
    from tensorflow_datasets.core import example_serializer

    directory = Path(directory)
    directory.mkdir(parents=True, exist_ok=True)
    splits = dict(_load_info(directory).info.splits) if (directory / _INFO).exists() else {}
    if split in splits:
        if not overwrite:
            raise UserError(f"{directory}: the split '{split}' exists already. Choose another name or delete it.")
        del splits[split]
    serializer = example_serializer.ExampleSerializer(schema.features().get_serialized_info())
    infos: list[ClipInfo] = []
    seen: set[str] = set()
    with tempfile.TemporaryDirectory(dir=directory, prefix=f".{split}.incomplete-") as folder:
        shards = _Shards(Path(folder), shard_bytes)
        for number, example in enumerate(examples):
            where = f"{directory}, split {split}, example {number} ({example.get('clip_id', 'without clip_id')})"
            fields = schema.complete(example, where)
            if fields["clip_id"] in seen:
                raise UserError(f"{where}: this clip_id was written before; clip ids are unique in a split.")
            seen.add(fields["clip_id"])
            # In a fixed order, so that the same clips are the same bytes.
            example_proto = serializer.get_tf_example(schema.features().encode_example(fields))
            shards.write(example_proto.SerializeToString(deterministic=True))
            infos.append(describe(fields))
        shards.close()
        if not infos:
            raise UserError(f"{directory}: no examples were given for the split '{split}'; nothing was written.")
        _publish(directory, split, shards, infos, splits)
    return len(infos)


def _publish(directory: Path, split: str, shards: _Shards, infos: list[ClipInfo], others: dict) -> None:
    """Moves finished shards to their names, then the index, then the metadata of all splits."""
    from tensorflow_datasets.core import splits as tfds_splits

    template = _template(directory, split)
    if (directory / _INFO).exists():
        _write_info(directory, others)  # without the split that is being replaced
    for old in directory.glob(f"{schema.SCHEMA_NAME}-{split}.array_record-*"):
        old.unlink()
    sizes = {}
    for number, path in enumerate(shards.paths):
        final = Path(template.sharded_filepath(shard_index=number, num_shards=len(shards.paths)))
        sizes[final.name] = path.stat().st_size
        os.replace(path, final)
    index = {"files": sizes, "digest": shards.digest.hexdigest(), "clips": [dataclasses.asdict(info) for info in infos]}
    write_text(directory / f"index-{split}.json", json.dumps(index))
    info = tfds_splits.SplitInfo(name=split, shard_lengths=shards.lengths, num_bytes=shards.bytes, filename_template=template)
    _write_info(directory, {**others, split: info})


def _write_info(directory: Path, splits: dict) -> None:
    """Writes features.json and, last, dataset_info.json; a directory left without splits loses the latter."""
    from tensorflow_datasets.core import dataset_info, utils
    from tensorflow_datasets.core import splits as tfds_splits

    if not splits:
        (directory / _INFO).unlink(missing_ok=True)
        return
    identity = dataset_info.DatasetIdentity(
        name=schema.SCHEMA_NAME, version=utils.Version(schema.SCHEMA_VERSION), data_dir=str(directory), module_name=""
    )
    info = dataset_info.DatasetInfo(builder=identity, features=schema.features())
    info.set_file_format("array_record")
    info.set_splits(tfds_splits.SplitDict(list(splits.values())))
    with tempfile.TemporaryDirectory(dir=directory, prefix=".info-") as folder:
        info.write_to_directory(folder)
        for path in sorted(Path(folder).iterdir(), key=lambda path: path.name == _INFO):
            os.replace(path, directory / path.name)


class Records:
    """Random access to the clips of one split, or of several joined by `+`: `records[i]` is a Clip.

    infos: one ClipInfo a record. fingerprint: changes with the clips. With `keep`, opened clips and their decoded images
    stay in memory. Reading a damaged record raises UserError naming file and record; one that can do without it says so to `skip`.
    skipped: {clip id: reason} of the records that were.
    """

    def __init__(self, directory: str | os.PathLike, split: str, keep: bool = False):
        import tensorflow_datasets as tfds
        from tensorflow_datasets.core import example_parser

        self.directory, self.split, self.keep = Path(directory), split, keep
        builder = _load_info(self.directory)
        names = split.split("+")
        absent = [name for name in names if name not in builder.info.splits]
        if absent:
            raise UserError(f"{directory}: no split '{absent[0]}'; it has {sorted(builder.info.splits)}.")
        self._files: list[tuple[str, int]] = []
        for name in names:
            info = builder.info.splits[name]
            self._files += [(Path(path).name, n) for path, n in zip(info.filepaths, info.shard_lengths)]
        self._parser = example_parser.ExampleParserNp(schema.features().get_serialized_info())
        raw = tfds.decode.DeserializeMethod.RAW_BYTES
        self._sources = [builder.as_data_source(name, deserialize_method=raw) for name in names]
        self._clips: dict[int, Clip] = {}
        self.skipped: dict[str, str] = {}
        self._skipping = threading.Lock()  # two threads may find the same damage
        self.infos: list[ClipInfo] = []
        digest = hashlib.sha256()
        for name in names:
            text, infos = self._read_index(name)
            digest.update(text.encode())
            self.infos += infos
        self.fingerprint = digest.hexdigest()[:16]
        if len({info.clip_id for info in self.infos}) < len(self.infos):
            raise UserError(f"{directory}: the splits {split} share clips; each clip may be in one of them only.")

    def _read_index(self, split: str) -> tuple[str, list[ClipInfo]]:
        path = self.directory / f"index-{split}.json"
        try:
            text = path.read_text()
            index = json.loads(text)
            infos = [ClipInfo(**{**row, "maps": tuple(row["maps"])}) for row in index["clips"]]
            sizes = dict(index["files"])
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path}: unreadable index ({_line(error)}). Write the records again.") from error
        for name, size in sizes.items():
            file = self.directory / name
            found = file.stat().st_size if file.exists() else None
            if found != size:
                state = "is missing" if found is None else f"has {found} bytes instead of {size}"
                raise UserError(f"{file}: unreadable records: the file {state}. Copy or write the split again.")
        return text, infos

    def __len__(self) -> int:
        return len(self.infos)

    def where(self, number: int | None = None) -> str:
        """For messages: file, record and clip of record `number`, or directory and split."""
        if number is None:
            return f"{self.directory}, split {self.split}"
        position = number
        for name, length in self._files:
            if position < length:
                return f"{self.directory / name}, record {position} ({self.infos[number].clip_id})"
            position -= length
        raise IndexError(number)

    def __getitem__(self, number: int) -> Clip:
        if not 0 <= number < len(self):
            raise IndexError(f"record {number} of {len(self)}")
        if number in self._clips:
            return self._clips[number]
        clip = Clip(self._read(number), self.where(number), keep=self.keep)
        if self.keep:
            self._clips[number] = clip
        return clip

    def readable(self, numbers: Iterable[int]) -> Iterator[Clip]:
        """The clips of these numbers; the records that cannot be read are skipped."""
        for number in numbers:
            try:
                clip = self[number]
            except UserError as error:
                self.skip(number, error)
            else:
                yield clip

    def _read(self, number: int) -> dict[str, Any]:
        """The fields of a record: arrays decoded, images still encoded."""
        position, source = number, self._sources[0]
        for source in self._sources:
            if position < len(source):
                break
            position -= len(source)
        try:
            parsed = self._parser.parse_example(source[position])
            # A kind of map may be younger than the record: then there is none of it, which the index says too.
            parsed |= {kind: [] for kind in schema.MAPS if _is_absent(parsed.get(kind))}
            absent = [name for name in schema.FIELDS if _is_absent(parsed.get(name))]
            fields = {} if absent else {name: _decode(name, value) for name, value in parsed.items()}
        except Exception as error:  # the readers raise whatever fits them: RuntimeError, ValueError, zlib.error, ...
            raise UserError(f"{self.where(number)}: unreadable record ({_line(error)}).") from error
        if absent:
            raise UserError(f"{self.where(number)}: unreadable record: the fields {absent} are missing.")
        schema.check(fields, self.where(number))
        found, known = dataclasses.asdict(describe(fields)), dataclasses.asdict(self.infos[number])
        differing = [f"{name} {known[name]!r}, but holds {value!r}" for name, value in found.items() if value != known[name]]
        if differing:
            raise UserError(f"{self.where(number)}: the record should have {'; '.join(differing)}.")
        return fields

    def skip(self, number: int, error: Exception) -> None:
        """Notes that record `number` cannot be used, as `error` says, and prints it the first time.

        Raises UserError when these are more than `MAX_BAD` of the records: then the data, not a record, needs attention.
        """
        clip_id, where = self.infos[number].clip_id, self.where(number)
        with self._skipping:
            if clip_id not in self.skipped:
                reason = _line(error, without=f"{where}: ") if isinstance(error, UserError) else f"{type(error).__name__}: {_line(error)}"
                self.skipped[clip_id] = reason
                print(f"warning: {where}: {reason} Skipped; {len(self.skipped)} of {len(self)} records so far.", flush=True)
            found = dict(self.skipped)
        if len(found) > MAX_BAD * len(self):
            some = "; ".join(f"{name}: {reason}" for name, reason in list(found.items())[:3])
            raise UserError(
                f"{self.where()}: {len(found)} of {len(self)} records cannot be used, more than {MAX_BAD:.0%}: {some} "
                "Copy the files again, or write the records again without these clips."
            ) from error


def _is_absent(value: Any) -> bool:
    """Whether a field of a parsed record is not there; arrays are parsed into their bytes and their shape."""
    return value is None or (isinstance(value, dict) and any(part is None for part in value.values()))


def _decode(name: str, value: Any) -> Any:
    """A field's value from its parsed form; images and flow stay encoded."""
    if name in schema.IMAGES or name == "flow":
        return list(value)
    value = schema.features()[name].decode_example_np(value)
    return value.decode() if isinstance(value, bytes) and name != "audio_ogg" else value


def open_records(directory: str | os.PathLike, split: str, keep: bool = False) -> Records:
    """Opens a split (several: "train+motion"); see Records. Raises UserError if it is absent, damaged or of another schema."""
    return Records(directory, split, keep)


def splits_of(directory: str | os.PathLike) -> list[str]:
    """The names of the splits in a directory of records."""
    return sorted(_load_info(Path(directory)).info.splits)


def drop_split(directory: str | os.PathLike, split: str) -> None:
    """Removes a split from a directory of records: first from its metadata, then its files."""
    directory = Path(directory)
    _write_info(directory, {name: info for name, info in _load_info(directory).info.splits.items() if name != split})
    for path in (directory / f"index-{split}.json", *directory.glob(f"{schema.SCHEMA_NAME}-{split}.array_record-*")):
        path.unlink(missing_ok=True)
