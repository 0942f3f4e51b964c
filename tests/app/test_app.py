"""The page as it is served: to a browser, to programs that send what no page would, and from the command line."""

import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from champ_jax.app.jobs import Limits
from champ_jax.app.serve import is_loopback, serving
from champ_jax.cli.main import main
from champ_jax.errors import UserError
from tests.app.fake import ENDLESS, FakePipe, save_files, wait_until
from tests.contract.source import REPOSITORY
from tests.infer.tiny import TINY_M2P, save_tiny, tiny_config

pytest.importorskip("gradio", reason="the page is made with Gradio")
httpx = pytest.importorskip("httpx")
pytest_plugins = ("tests.browser",)
API = "/gradio_api"


@pytest.fixture(scope="module")
def fake():
    return FakePipe()


@pytest.fixture
def pipe(fake):
    """The pipeline of the server; whatever a test leaves dancing ends with it."""
    yield fake
    fake.windows = 3
    wait_until(lambda: not fake.dancing)


@pytest.fixture(scope="module")
def url(fake):
    with serving(fake, "fake", Limits(queue=1, upload_mb=0.2)) as address:
        yield address


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    return save_files(tmp_path_factory.mktemp("files"))


@pytest.fixture
def page(browser, url):
    """The page, opened; at the end nothing was asked of others, and nothing complained."""
    context = browser.new_context()
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: said.append(str(error)))
    page.on("request", lambda request: said.append(request.url) if not request.url.startswith((url, "data:", "blob:")) else None)
    page.set_default_timeout(60_000)
    # The page is there before it listens: a file that a program gives it too early is lost.
    with page.expect_response("**/heartbeat/**"):
        page.goto(url)
    page.locator("input[type=file]").nth(2).wait_for(state="attached")
    yield page
    context.close()
    assert said == []


def upload(page, photo, song):
    give(page, "photo", photo)
    give(page, "song", song)


def give(page, name, path):
    """Puts a file into a field and waits until it is shown: then there is a button to take it away again."""
    away = page.locator(f"#{name}").get_by_role("button", name={"photo": "Remove Image", "song": "Clear"}[name])
    away.wait_for(state="detached")
    page.locator(f"#{name} input[type=file]").set_input_files(path)
    away.wait_for()


def press(page, name):
    page.get_by_role("button", name=name, exact=True).click()


def test_a_dance_its_cancelled_next_and_a_broken_photo(page, pipe, files, tmp_path):
    upload(page, *files)
    pipe.windows = 100
    press(page, "Dance")
    page.get_by_text(re.compile(r"dancing, \d+ s left")).first.wait_for()
    page.get_by_text(re.compile(r"\d+/100 windows")).first.wait_for()
    page.get_by_text("Seed 0, 2 steps, guidance scale 2: 8.0 s of video (96 frames)").wait_for()
    durations = "[...document.querySelectorAll('#video video, #skeleton video')].map((video) => video.duration)"
    page.wait_for_function(f"{durations}.filter((seconds) => seconds > 7.9).length === 2")
    with page.expect_download() as download:
        page.get_by_text("Save motion").click()
    assert download.value.suggested_filename == "dance.motion.npz"

    pipe.windows = ENDLESS
    press(page, "Dance")
    page.get_by_text(re.compile(r"\d/\S+ windows")).first.wait_for()
    press(page, "Cancel")
    page.get_by_text("Cancelled.").wait_for()
    wait_until(lambda: not pipe.dancing)
    pipe.windows = 3
    press(page, "Dance")
    page.get_by_text("8.0 s of video").wait_for()

    (tmp_path / "broken.png").write_bytes(b"not a picture")
    page.locator("#photo button[aria-label='Remove Image']").click()
    give(page, "photo", tmp_path / "broken.png")
    press(page, "Dance")
    page.get_by_text("broken.png: cannot read the image").wait_for()


def test_the_example(page, pipe):
    pipe.windows = 3
    press(page, "Fill in the demo's photo and song")
    page.locator("#pose").get_by_text(".json", exact=True).wait_for()
    press(page, "Dance")
    page.get_by_text("The song goes on to 17.0 s").wait_for()
    page.get_by_text("No pose was given").wait_for(state="detached")


def test_a_closed_page_cancels(page, pipe, files):
    upload(page, *files)
    pipe.windows = ENDLESS
    press(page, "Dance")
    wait_until(lambda: pipe.dancing)
    page.close()
    wait_until(lambda: not pipe.dancing)


def sent(url, path):
    """Where a file that was uploaded lies, as the page would give it back."""
    with open(path, "rb") as file:
        answer = httpx.post(f"{url}{API}/upload", files={"files": file})
    assert answer.status_code == 200, answer.text
    return {"path": answer.json()[0], "orig_name": Path(path).name, "meta": {"_type": "gradio.FileData"}}


def join(url, session, photo, song):
    """The answer to a press of Dance, as a program would send it."""
    functions = httpx.get(f"{url}/config").json()["dependencies"]
    dance = next(function["id"] for function in functions if len(function["inputs"]) == 7)
    body = {"data": [photo, song, None, 1, 0, 1, 1], "fn_index": dance, "session_hash": session}
    return httpx.post(f"{url}{API}/queue/join", json=body)


def ending(url, session):
    """What the queue says to a session, to the end."""
    return httpx.get(f"{url}{API}/queue/data", params={"session_hash": session}, timeout=30).text


def test_a_full_queue_refuses(url, pipe, files):
    photo, song = (sent(url, path) for path in files)
    pipe.windows = ENDLESS
    assert join(url, "one", photo, song).status_code == 200
    wait_until(lambda: pipe.dancing)
    assert join(url, "two", photo, song).status_code == 200
    refused = join(url, "three", photo, song)
    assert refused.status_code == 503 and "Queue is full" in refused.text
    pipe.windows = 3
    for heard in (ending(url, "two"), ending(url, "one")):
        assert "process_completed" in heard


def test_only_files_of_its_own_are_served_and_nothing_is_fetched(url, pipe, files):
    photo, song = (sent(url, path) for path in files)
    assert httpx.get(f"{url}{API}/file={photo['path']}").status_code == 200
    for path in ("/etc/passwd", REPOSITORY / "setup.cfg", "setup.cfg", files[0]):
        assert httpx.get(f"{url}{API}/file={path}").status_code == 403, path
    for path in ("file=http://127.0.0.1:9/a.png", "file/https://127.0.0.1:9/a.png", "proxy=http://127.0.0.1:9/a.png"):
        assert httpx.get(f"{url}{API}/{path}").status_code == 404
    assert "default-src 'self'" in httpx.get(url).headers["content-security-policy"]
    asked = len(pipe.asked)
    for number, path in enumerate((files[0], "/etc/passwd", f"{url}{API}/file={photo['path']}")):
        join(url, f"foreign {number}", photo | {"path": path}, song)
        heard = ending(url, f"foreign {number}")
        assert '"success":false' in heard and "Traceback" not in heard
    assert len(pipe.asked) == asked


def test_large_files_are_refused(url, tmp_path):
    (tmp_path / "large.wav").write_bytes(bytes(300_000))
    with open(tmp_path / "large.wav", "rb") as file:
        answer = httpx.post(f"{url}{API}/upload", files={"files": file})
    assert answer.status_code == 413


def test_nothing_is_kept_for_long_or_left_behind(files, tmp_path, monkeypatch):
    monkeypatch.setattr("tempfile.tempdir", str(tmp_path))
    monkeypatch.setattr("champ_jax.app.page.KEEP_SECONDS", 2)
    monkeypatch.setattr("champ_jax.app.page.SWEEP_SECONDS", 1)
    with serving(FakePipe(), "fake", Limits()) as url:
        photo, song = (sent(url, path) for path in files)
        join(url, "me", photo, song)
        assert '"success":true' in ending(url, "me")
        uploads = Path(photo["path"]).parents[1]
        assert uploads.is_relative_to(tmp_path)
        wait_until(lambda: not [path for path in uploads.rglob("*") if path.is_file()])
        join(url, "late", photo, song)
        assert "photo.png is not here any more" in ending(url, "late")
    assert list(tmp_path.iterdir()) == []


def test_who_can_reach_it():
    assert all(map(is_loopback, ("127.0.0.1", "localhost", "::1"))) and not any(map(is_loopback, ("0.0.0.0", "::", "10.0.0.1")))


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (["--port", "99999"], "--port is 99999"),
        (["--host", "192.0.2.1"], "cannot serve at 192.0.2.1:7860"),
        (["--max-seconds", "0"], "--max-seconds is 0"),
        (["--queue", "0"], "--queue is 0"),
        (["--max-upload-mb", "nan"], "--max-upload-mb is nan"),
        (["--port", "0"], "nowhere"),
        (["--port", "0", "--lora", "x=strong"], "expected a number behind '='"),
    ],
)
def test_wrong_arguments_are_one_line(capsys, more, message):
    assert main(["app", "--checkpoint", "nowhere", *more]) == 2
    error = capsys.readouterr().err
    assert error.startswith("error: ") and message in error and error.count("\n") == 1


def test_a_port_that_is_taken(capsys):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        assert main(["app", "--checkpoint", "nowhere", "--port", str(port)]) == 2
        assert f"cannot serve at 127.0.0.1:{port}: Address already in use; give another --port" in capsys.readouterr().err
        with pytest.raises(UserError, match="already in use"), serving(FakePipe(), "fake", Limits(), port=port):
            pass


def test_the_command_serves_until_it_is_interrupted(tmp_path):
    save_tiny(tmp_path / "model", tiny_config(TINY_M2P))
    # Where tests run in the background, a child would not hear Ctrl-C unless it asked to.
    code = "import signal, sys\nsignal.signal(signal.SIGINT, signal.default_int_handler)\n"
    code += "from champ_jax.cli.main import main\nsys.exit(main())"
    command = [sys.executable, "-c", code, "app", "--checkpoint", str(tmp_path / "model"), "--port", "0", "--host", "0.0.0.0"]
    with subprocess.Popen(command, cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        line = process.stdout.readline()
        assert re.fullmatch(r"http://0\.0\.0\.0:\d+: ready\. Ctrl-C ends it\.\n", line)
        assert httpx.get(line.split(": ")[0].replace("0.0.0.0", "127.0.0.1")).status_code == 200
        process.send_signal(signal.SIGINT)
        _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert error.startswith("note: everybody who can reach 0.0.0.0") and error.endswith("interrupted\n") and "Traceback" not in error
