"""The errors a user can cause. A script prints one as a single line and exits with code 2 (see `cli.run`)."""


class PegasusError(Exception):
    """Base of every error whose message is written for the user: one line, with the wrong value and what to do."""


class OptionError(PegasusError):
    """An option has a value that cannot work, or two options exclude each other."""


class DataError(PegasusError):
    """A data file is missing, malformed or empty; the message names file and line where there is one."""


class CheckpointError(PegasusError):
    """Weights are missing, or do not fit the model; the message names the variables and both shapes."""
