"""What says that trees were made by a parser: ``STEM.parse.json``, which ``parse`` writes beside them."""

import json
from pathlib import Path
from typing import Final

from storage.errors import InputError
from storage.files import beside

SUFFIX: Final = ".parse.json"


def parsed_by(stem: Path) -> str:
    """Return what made the trees of a STEM: "flat", or a parser and its model's digest; "" where no parser did.

    Raises:
        InputError: If the record is damaged.
    """
    path = beside(stem, SUFFIX)
    if not path.exists():
        return ""
    try:
        made_from = json.loads(path.read_bytes())["made_from"]
        model, version = str(made_from["model"]), str(made_from["versions"]["benepar"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(
            f"{path}: cannot be read ({error!r}), expected what parse writes beside trees; parse again, or remove it "
            "if the trees are of no parser"
        ) from error
    return model if model == "flat" else f"benepar {version}, model sha256 {model[:12]}"
