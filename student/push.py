"""Send exported folders to a repository of the Hugging Face hub, each to a branch of its own.

The exported checkpoint goes to the branch ``main``. If the run also kept its weights after 1M, 2M, … words of training,
these go to the branches ``chck_1M``, ``chck_2M`` and so on.

The package huggingface_hub finds the access token (``HF_TOKEN``, or ``hf auth login``). It sends a file only if the hub
does not have it yet.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final

import huggingface_hub
from huggingface_hub.errors import HfHubHTTPError, HFValidationError
from huggingface_hub.utils import validate_repo_id  # type: ignore[attr-defined]

from pipeline.runtime.display import size
from storage.errors import ConfigError, RunError
from storage.files import list_files

MAIN: Final = "main"
"""The hub's name for the branch that programs load by default, and BabyLM's name for the final checkpoint."""


def check_repository(repository: str) -> None:
    """Check the form of a repository's name. Nothing is sent.

    Raises:
        ConfigError: If it is not OWNER/NAME in characters that the hub allows.
    """
    try:
        validate_repo_id(repository)
    except HFValidationError as error:
        raise ConfigError(f"--push {repository}: {error}. Give OWNER/NAME") from error
    if "/" not in repository:
        raise ConfigError(f"--push {repository}: no owner in it. Give OWNER/NAME")


def planned(folders: Mapping[str, Path]) -> dict[str, dict[str, str]]:
    """Return what ``push`` would send: the size of each file, by branch."""
    return {
        branch: {name: size((folder / name).stat().st_size) for name in sorted(list_files(folder))}
        for branch, folder in folders.items()
    }


def push(folders: Mapping[str, Path], repository: str, *, private: bool) -> dict[str, Any]:
    """Send each folder to its branch of a repository, which is created if it does not exist. Return what was sent.

    ``main`` is sent last. So as soon as ``main`` of a new repository has its folder, all other branches have theirs.

    Args:
        folders: The folders by branch.
        repository: OWNER/NAME.
        private: Whether a new repository is private.

    Raises:
        RunError: If the hub cannot be reached or refuses something.
    """
    api = huggingface_hub.HfApi(library_name="rnng-distill")
    sent: dict[str, str] = {}
    with _plain_errors(repository):
        api.create_repo(repository, private=private, exist_ok=True)
    for branch in sorted(folders, key=lambda name: name == MAIN):
        with _plain_errors(f"{repository}, branch {branch}"):
            if branch != MAIN:
                api.create_branch(repository, branch=branch, exist_ok=True)
            commit = api.upload_folder(
                repo_id=repository,
                folder_path=folders[branch],
                revision=branch,
                commit_message=f"Upload {branch}",
                delete_patterns="*",  # also delete the hub's files that this export lacks
            )
            sent[branch] = str(commit.oid)
    return {"repository": f"{api.endpoint}/{repository}", "commits": sent}


@contextmanager
def _plain_errors(where: str) -> Iterator[None]:
    try:
        yield
    except _errors() as error:
        response = getattr(error, "response", None)
        status = getattr(response, "status_code", None)
        remedy = (
            "log in with a token that may write (hf auth login, or HF_TOKEN)"
            if status in {401, 403}
            else ("check the network and the repository's name")
        )
        reason = " ".join(str(error).split())[:300]
        raise RunError(
            f"{where}: the hub refused or could not be reached ({reason}); {remedy}, remove the exported folder, and "
            "run the same command again: files that the hub has are not sent twice"
        ) from error


def _errors() -> tuple[type[Exception], ...]:
    """Return the classes of errors that the hub and the network raise.

    The HTTP client of huggingface_hub depends on its version: requests, httpx or httpx2. The base classes of
    ``HfHubHTTPError`` include the client's error class. In some clients, network errors derive from this class, in the
    others from ``OSError``.
    """
    return (*HfHubHTTPError.__bases__, OSError)
