"""The exceptions that a user can act on."""


class UserError(Exception):
    """Something the user gave is wrong, and the message says what to do about it.

    A message names what failed and where, what was expected, and the next thing to try. The command line prints it
    without a traceback and exits with `exit_code`.
    """

    exit_code = 2


class WorkdirError(UserError):
    """The folder of a run cannot be used: read-only, full, held by another run, all checkpoints damaged. Trying again
    cannot help."""

    exit_code = 78
