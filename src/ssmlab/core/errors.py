"""Errors that a user can act on. The command line prints their text and exits non-zero.

Each message says what was given, what was expected and what to do. Anything that is not one of
these (or a ValueError from an operator's argument check) is a bug and keeps its traceback.
"""


class SsmlabError(Exception):
    """Base of the errors that are the user's to mend rather than ours."""


class ConfigError(SsmlabError, ValueError):
    """A configuration that cannot be: unknown key, wrong type, impossible combination."""


class DataError(SsmlabError, ValueError):
    """Input data that is missing, unreadable, too small or corrupted."""


class CheckpointError(SsmlabError):
    """A checkpoint that is missing, corrupted or does not fit the model."""


class GenerationError(SsmlabError, ValueError):
    """Text that cannot be generated as asked: an empty prompt, an unknown stop token, no memory."""


class StudyError(SsmlabError):
    """A study that cannot be run, resumed or reported as asked."""


class StorageError(SsmlabError, OSError):
    """A folder that cannot be written, or a disk without room."""


class Interrupted(SsmlabError):
    """A clean stop on request (Ctrl-C, SIGTERM); the message says how to go on."""
