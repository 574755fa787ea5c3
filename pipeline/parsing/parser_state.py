"""Write the state of a parser's training to a file after each epoch, so that an interrupted training can continue.

An epoch that was interrupted begins again, so a training gives the same parser with and without interruptions.
"""

import io
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import torch
from torch import Tensor, nn

from pipeline.runtime.checkpoint import unpacked
from storage.errors import RunError, StoreError
from storage.files import is_there, read_file, write_atomically
from storage.fingerprints import Json

STATE_SUFFIX: Final = ".training.pt"
_REMEDY: Final = "Remove the file to train from the beginning"
_KINDS: Final = {
    "made_from": str, "rows": str, "model": dict, "optimiser": dict, "best": dict, "order": Tensor, "random": Tensor,
}  # fmt: skip


class ParserState:
    """The state of a training after its last whole epoch."""

    def __init__(self, path: Path, made_from: Mapping[str, Json], seed: int, content: Mapping[str, Any]) -> None:
        self._path, self._made_from, self._content = path, made_from, content
        self.rows: list[dict[str, Any]] = json.loads(content["rows"]) if content else []
        """A row for each finished epoch: loss, F1 on dev and so on."""
        self.best: Mapping[str, Tensor] = content["best"] if content else {}
        """The weights of the epoch with the best F1 on dev; of several such epochs, the first."""
        self.order = torch.Generator().manual_seed(seed)
        """Draws the order of the sentences of each epoch."""

    @classmethod
    def begin(cls, path: Path, made_from: Mapping[str, Json], seed: int) -> "ParserState":
        """Return the state in a file, or the state before the first epoch if there is no file.

        Args:
            path: The file.
            made_from: Everything that decides the result, by name: options and digests of the trees.
            seed: Seed of the order of the sentences.

        Raises:
            RunError: If the file is damaged or cannot be read.
            StoreError: If the file has other values of ``made_from``.
        """
        if not is_there(path):
            return cls(path, made_from, seed, {})
        try:
            data = read_file(path)
        except OSError as error:
            raise RunError(f"{path}: cannot be read ({error.strerror}). {_REMEDY}") from error
        content = unpacked(path, data, remedy=_REMEDY)
        if content.keys() != _KINDS.keys() or not all(isinstance(content[name], kind) for name, kind in _KINDS.items()):
            raise RunError(f"{path}: is not the state of a parser's training. {_REMEDY}")
        found = json.loads(content["made_from"])
        if other := [name for name in {**made_from, **found} if made_from.get(name) != found.get(name)]:
            raise StoreError(
                f"{path}: a training with other {', '.join(other)} was interrupted; run the command of that "
                "training again to continue it, give another --out, or remove the file to train from the beginning"
            )
        return cls(path, made_from, seed, content)

    @property
    def best_row(self) -> dict[str, Any]:
        """The row of the best epoch."""
        return max(self.rows, key=lambda row: row["dev_f1"])

    def restore(self, parser: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Load the state into parser, optimiser and random generators.

        Raises:
            RunError: If the file has the weights of another model.
        """
        if not self._content:
            return
        try:
            parser.load_state_dict(self._content["model"])
            optimiser.load_state_dict(self._content["optimiser"])
            self.order.set_state(self._content["order"])
            torch.set_rng_state(self._content["random"])
        except (RuntimeError, ValueError, TypeError, KeyError) as error:
            raise RunError(
                f"{self._path}: does not fit this parser: {str(error).splitlines()[-1]}. {_REMEDY}"
            ) from error

    def save(self, row: dict[str, Any], parser: nn.Module, optimiser: torch.optim.Optimizer) -> None:
        """Add the row of an epoch, and write the state after this epoch.

        Raises:
            StoreError: If the disk is full. The state after the previous epoch stays.
        """
        self.rows.append(row)
        if self.best_row is row:
            self.best = {name: value.clone() for name, value in parser.state_dict().items()}
        buffer = io.BytesIO()
        content = {
            "made_from": json.dumps(self._made_from),
            "rows": json.dumps(self.rows),
            "model": dict(parser.state_dict()),
            "optimiser": optimiser.state_dict(),
            "best": dict(self.best),
            "order": self.order.get_state(),
            "random": torch.get_rng_state(),
        }
        torch.save(content, buffer)
        write_atomically(self._path, buffer.getbuffer())

    def remove(self) -> None:
        """Remove the file, after the parser has been written."""
        self._path.unlink(missing_ok=True)
