"""Convert trees to actions and back: the top-down oracle and its exact inverse.

The first action is NT(TOP). Each phrase begins with NT(X) and ends with REDUCE. Each token is one SHIFT. The last two
actions are SHIFT, which generates ``<eos>`` as TOP's last child, and REDUCE. So a sentence of n tokens has n + 1
SHIFTs, one per position.

Actions are integers: SHIFT is 0, REDUCE is 1, NT of label i is 2 + i. Label 0 is TOP. A phrase is (label, first token,
one past the last token). TOP's phrase is (0, 0, n), without ``<eos>``. Phrases are in the order in which they open.
"""

from collections.abc import Iterable, Sequence
from typing import Final

from pipeline.corpus.trees.trees import TokenPhrase
from storage.errors import InputError

SHIFT: Final = 0
REDUCE: Final = 1
FIRST_NT: Final = 2
"""NT(label) is ``FIRST_NT + label``."""
MAX_LABELS: Final = 32_000
"""The largest number of labels. A dataset stores actions as 16-bit integers, so NT(label) must be less than 2^15."""


def check_num_labels(trees: str, num_labels: int) -> None:
    """Check that trees do not have more labels than a dataset can store.

    Raises:
        InputError: If they have more than ``MAX_LABELS``.
    """
    if num_labels > MAX_LABELS:
        raise InputError(
            f"{trees}: more than {MAX_LABELS:,} different labels, expected at most some hundreds, as in treebanks. "
            "Check that the phrases have labels and not words"
        )


def tree_to_actions(phrases: Sequence[TokenPhrase], num_tokens: int) -> list[int]:
    """Return the actions that build a tree over ``num_tokens`` tokens and ``<eos>``.

    Args:
        phrases: In opening order; the first is ``(0, 0, num_tokens)``, TOP.
        num_tokens: n, without ``<eos>``.

    Raises:
        ValueError: If the phrases are not one tree: TOP is missing or occurs twice, or a phrase is empty, extends
            beyond its parent, or is out of order.
    """
    if not phrases or phrases[0] != (0, 0, num_tokens):
        raise ValueError(f"the first phrase is {phrases[:1]}, expected TOP over all tokens: (0, 0, {num_tokens})")
    actions = [FIRST_NT]
    is_open: list[int] = []
    done = 0
    for label, start, stop in phrases[1:]:
        while is_open and is_open[-1] <= start:
            actions += [SHIFT] * (is_open[-1] - done)
            done = is_open.pop()
            actions.append(REDUCE)
        if label < 1 or not done <= start < stop <= (is_open[-1] if is_open else num_tokens):
            raise ValueError(f"phrase {(label, start, stop)} does not fit into the tree built before it")
        actions += [SHIFT] * (start - done)
        done = start
        actions.append(FIRST_NT + label)
        is_open.append(stop)
    while is_open:
        actions += [SHIFT] * (is_open[-1] - done)
        done = is_open.pop()
        actions.append(REDUCE)
    return actions + [SHIFT] * (num_tokens - done + 1) + [REDUCE]


def actions_to_tree(actions: Iterable[int]) -> tuple[list[TokenPhrase], int]:
    """Return the phrases and the number of tokens that a sequence of actions builds; ``<eos>`` is not counted.

    Raises:
        ValueError: If an action is not valid at its place, or the sequence does not end with the SHIFT of ``<eos>`` and
            the REDUCE of TOP.
    """
    labels: list[int] = []
    starts: list[int] = []
    stops: list[int] = []
    is_open: list[int] = []
    done = 0
    last_two: tuple[int, ...] = ()
    for t, action in enumerate(actions):
        if action < 0 or (action == FIRST_NT) != (t == 0) or (t and not is_open):
            raise _invalid(t, action)
        if action == SHIFT:
            done += 1
        elif action == REDUCE:
            phrase = is_open.pop()
            if starts[phrase] == done:
                raise _invalid(t, action)
            stops[phrase] = done
        else:
            is_open.append(len(labels))
            labels.append(int(action) - FIRST_NT)
            starts.append(done)
            stops.append(-1)
        last_two = (*last_two[-1:], action)
    if is_open or last_two != (SHIFT, REDUCE):
        found = ", ".join(map(_name, last_two)) or "nothing"
        raise ValueError(
            f"the actions end with {found} (phrases still open: {len(is_open)}), expected SHIFT of <eos>, then REDUCE "
            "of TOP (phrases still open: 0)"
        )
    stops[0] = done - 1
    return list(zip(labels, starts, stops, strict=True)), done - 1


def right_branching(num_tokens: int) -> list[TokenPhrase]:
    """Return the right-branching tree: TOP, and a phrase of label 1 over every suffix of two or more tokens."""
    return [(0, 0, num_tokens), *((1, start, num_tokens) for start in range(num_tokens - 1))]


def _invalid(t: int, action: int) -> ValueError:
    return ValueError(f"action {t} is {_name(action)}, which is not valid at this place")


def _name(action: int) -> str:
    if action >= FIRST_NT:
        return f"NT({action - FIRST_NT})"
    return {SHIFT: "SHIFT", REDUCE: "REDUCE"}.get(action, str(action))
