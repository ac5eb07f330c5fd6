"""The one error that a user, not a programmer, is meant to read."""


class BadInput(ValueError):
    """Input that cannot be used: one sentence that says what is wrong and names the mend.

    The command line prints the sentence without a traceback and exits with status 2.
    """
