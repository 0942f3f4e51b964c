"""Files that are broken or mean harm: refused with a reason, in bounded time, without a look at anything else."""

import contextlib
import io
import os
import struct
import time
import zipfile
import zlib
from fractions import Fraction
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from champ_jax.data import media
from champ_jax.data.media import probe, read_audio, read_frames, read_image
from champ_jax.errors import UserError
from tests.data.films import clicks, counting, film, number_of


@pytest.fixture(scope="module")
def good(tmp_path_factory) -> bytes:
    folder = tmp_path_factory.mktemp("good")
    return film(folder / "a.mp4", counting(60), 25, clicks([0.5], 2.0)).read_bytes()


@pytest.fixture(scope="module")
def good_mkv(tmp_path_factory) -> bytes:
    return film(tmp_path_factory.mktemp("good") / "a.mkv", counting(60), 25, codec="libx264").read_bytes()


def patched(data: bytes, mark: bytes, offset: int, value: bytes) -> bytes:
    place = data.index(mark) + len(mark) + offset
    return data[:place] + value + data[place + len(value) :]


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("../../out.mp4", b"x")
    return buffer.getvalue()


PLAYLISTS = {
    "m3u8": "#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\n{secret}\n#EXT-X-ENDLIST\n",
    "m3u8 of an address": "#EXTM3U\n#EXTINF:1,\nhttp://127.0.0.1:{port}/a.ts\n#EXT-X-ENDLIST\n",
    "ffconcat": "ffconcat version 1.0\nfile '{secret}'\n",
    "ffconcat of a protocol": "ffconcat version 1.0\nfile 'concat:{secret}|{secret}'\n",
    "sdp": "v=0\no=- 0 0 IN IP4 127.0.0.1\ns=x\nc=IN IP4 127.0.0.1\nt=0 0\nm=video {port} RTP/AVP 96\n",
    "asx": '<asx version="3.0"><entry><ref href="{secret}"/></entry></asx>',
    "smil": '<smil><body><video src="{secret}"/></body></smil>',
    "mpd": '<?xml version="1.0"?><MPD xmlns="urn:mpeg:dash:schema:mpd:2011"><Period><BaseURL>{secret}</BaseURL></Period></MPD>',
    "rtsp redirect": "rtsptext rtsp://127.0.0.1:{port}/a",
    "subtitle": "1\n00:00:00,000 --> 00:00:01,000\n{secret}\n",
    "imf": '<?xml version="1.0"?><AssetMap><Path>{secret}</Path></AssetMap>',
    "edl": "# mpv EDL v0\n{secret},0,1\n",
}

BROKEN = {
    "empty": lambda mp4, mkv: b"",
    "one byte": lambda mp4, mkv: b"\0",
    "zeros": lambda mp4, mkv: bytes(100_000),
    "noise": lambda mp4, mkv: np.random.default_rng(0).bytes(100_000),
    "text": lambda mp4, mkv: b"not a video\n" * 100,
    "html": lambda mp4, mkv: b"<!doctype html><title>404</title>",
    "json": lambda mp4, mkv: b'{"error": "expired"}',
    "zip": lambda mp4, mkv: archive(),
    "gzip": lambda mp4, mkv: b"\x1f\x8b\x08" + zlib.compress(bytes(1000)),
    "elf": lambda mp4, mkv: b"\x7fELF" + bytes(1000),
    "mp4, ftyp alone": lambda mp4, mkv: mp4[:32],
    "mp4, without moov": lambda mp4, mkv: mp4[: mp4.index(b"moov") - 4],
    "mp4, half of moov": lambda mp4, mkv: mp4[: mp4.index(b"moov") + 200],
    "mp4, tracks of nothing": lambda mp4, mkv: mp4.replace(b"trak", b"free"),
    "mp4, no samples": lambda mp4, mkv: patched(patched(mp4, b"stsz", 8, bytes(4)), b"stts", 4, bytes(4)),
    "mp4, unknown codec": lambda mp4, mkv: mp4.replace(b"mp4v", b"zzzz").replace(b"esds", b"free"),
    "mp4, data of zeros": lambda mp4, mkv: mp4[: mp4.index(b"mdat") + 4] + bytes(4000) + mp4[mp4.index(b"moov") - 4 :],
    "mkv, header alone": lambda mp4, mkv: mkv[:40],
    "mkv, no cluster": lambda mp4, mkv: mkv[: mkv.index(b"\x1f\x43\xb6\x75")],
    "avi, header alone": lambda mp4, mkv: b"RIFF\xff\xff\xff\xffAVI LIST" + bytes(64),
    "gif, header alone": lambda mp4, mkv: b"GIF89a\xff\xff\xff\xff\x00\x00\x00",
    "flv, header alone": lambda mp4, mkv: b"FLV\x01\x05\x00\x00\x00\x09" + bytes(4),
    "mpegts, rubbish": lambda mp4, mkv: (b"\x47" + bytes(187)) * 3000,
    "mpeg, pack alone": lambda mp4, mkv: b"\x00\x00\x01\xba" + bytes(2000),
    "wav, header alone": lambda mp4, mkv: b"RIFF\x24\x00\x00\x00WAVEfmt " + bytes(8),
    "ogg, page alone": lambda mp4, mkv: b"OggS" + bytes(100),
    "png": lambda mp4, mkv: b"\x89PNG\r\n\x1a\n" + bytes(100),
    "svg": lambda mp4, mkv: b'<svg xmlns="http://www.w3.org/2000/svg"><image href="file:///etc/passwd"/></svg>',
}  # fmt: skip


def all_of(path: Path) -> int:
    """Everything that `prepare` does with a video; how many frames it has."""
    about = probe(path)
    count = sum(1 for _ in read_frames(path, Fraction(25), longest=64))
    if about.has_audio:
        read_audio(path, 24_000, 0.0, 2.0)
    return count


@pytest.mark.parametrize("name", BROKEN)
def test_broken_files_are_refused(tmp_path, good, good_mkv, name):
    path = tmp_path / "video.mp4"
    path.write_bytes(BROKEN[name](good, good_mkv))
    with pytest.raises(UserError, match="video.mp4"):
        all_of(path)


@pytest.mark.parametrize("kind", PLAYLISTS)
@pytest.mark.parametrize("suffix", [".mp4", ".m3u8"])
def test_playlists_open_nothing(tmp_path, good, kind, suffix):
    """Neither a file elsewhere, though it is a video, nor an address: nobody knocks at the port."""
    import socket

    secret = tmp_path / "secret.mp4"
    secret.write_bytes(good)
    os.utime(secret, (1, 1))
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.05)
        path = tmp_path / f"video{suffix}"
        path.write_text(PLAYLISTS[kind].format(secret=secret, port=server.getsockname()[1]))
        with pytest.raises(UserError, match="no video or sound that is known"):
            all_of(path)
        with pytest.raises(TimeoutError):
            server.accept()
    assert secret.stat().st_atime == 1


def test_a_film_whose_data_lie_in_another_file(tmp_path, good):
    """mov can name another file for its samples: the entry of the data reference is not followed."""
    data = good.replace(b"url \x00\x00\x00\x01", b"url \x00\x00\x00\x00")
    assert data != good
    path = tmp_path / "video.mp4"
    path.write_bytes(data)
    with contextlib.suppress(UserError):
        all_of(path)


LIES = {
    "moov of 4 GB": lambda mp4, mkv: patched(mp4, b"moov", -8, b"\xff\xff\xff\xff"),
    "65535 pixels wide": lambda mp4, mkv: patched(mp4, b"mp4v", 24, b"\xff\xff\xff\xff"),
    "size without end": lambda mp4, mkv: mkv[:4] + b"\x01" + b"\xff" * 7 + mkv[5:],
}


@pytest.mark.parametrize("name", LIES)
def test_what_a_header_says_falsely_harms_nobody(tmp_path, good, good_mkv, name):
    """The decoder may see through it: then the frames are those of the film."""
    path = tmp_path / "video.mp4"
    path.write_bytes(LIES[name](good, good_mkv))
    with contextlib.suppress(UserError):
        assert [number_of(frame) for frame in read_frames(path, Fraction(25))] == list(range(60))


@pytest.mark.parametrize("share", [0.3, 0.6, 0.9])
def test_a_film_cut_off_gives_what_is_there_or_is_refused(tmp_path, good_mkv, share):
    path = tmp_path / "video.mkv"
    path.write_bytes(good_mkv[: int(share * len(good_mkv))])
    try:
        frames = list(read_frames(path, Fraction(25)))
    except UserError as error:
        assert "video.mkv" in str(error)
    else:
        assert 0 < len(frames) < 60


def test_damage_amid_a_film(tmp_path, good_mkv):
    data = bytearray(good_mkv)
    for place in range(len(data) // 3, len(data) - 100, 97):
        data[place] ^= 0xFF
    path = tmp_path / "video.mkv"
    path.write_bytes(data)
    try:
        all_of(path)
    except UserError as error:
        assert "video.mkv" in str(error)


def test_what_is_no_file(tmp_path, good):
    os.mkfifo(tmp_path / "pipe.mp4")
    (tmp_path / "folder.mp4").mkdir()
    (tmp_path / "loop.mp4").symlink_to("loop.mp4")
    (tmp_path / "device.mp4").symlink_to("/dev/zero")
    for name in ("pipe.mp4", "folder.mp4", "loop.mp4", "device.mp4", "absent.mp4", "a\0b.mp4"):
        with pytest.raises(UserError):
            all_of(tmp_path / name)
        with pytest.raises(UserError):
            read_image(tmp_path / name)


@pytest.mark.parametrize(
    "name", ["-i.mp4", "a\nb.mp4", "é 漢 .mp4", "file:a.mp4", "%d.mp4", "http:__a.mp4", "concat:a|b.mp4", "a" * 200 + ".mp4"]
)
def test_names_mean_nothing(tmp_path, good, name):
    path = tmp_path / name
    path.write_bytes(good)
    assert all_of(path) == 60


def test_names_that_are_no_text_are_told_as_text(tmp_path, good):
    """Bytes that are no letters, escapes that move a cursor, ends of lines: read, and escaped where they are named."""
    for name, told in ((b"\xff\xfe.mp4", r"\udcff\udcfe.mp4"), (b"a\x1b[31m.mp4", r"a\x1b[31m.mp4"), (b"a\nb.mp4", r"a\nb.mp4")):
        path = Path(os.fsdecode(os.fsencode(tmp_path) + b"/" + name))
        path.write_bytes(good)
        all_of(path)
        path.write_bytes(b"rubbish")
        with pytest.raises(UserError) as caught:
            all_of(path)
        assert told in str(caught.value) and str(caught.value).isprintable()


def test_a_decoder_that_hangs_or_dies_ends_in_an_error(tmp_path, good, monkeypatch):
    path = tmp_path / "video.mp4"
    path.write_bytes(good)
    program = tmp_path / "decode.py"
    monkeypatch.setattr(media, "DECODER", program)
    monkeypatch.setattr(media, "IDLE_SECONDS", 0.5)
    for code, message in (
        ("import time; time.sleep(60)", "hangs it"),
        ("import os; os.kill(os.getpid(), 9)", "died on it"),
        ('print(\'{"width": 8, "height": 8}\', flush=True); import time; time.sleep(60)', "hangs it"),
        ("print('{\"width\": 8, \"height\": 8}', flush=True); print('x' * 50)", "died on it"),
        # Just after a whole frame, where nothing but its exit status tells it from the end of the film.
        ("import os; print('{\"width\": 2, \"height\": 2}'); print('x' * 23, flush=True); os.kill(os.getpid(), 11)", "died on it"),
        ('import sys; print(\'{"width": 2, "height": 2}\'); print(\'x\' * 11); sys.exit(\'{"error": "just so"}\')', "just so"),
        ("import sys; sys.stderr.write('x' * 10**7); sys.stderr.flush()", "hangs it"),
        ("print('no JSON')", "said nothing"),
    ):
        program.write_text(code)
        began = time.monotonic()
        with pytest.raises(UserError, match=message):
            list(read_frames(path, Fraction(25)))
        assert time.monotonic() - began < 10


def test_time_and_memory_are_limited(tmp_path, monkeypatch):
    path = film(tmp_path / "video.mp4", counting(60, (720, 1280)), 25)
    monkeypatch.setattr(media, "MEMORY_BYTES", 150 << 20)
    with pytest.raises(UserError, match="video.mp4"):
        list(read_frames(path, Fraction(25)))


def test_a_film_that_burns_time_is_stopped(tmp_path, good, monkeypatch):
    path, program = tmp_path / "video.mp4", tmp_path / "burn.py"
    path.write_bytes(good)
    program.write_text(
        f"import sys; sys.path.append({str(media.DECODER.parent)!r})\n"
        'import decode; decode.limit(1, 4 << 30); print(\'{"width": 2, "height": 2}\', flush=True)\nwhile True: pass'
    )
    monkeypatch.setattr(media, "DECODER", program)
    with pytest.raises(UserError, match="no more time"):
        list(read_frames(path, Fraction(25)))


def test_the_decoder_can_open_nothing(tmp_path):
    """Neither a file nor a socket, once it is shut; what it has open it may go on reading."""
    import subprocess
    import sys

    (tmp_path / "a").write_text("here")
    code = f"""
import sys; sys.path.append({str(media.DECODER.parent)!r})
import decode, socket
file = open({str(tmp_path / "a")!r})
decode.shut()
print(file.read())
for attempt in (lambda: open({str(tmp_path / "a")!r}), socket.socket):
    try:
        attempt()
    except OSError as error:
        print(error.errno)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout.split() == ["here", "24", "24"], done.stderr  # 24: too many open files


def test_a_download_that_was_cut_off_says_so(tmp_path):
    """The header in front promises 3.6 seconds: neither is the half taken for all of it, nor is a piece that is whole refused."""
    path = film(tmp_path / "a.mp4", counting(90), 25, codec="libx264", options={"g": "12"}, container_options={"movflags": "faststart"})
    path.write_bytes(path.read_bytes()[: int(path.stat().st_size * 0.6)])
    assert len(list(read_frames(path, Fraction(25), 0.0, 12))) == 12
    with pytest.raises(UserError, match="a.mp4.* of 3.6 s: it is cut off|a.mp4.*damaged"):
        list(read_frames(path, Fraction(25)))


def test_a_stream_that_changes_its_size(tmp_path):
    parts = [film(tmp_path / f"{width}.ts", counting(20, (48, width)), 25, codec="libx264").read_bytes() for width in (64, 96)]
    (tmp_path / "video.ts").write_bytes(parts[0] + parts[1])
    with pytest.raises(UserError, match="video.ts.*change from 64x48 to 96x48"):
        list(read_frames(tmp_path / "video.ts", Fraction(25)))


def test_a_film_of_years(tmp_path):
    """Two pictures with a year between them would be repeated a billion times."""
    path = film(tmp_path / "video.mkv", counting(3), 25, times=np.array([0.0, 0.04, 3e7]), codec="libx264")
    with pytest.raises(UserError, match="hours"):
        probe(path)
    with pytest.raises(UserError, match="hours"):
        list(read_frames(path, Fraction(25)))


def test_titles_in_other_alphabets_are_no_damage(tmp_path, good):
    path = tmp_path / "video.mp4"
    path.write_bytes(good.replace(b"Lavf", b"\xff\xfe\xe9\xff"))
    assert all_of(path) == 60


def test_random_damage(tmp_path, good, good_mkv):
    """Whatever the damage: frames or a reason, soon."""
    rng = np.random.default_rng(0)
    for number in range(16):
        data = bytearray((good, good_mkv)[number % 2])
        for place in rng.integers(0, len(data) if number % 3 else 600, 8):
            data[place] = rng.integers(256)
        path = tmp_path / "video.mp4"
        path.write_bytes(data)
        began = time.monotonic()
        try:
            all_of(path)
        except UserError as error:
            assert "video.mp4" in str(error)
        assert time.monotonic() - began < 10


MEMORY = """
import pathlib, sys
from fractions import Fraction
from champ_jax.data.media import read_audio, read_frames

def peak(process):
    lines = pathlib.Path(f"/proc/{process}/status").read_text().splitlines()
    return next((int(line.split()[1]) for line in lines if line.startswith("VmHWM")), 0)  # one that has ended has none

decoder = 0
for count, _ in enumerate(read_frames(sys.argv[1], Fraction(10))):
    if count % 50 == 49:
        decoder = max([decoder, *map(peak, pathlib.Path("/proc/thread-self/children").read_text().split())])
read_audio(sys.argv[1], 24000, count / 10 - 2, 1.0)
print(count + 1, peak("self"), decoder)
"""


def test_memory_does_not_grow_with_length(tmp_path):
    """Neither of who reads nor of the decoder, in kB: a film of 300 s has the peak of one of 30."""
    import subprocess
    import sys

    peaks = []
    for name, count in (("short", 300), ("long", 3000)):
        frames = counting(50, (60, 80))
        path = film(tmp_path / f"{name}.mp4", frames[np.arange(count) % 50], 10, clicks([0.5], count / 10), options={"bf": "2"})
        done = subprocess.run([sys.executable, "-c", MEMORY, path], capture_output=True, text=True, check=True)
        read, *kilobytes = map(int, done.stdout.split())
        assert read == count
        peaks.append(kilobytes)
    (reader, decoder), (reader_long, decoder_long) = peaks
    assert 0 < reader_long < 1.05 * reader and 0 < decoder_long < 1.05 * decoder, peaks


def test_a_reader_that_stops_leaves_no_process(tmp_path, good):
    path = tmp_path / "video.mp4"
    path.write_bytes(good)
    frames = read_frames(path, Fraction(25))
    next(frames)
    frames.close()
    children = [Path(f"/proc/{pid}/cmdline") for pid in os.listdir("/proc") if pid.isdecimal()]
    assert not any(str(path) in file.read_text() for file in children if file.exists())


def bomb() -> bytes:
    """A PNG that says it has 50,000 x 50,000 pixels."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", 50_000, 50_000, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(10_000))) + chunk(b"IEND", b"")


def png(size=(8, 6)) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", size).save(buffer, "PNG")
    return buffer.getvalue()


def animation(kind: str) -> bytes:
    buffer = io.BytesIO()
    frames = [Image.new("RGB", (8, 6), colour) for colour in ("red", "blue")]
    frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
    return buffer.getvalue()


IMAGES = {
    "animated png": animation("PNG"),
    "animated webp": animation("WEBP"),
    "gif": animation("GIF"),
    "empty": b"",
    "bomb": bomb(),
    "cut off": png((64, 64))[:-30],
    "header alone": png()[:20],
    "svg": b'<svg xmlns="http://www.w3.org/2000/svg"/>',
    "postscript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(/etc/passwd) (r) file\n",
    "tiff": b"II*\0" + bytes(100),
    "text": b"no image",
    "damaged": png((64, 64))[:60] + b"\xff" * 40,
}


@pytest.mark.parametrize("name", IMAGES)
def test_images_are_refused(tmp_path, name):
    path = tmp_path / "frame.png"
    path.write_bytes(IMAGES[name])
    began = time.monotonic()
    with pytest.raises(UserError, match="frame.png"):
        read_image(path)
    assert time.monotonic() - began < 2
