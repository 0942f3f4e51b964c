"""The one exception that a user can act on."""


class UserError(Exception):
    """Something the user gave is wrong, and the message says what to do about it.

    A message names what failed and where, what was expected, and the next thing to try. The command line prints it
    without a traceback and exits with 2.
    """
