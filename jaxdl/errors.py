"""The one exception whose message is written for people."""


class UserError(Exception):
    """What was wrong and what to do, in one line; binaries print it without a traceback and exit with 1."""
