r"""Write the surprisals of a text's words or tokens as a table, to join with reading times and other measures.

    surprisal of a token    -log2 p(x_t | x_<t), in bits
    surprisal of a word     the sum over its tokens: by the chain rule, -log2 p(tokens of the word | text before it)
    corrected surprisal     -log2 p(tokens of the word, end of the word | text before it, end of the word before)

By default, a word is a string between spaces, including punctuation. A file of spans (``words``) can define other
words. So can a table with one row per region of a sentence, as in self-paced reading (``stimuli``). Then each region is
a word. The text is normalised as a corpus is. The space before a word belongs to the word, as part of its first token
or as a token by itself. So the probability that a word ends is part of the next word's surprisal, which affects fits to
reading times (Oh and Schuler 2024). In the corrected surprisals, this probability counts with the word that ends.

If spans or regions define the words, it can happen that a token has parts of two words. The surprisal of such a token
cannot be divided, so its sentence is refused or skipped. If words are strings between spaces, only a token that
somebody added to the tokenizer, such as "New York", can have parts of two words. The table joins these words into one.

The entropy of a word is that of the model's distribution over the first **token** of the word. It is not the entropy
over words.

The table has tab-separated columns, a header, and no quoting, because no cell contains a tab. The page
``docs/surprisal.md`` shows how to read it and how to join it with reading times. The last row of each sentence is
``<eos>``. The surprisals of a sentence, those of ``<eos>`` included, add up to -log2 p(sentence), except for the
rounding to six decimals. A ``SurprisalFigure`` has the sums without rounding.

Pimentel and Meister (2024), EMNLP; Oh and Schuler (2024), EMNLP.
"""

import math
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Final, Literal

import numpy as np
from numpy.typing import NDArray

from pipeline.corpus.dataset.tokenizer import SPECIAL_TOKENS, Tokenizer
from pipeline.corpus.text.table_forms import as_cell
from pipeline.corpus.text.text_files import check_replaces_no_input
from pipeline.evaluation.evaluation_config import SurprisalConfig
from pipeline.evaluation.scorer import DistributionScorer, TokenScores
from pipeline.evaluation.stimuli import Stimulus, no_sentence, read_stimuli
from pipeline.evaluation.words import Frequencies, begins_word, read_frequencies
from storage.errors import ConfigError, InputError, RunError
from storage.files import written_whole
from storage.json_files import Count, Number

By = Literal["word", "token"]
COLUMNS: Final[Mapping[By, tuple[str, ...]]] = {
    "word": (
        "sentence_number",
        "word_number",
        "word",
        "surprisal_bits",
        "num_tokens",
        "corrected_surprisal_bits",
        "token_entropy_nats",
    ),
    "token": ("sentence_number", "word_number", "token_number", "token", "surprisal_bits", "token_entropy_nats"),
}
"""Numbers begin at 1. Tokens are written as in ``tokenizer.json``, with ``Ġ`` for a space. ``<eos>`` is not a word, but
it is numbered as if it were the next word and token."""
LOG_FREQUENCY: Final = "log_frequency"
"""The column that follows ``COLUMNS["word"]`` if frequencies are given. It is empty for ``<eos>`` and for words without
a frequency."""
WordUnit = Literal["white space", "spans", "regions"]
_WORD_UNITS: Final[Mapping[WordUnit, str]] = {
    "white space": "white-space-separated words",
    "spans": "words of the file of spans",
    "regions": "regions of the table",
}
_EOS: Final = SPECIAL_TOKENS[1]


@dataclass(frozen=True, kw_only=True, slots=True)
class SurprisalFigure:
    """Surprisals summed over a text."""

    num_sentences: int
    num_words: int
    """Without ``<eos>``."""
    num_tokens: int
    """Without ``<eos>``."""
    bits: Number
    """Surprisal of all tokens and ``<eos>``."""
    bits_eos: Number
    """The part of ``bits`` that belongs to the ``<eos>`` tokens."""
    word_unit: WordUnit
    num_words_with_frequency: Count | None = None
    """Words with a frequency; None if no frequencies were given."""
    num_with_context: Count = 0
    """Sentences that were scored with text before them."""
    num_with_less_context: Count = 0
    """Sentences whose preceding text was too long for the model, so that its oldest part was left out."""
    num_cut_tokens: Count = 0
    """Tokens of preceding text that were left out, summed over all sentences."""

    def __post_init__(self) -> None:
        """Check that the counts are possible.

        Raises:
            InputError: If there is no sentence, word or token.
        """
        problems = [
            f"{name} is {found}, expected at least 1"
            for name in ("num_sentences", "num_words", "num_tokens")
            if (found := getattr(self, name)) < 1
        ]
        if problems:
            raise InputError("surprisal: " + "; ".join(problems))

    @property
    def bits_per_word(self) -> float:
        """``(bits - bits_eos) / num_words``."""
        return (self.bits - self.bits_eos) / self.num_words

    def to_json(self) -> dict[str, Any]:
        """Return the sums, and the mean with its definition."""
        mean = {"value": self.bits_per_word, "is": f"(bits - bits_eos) / num_words: {_WORD_UNITS[self.word_unit]}"}
        return asdict(self) | {"bits_per_word": mean}


def corrected_bits(stimulus: Stimulus, scores: TokenScores, begins: NDArray[np.bool_]) -> NDArray[np.float64]:
    r"""Return the surprisals of w words and ``<eos>`` with the correction of word boundaries: ``[w + 1]``, in bits.

    A token carries the space before it. So the tokens t_1 .. t_k of a word say that the word before has ended, but not
    that this word ends. Let B be the set of ``<eos>`` and all tokens that begin with a space. The probability of a word
    and its end, given that the word before has ended, is (Pimentel and Meister 2024; Oh and Schuler 2024)

        p(t_1 .. t_k | before) * p(B | before, t_1 .. t_k) / p(B | before)

    where p(B | ..) is the probability that the next token is in B. The second factor is the probability that the word
    ends after t_k. The divisor is the probability that the word before had ended. ``<eos>`` has no end of its own: its
    probability is p(<eos> | before) / p(B | before). In the product over a sentence, the second factor of each word
    cancels with the next divisor. So the surprisals add up to -log2 p(sentence) + log2 p(B | <bos>), where the last
    probability is almost 1.

    Regions and spans may end where there is no space, as "dog" does in "dog.". At such a place nothing is corrected.

    ``begins`` is the result of ``begins_word``.
    """
    firsts = _first_tokens(stimulus)
    is_boundary = np.append(begins[stimulus.ids], True)
    boundary_bits = np.where(is_boundary, _bits(scores.boundary_log_probs), 0.0)[firsts]
    corrected: NDArray[np.float64] = _sums(stimulus, scores) + np.append(boundary_bits[1:], 0.0) - boundary_bits
    return corrected


def rows_of_sentence(
    stimulus: Stimulus,
    scores: TokenScores,
    tokenizer: Tokenizer,
    *,
    by: By,
    begins: NDArray[np.bool_],
    frequencies: Frequencies | None = None,
) -> list[tuple[str | float | None, ...]]:
    """Return the rows of a sentence in the table. The last row is ``<eos>``.

    The columns are ``COLUMNS[by]``, then ``LOG_FREQUENCY`` if there are frequencies, then the input columns that the
    options ``--item`` and ``--region`` select.

    ``begins`` is the result of ``begins_word``.
    """
    bits, entropies = _bits(scores.log_probs).tolist(), scores.entropies.tolist()
    words = [stimulus.text[start:stop] for start, stop in stimulus.word_spans]
    n, number = len(stimulus.ids), stimulus.number
    word_of = [*stimulus.words.tolist(), len(words)]
    rows: list[tuple[str | float | None, ...]]
    if by == "token":
        names = [*map(tokenizer.token, stimulus.ids), _EOS]
        rows = [(number, word_of[i] + 1, i + 1, names[i], bits[i], entropies[i]) for i in range(n + 1)]
        row_words = word_of
    else:
        firsts = _first_tokens(stimulus)
        sums = _sums(stimulus, scores).tolist()
        corrected = corrected_bits(stimulus, scores, begins).tolist()
        num_tokens = np.diff(firsts, append=n + 1).tolist()
        rows = [
            (number, i + 1, word, sums[i], num_tokens[i], corrected[i], entropies[firsts[i]])
            for i, word in enumerate([*words, _EOS])
        ]
        row_words = list(range(len(words) + 1))
        if frequencies is not None:
            found = [*map(frequencies.log_frequency, words), None]
            rows = [(*row, log_frequency) for row, log_frequency in zip(rows, found, strict=True)]
    if stimulus.item or stimulus.regions:
        regions = [(region,) for region in (*stimulus.regions, "")] if stimulus.regions else [()] * (len(words) + 1)
        rows = [(*row, *stimulus.item, *regions[word]) for row, word in zip(rows, row_words, strict=True)]
    return rows


def write_surprisals(
    scorer: DistributionScorer,
    tokenizer: Tokenizer,
    path: Path,
    out: Path,
    config: SurprisalConfig,
    *,
    max_tokens: int | None = None,
    context_positions: int = 0,
) -> tuple[SurprisalFigure, Counter[str]]:
    """Score the sentences of a text and write the table. Return its sums, and the number of skipped lines by reason.

    The table appears only when it is complete, and replaces an earlier one. The text is read twice, so that a faulty
    line is found before anything is scored, and so that only token ids are in memory.

    ``max_tokens`` and ``context_positions`` are as in ``read_stimuli``.

    Raises:
        ConfigError: If the table would replace an input file, or would have two columns with the same name.
        InputError: As for ``read_stimuli`` and ``read_frequencies``, and if there is no sentence.
        RunError: If the model gives a log-probability that is not finite.
        StoreError: If the table cannot be written.
    """
    inputs = (path, config.spans, config.context, config.frequencies)
    check_replaces_no_input("surprisal", [out], [read for read in inputs if read is not None])
    header = _header(config)
    frequencies = None if config.frequencies is None else read_frequencies(config.frequencies)

    def sentences_of_text(dropped: Counter[str]) -> Iterator[Stimulus]:
        return read_stimuli(
            path, tokenizer, config, max_tokens=max_tokens, context_positions=context_positions, dropped=dropped
        )

    dropped: Counter[str] = Counter()
    ids, before = list[NDArray[np.int64]](), list[NDArray[np.int64]]()
    for stimulus in sentences_of_text(dropped):
        ids.append(np.array(stimulus.ids, np.int64))
        before.append(np.array(stimulus.before, np.int64))
    if not ids:
        raise no_sentence(path, dropped)
    begins = begins_word(tokenizer)
    scored = scorer.distributions(ids, before, np.append(np.flatnonzero(begins), tokenizer.eos_id))
    sums: Counter[str] = Counter()
    bits = bits_eos = 0.0
    with written_whole([out]) as (table,):
        table.write("\t".join(map(as_cell, header)) + "\n")
        for stimulus, scores in zip(sentences_of_text(Counter()), scored, strict=True):
            _check_finite(path, stimulus, scores)
            rows = rows_of_sentence(stimulus, scores, tokenizer, by=config.by, begins=begins, frequencies=frequencies)
            table.writelines("\t".join(map(_cell, cells)) + "\n" for cells in rows)
            sums.update(num_words=len(stimulus.word_spans), num_tokens=len(stimulus.ids))
            sums.update(num_with_context=bool(stimulus.before), num_with_less_context=bool(stimulus.num_cut))
            sums.update(num_cut_tokens=stimulus.num_cut)
            if frequencies is not None:
                sums["with_frequency"] += sum(cells[len(COLUMNS["word"])] is not None for cells in rows)
            bits += float(_bits(scores.log_probs).sum())
            bits_eos += float(_bits(scores.log_probs)[-1])
    figure = SurprisalFigure(
        num_sentences=len(ids),
        num_words=sums["num_words"],
        num_tokens=sums["num_tokens"],
        bits=bits,
        bits_eos=bits_eos,
        word_unit="regions" if config.region else "white space" if config.spans is None else "spans",
        num_words_with_frequency=None if frequencies is None else sums["with_frequency"],
        num_with_context=sums["num_with_context"],
        num_with_less_context=sums["num_with_less_context"],
        num_cut_tokens=sums["num_cut_tokens"],
    )
    return figure, dropped


def _header(config: SurprisalConfig) -> list[str]:
    own = [*COLUMNS[config.by], *[LOG_FREQUENCY] * (config.frequencies is not None)]
    carried = [*config.item, *[config.region] * bool(config.region)]
    if both := [name for name in carried if name in own or carried.count(name) > 1]:
        raise ConfigError(
            f"surprisal: the table to write would have two columns with the name {both[0]}; rename the column of the "
            "input, or name it only once in --item and --region together"
        )
    return [*own, *carried]


def _first_tokens(stimulus: Stimulus) -> NDArray[np.int64]:
    """Return ``[w + 1]``: the index of the first token of each of w words, then the index of ``<eos>``."""
    firsts: NDArray[np.int64] = np.searchsorted(stimulus.words, np.arange(len(stimulus.word_spans) + 1))
    return firsts


def _sums(stimulus: Stimulus, scores: TokenScores) -> NDArray[np.float64]:
    """Return ``[w + 1]``: the surprisals of the words and of ``<eos>``, in bits."""
    sums: NDArray[np.float64] = np.add.reduceat(_bits(scores.log_probs), _first_tokens(stimulus))
    return sums


def _bits(log_probs: NDArray[np.floating]) -> NDArray[np.float64]:
    return log_probs.astype(np.float64) / -math.log(2)


def _cell(value: str | float | None) -> str:
    if value is None:
        return ""
    # A probability that rounds to just above 1 gets the surprisal 0, not -0.
    return f"{round(value, 6) + 0.0:.6f}" if isinstance(value, float) else as_cell(" ".join(str(value).split()))


def _check_finite(path: Path, stimulus: Stimulus, scores: TokenScores) -> None:
    if len(scores.log_probs) != len(stimulus.ids) + 1:
        raise ValueError(
            f"{len(scores.log_probs)} log-probabilities of {len(stimulus.ids)} tokens, expected one per token and one "
            "for <eos>"
        )
    if not np.isfinite([scores.log_probs, scores.boundary_log_probs, scores.entropies]).all():
        raise RunError(
            f"{path}:{stimulus.line}: the model gives a log-probability that is not finite, expected a number; "
            "training diverged or the checkpoint is damaged: use another checkpoint"
        )
