"""The exceptions that a user can act on, how they name what may have been meant, and what a process ends with."""

import difflib
from collections.abc import Iterable

FAILED, WRONG_INPUT, RESUMABLE, UNUSABLE, INTERRUPTED, PREEMPTED = 1, 2, 75, 78, 130, 143
"""Exit codes: a check failed; wrong input; interrupted, but the same command goes on; a run's folder cannot be used; interrupted; saved,
because the machine goes away."""


class UserError(Exception):
    """Something the user gave is wrong, and the message says what to do about it.

    A message names what failed and where, what was expected, and the next thing to try. The command line prints it
    without a traceback and exits with `exit_code`.
    """

    exit_code = WRONG_INPUT


class WorkdirError(UserError):
    """The folder of a run cannot be used: read-only, full, held by another run, all checkpoints damaged. Trying again
    cannot help."""

    exit_code = UNUSABLE


def did_you_mean(word: str, known: Iterable[str]) -> str:
    """', did you mean "x"?' for the known word nearest to `word`, or '' when none is near."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=0.5)
    return f", did you mean {near[0]!r}?" if near else ""
