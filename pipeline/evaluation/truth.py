"""Compare models with the grammar that a text was drawn from, by the KL divergence of next-token distributions.

    KL_t = sum over w of  p(w | x_<t) log(p(w | x_<t) / q_t(w))        in nats; 0 log 0 = 0

p is the exact distribution of the grammar (``pipeline.dumping.grammar_model``), and q_t is the distribution of the
model at position t. The sum is over the whole vocabulary, in float64. If q_t depends on the words alone, then the mean
of KL_t estimates how far the model's cross-entropy is above that of the grammar itself, in nats per position. Unlike
the difference of two perplexities, KL_t does not depend on which token came next, so its mean varies less from sample
to sample.
"""

from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from pipeline.corpus.dataset.dataset_store import Dataset, Split
from pipeline.corpus.sample.sample_corpus import read_entropy
from pipeline.dumping.grammar_source import check_sentences, grammar_model
from pipeline.dumping.next_token import LOGIT_ROWS, NextTokenModel, gold_log_probs
from storage.errors import InputError
from storage.ragged import Ragged

BATCH_TOKENS = 4096
"""Number of positions at which the grammar's distributions are computed at a time."""


class Truth:
    """The true distributions of a split's text.

    Args:
        corpus: The folder that ``sample-corpus`` wrote.
        dataset: The dataset that was built from this corpus.
        split: Name of the split.

    Raises:
        InputError: If ``corpus`` is not a sample corpus, or the split has other sentences than the corpus.
    """

    def __init__(self, corpus: Path, dataset: Dataset, split: str) -> None:
        self._split: Split = dataset.split(split)
        splits = read_entropy(corpus)["splits"]
        if split not in splits:
            raise InputError(
                f"{corpus}: no split {split!r}, expected one of {', '.join(sorted(splits))}; give one of them"
            )
        if (sha256 := str(splits[split].get("text_sha256"))) != self._split.text_sha256:
            raise InputError(
                f"{corpus}: text_sha256 of {split} is {sha256[:12]}, but the evaluated split's is "
                f"{self._split.text_sha256[:12]}; --truth needs exactly the same sentences: give the sample corpus "
                "that the dataset was built from, and build the dataset without dropping a sentence"
            )
        check_sentences(dataset, split)
        self._model, self._eos_id = grammar_model(dataset), dataset.tokenizer.eos_id

    def log_probs(self) -> Ragged:
        """Return the true log-probability of each gold token: float32, n + 1 values for a sentence of n tokens."""
        return gold_log_probs(self._model, self._split.tokens, None, eos_id=self._eos_id, batch_tokens=BATCH_TOKENS)

    @torch.no_grad()
    def divergences(self, model: NextTokenModel, states: Tensor, tokens: Ragged) -> np.ndarray:
        """Return float64 ``[P]``: KL_t (see the module) of a model at each position, in nats.

        ``tokens`` are the sentences, without ``<eos>``. ``states`` is what ``model.states`` returns for these
        sentences: ``[P, D]``. The model must have the vocabulary of the dataset.
        """
        truth = self._model.states(self._model.prepare(tokens, None))
        found = np.empty(len(truth))
        for first in range(0, len(truth), LOGIT_ROWS):
            at = slice(first, first + LOGIT_ROWS)
            log_q = model.logits(states[at]).double().log_softmax(1)
            log_p = truth[at].to(log_q.device)
            differences = log_p - log_q[:, self._model.ids.to(log_q.device)]
            found[at] = (log_p.exp() * differences.where(log_p > -torch.inf, 0.0)).sum(1).cpu().numpy()
        return found
