"""The one error root and its kinds: a class for each thing a caller can do about it.

A message says where, what was found, what was expected and what to do. The command line turns any of these into
one line and exit status 1; every other exception is a bug of ours and keeps its traceback.
"""


class RnngDistillError(Exception):
    """Root of every error that a user can cause and mend."""


class ConfigError(RnngDistillError):
    """An option, or a key of a TOML file, is unknown or has an impossible value."""


class InputError(RnngDistillError):
    """A file of the user's (trees, text, minimal pairs) is missing or is not what it should be."""


class RunError(RnngDistillError):
    """A run directory or checkpoint is missing, incomplete, or already in use."""


class StoreError(RnngDistillError):
    """A store on disk cannot be used as asked."""


class IncompleteStoreError(StoreError):
    """A store is still being written, or its writer was interrupted: run the same command again to finish it."""


class CorruptStoreError(StoreError):
    """Bytes of a store are not those that were written: a missing or truncated file, or a checksum that differs."""


class FingerprintMismatchError(StoreError):
    """Two things that must belong together (tokenizer, dataset, teacher, dump) do not."""


class StoreBusyError(StoreError):
    """Another process holds the store for writing."""
