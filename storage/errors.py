"""Define the errors that a user can cause: one root, and one class per kind of cause.

A message says where the error is, what was found, what was expected and what to do. The command line prints any of
these errors as one line and exits with status 1. Every other exception is a bug of this program and shows its
traceback.
"""


class RnngDistillError(Exception):
    """Root of every error that a user can cause and fix."""


class ConfigError(RnngDistillError):
    """An option, or a key of a TOML file, is unknown or has an impossible value."""


class InputError(RnngDistillError):
    """A file of the user (trees, text, minimal pairs) is missing or malformed."""


class RunError(RnngDistillError):
    """A run directory or checkpoint is missing, incomplete, or already in use."""


class StoreError(RnngDistillError):
    """A store (such as a dump) cannot be read or written, or any other file cannot be written."""


class IncompleteStoreError(StoreError):
    """A store is still being written, or its writer was interrupted. Run the same command again to finish it."""


class CorruptStoreError(StoreError):
    """A file of a store is missing or truncated, or its bytes do not match their checksum."""


class FingerprintMismatchError(StoreError):
    """Two things that are used together, such as a dump and a tokenizer, do not belong together."""


class StoreBusyError(StoreError):
    """Another process is writing the store."""
