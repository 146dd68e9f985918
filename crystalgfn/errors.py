"""The one exception for mistakes a user can mend."""


class InputError(ValueError):
    """Input that cannot be used.

    The command line prints the message alone, without a traceback, and exits with status 2. So the message names
    the field, the value and what is allowed.
    """
