"""The pages of the repository as tests see them: their blocks of code, the commands in these, links and names of files."""

import re
import shlex
from dataclasses import dataclass
from functools import cache

from tests.contract.source import REPOSITORY

FENCE = re.compile(r"^```(\w*)\n(.*?)^```$", re.MULTILINE | re.DOTALL)
INLINE = re.compile(r"`([^`\n]+)`")
ASSIGNMENT = re.compile(r"[A-Za-z_]\w*=")


@dataclass(frozen=True)
class Block:
    """A fenced block: where it stands, its language, and its text."""

    page: str
    line: int
    language: str
    text: str

    @property
    def name(self) -> str:
        """Page and first line that says something: what the tests' tables call it."""
        lines = [line.strip() for line in self.text.splitlines()]
        return f"{self.page}: {next(line for line in lines if line and not line.startswith('#'))}"


def pages() -> list[str]:
    """README, the other pages beside it, and everything in docs/."""
    return sorted(path.relative_to(REPOSITORY).as_posix() for root in ("*.md", "docs/**/*.md") for path in REPOSITORY.glob(root))


@cache
def text_of(page: str) -> str:
    """The page as it is written."""
    return (REPOSITORY / page).read_text()


def blocks(*languages: str) -> list[Block]:
    """All blocks in these languages, page by page."""
    found = []
    for page in pages():
        for match in FENCE.finditer(text_of(page)):
            if match[1] in languages:
                found.append(Block(page, text_of(page)[: match.start()].count("\n") + 2, match[1], match[2]))
    return found


def prose(page: str) -> str:
    """The page without its blocks."""
    return FENCE.sub("", text_of(page))


def commands(text: str) -> list[list[str]]:
    """The words of every command of a shell text: comments, `VAR=value` before commands and what joins them are gone.

    Variables that the text itself sets are filled in; `...`, which stands for what a reader knows, is left out.
    """
    set_here, found = {}, []
    for line in text.replace("\\\n", " ").splitlines():
        for name, value in set_here.items():
            line = line.replace(f"${name}", value)
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&"):
                while words and ASSIGNMENT.match(words[0]):
                    name, _, value = words.pop(0).partition("=")
                    set_here[name] = value
                if words:
                    found.append(words)
                words = []
            elif word != "...":
                words.append(word)
    return found
