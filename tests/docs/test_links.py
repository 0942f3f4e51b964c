"""Links lead somewhere, and files and tests that a page names are there."""

import re

import pytest
import yaml

from champ_jax.config import REPOSITORY
from tests.docs.pages import FENCE, INLINE, pages, prose, text_of

LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
FOLDERS = ("champ_jax", "configs", "launch", "tests", "benchmarks", "docs", "assets", ".ci")
PACKAGES = [path.name for path in (REPOSITORY / "champ_jax").iterdir() if path.is_dir()]
TEST_FILES = {path.relative_to(REPOSITORY / "tests").as_posix(): path for path in (REPOSITORY / "tests").rglob("test_*.py")}


def slugs(page: str) -> set[str]:
    """Anchors of a page's headings, where GitHub and the site agree on them."""
    words = [re.sub(r"[`*]|\[|\]\([^)]*\)", "", heading) for heading in HEADING.findall(FENCE.sub("", text_of(page)))]
    plain = [re.sub(r"[^\w\s-]", "", word.strip().lower()) for word in words]
    return {word.replace(" ", "-") for word in plain if "  " not in word}


@pytest.mark.parametrize("page", pages())
def test_links(page):
    wrong = []
    for target in LINK.findall(prose(page)):
        if re.match(r"\w+:", target):
            continue
        path, _, anchor = target.partition("#")
        file = ((REPOSITORY / page).parent / path).resolve() if path else REPOSITORY / page
        if not file.exists():
            wrong.append(f"{target}: there is no such file")
        elif anchor.startswith("champ_jax."):
            if not python_name(anchor):
                wrong.append(f"{target}: there is no such name")
        elif anchor and anchor not in slugs(file.relative_to(REPOSITORY).as_posix()):
            wrong.append(f"{target}: there is no such heading")
    assert not wrong, wrong


def python_name(dotted: str) -> bool:
    """Whether a module of the package defines this name, by its source."""
    module, _, name = dotted.rpartition(".")
    file = REPOSITORY / (module.replace(".", "/") + ".py")
    return file.is_file() and re.search(rf"^(?:def|class) {name}\b", file.read_text(), re.MULTILINE) is not None


@pytest.mark.parametrize("page", [page for page in pages() if page != "CHANGELOG.md"])
def test_files_that_are_named(page):
    wrong = [span for span in INLINE.findall(text_of(page)) if (path := repository_path(span)) and not (REPOSITORY / path).exists()]
    assert not wrong, f"not in the repository: {wrong}"


def repository_path(span: str) -> str | None:
    """What of the repository a span of code names, or None; names in capitals stand for something else."""
    path = span.split("::")[0].rstrip("/")
    if not re.fullmatch(r"[\w.-]+(/[\w.-]+)*", path) or re.search(r"\b[A-Z]{3,}\b", path.replace("README", "").replace("LICENSE", "")):
        return None
    first, slash, _ = path.partition("/")
    if first in FOLDERS:
        return path
    return f"champ_jax/{path}" if slash and first in PACKAGES and path.endswith(".py") else None


@pytest.mark.parametrize("page", pages())
def test_tests_that_are_named(page):
    wrong = []
    for span in INLINE.findall(text_of(page)):
        match = re.fullmatch(r"(?:tests/)?((?:\w+/)?test_\w+?)(?:\.py)?(?:::(test_\w+)(\.\.)?)?", span)
        if match:
            files = [path for name, path in TEST_FILES.items() if f"/{name}".endswith(f"/{match[1]}.py")]
            end = "" if match[3] else r"\b"
            pattern = rf"^def {match[2]}{end}" if match[2] else ""
            if not any(re.search(pattern, path.read_text(), re.MULTILINE) for path in files):
                wrong.append(span)
    assert not wrong, f"no such tests: {wrong}"


def test_the_site_has_every_page():
    def files(node):
        return (
            [node]
            if isinstance(node, str)
            else [file for item in (node if isinstance(node, list) else node.values()) for file in files(item)]
        )

    listed = files(yaml.safe_load((REPOSITORY / "mkdocs.yml").read_text())["nav"])
    assert sorted(listed) == sorted(page.removeprefix("docs/") for page in pages() if page.startswith("docs/"))


def test_every_package_has_its_page_of_reference():
    written = {path.stem for path in (REPOSITORY / "docs" / "reference").glob("*.md")} - {"commands", "champ_jax"}
    assert written == {name for name in PACKAGES if not name.startswith("_")} - {"cli"}
