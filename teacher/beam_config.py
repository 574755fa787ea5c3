"""Sizes of the teacher's beam search. Imports no torch, so that ``--help`` can read it."""

from dataclasses import dataclass

from storage.errors import ConfigError


@dataclass(frozen=True, kw_only=True, slots=True)
class BeamConfig:
    """How widely the trees of a sentence are searched; see ``teacher.beam``."""

    beam: int = 50
    """Beam search: successors of a sentence's hypotheses that survive each action, and hypotheses in the mixture."""
    word_beam: int = 10
    """Beam search: hypotheses that are kept after each token."""
    max_actions: int = 16
    """Beam search: most NTs and REDUCEs between two tokens: 99.9 % of tokens in GUM's trees have no more."""

    def __post_init__(self) -> None:
        problems = [
            f"{name.replace('_', '-')} is {value}, expected at least {least}"
            for name, least in (("beam", 1), ("word_beam", 1), ("max_actions", 0))
            if (value := getattr(self, name)) < least
        ]
        if problems:
            raise ConfigError("beam search: " + "; ".join(problems))
