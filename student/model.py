"""Compute the student: GPT-2 (Radford et al. 2019), exactly as transformers' ``GPT2LMHeadModel`` does.

The blocks are pre-norm, with learned positions and tanh GELU. The output weights are tied to the token embedding.
Parameters have the names and layouts of ``GPT2LMHeadModel.state_dict()``. This module has no text generation and no
key-value cache.

A row holds one sentence or several (``student.rows``), then padding. Positions count from 0 in each row. The causal
mask is the only attention mask, so no position sees the padding. Nothing reads the states of the padding.

Shape letters: M sentences, B rows, L length of the longest row, P positions (n + 1 for a sentence of n tokens),
D embedding size, H heads, V vocabulary, R any number of positions.
"""

import math

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from pipeline.training.chunked_vocabulary import RowLoss, vocabulary_loss
from storage.ragged import Ragged
from student.rows import StudentInputs
from student.student_config import INITIALIZER_RANGE, LAYER_NORM_EPSILON, StudentConfig


class Conv1D(nn.Module):
    """A linear layer with a weight ``[in, out]``, as in GPT-2's checkpoints."""

    def __init__(self, in_dim: int, out_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.empty(in_dim, out_dim))
        self.bias = nn.Parameter(torch.zeros(out_dim))

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[..., out]`` for ``[..., in]``."""
        return F.linear(inputs, self.weight.t(), self.bias)


class Attention(nn.Module):
    """Causal multi-head self-attention."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.dropout = config.dropout
        self.c_attn = Conv1D(config.embed_dim, 3 * config.embed_dim)
        self.c_proj = Conv1D(config.embed_dim, config.embed_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[B, L, D]`` for ``[B, L, D]``."""
        heads = self.c_attn(inputs).unflatten(2, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        query, key, value = heads.unbind(0)
        dropout = self.dropout if self.training else 0.0
        mixed = F.scaled_dot_product_attention(query, key, value, is_causal=True, dropout_p=dropout)
        mixed = self.c_proj(mixed.transpose(1, 2).flatten(2))
        return F.dropout(mixed, self.dropout, self.training)


class FeedForward(nn.Module):
    """Two linear layers with a tanh-approximated GELU between them."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.c_fc = Conv1D(config.embed_dim, config.inner_dim)
        self.c_proj = Conv1D(config.inner_dim, config.embed_dim)

    def forward(self, inputs: Tensor) -> Tensor:
        """Return ``[B, L, D]`` for ``[B, L, D]``."""
        outputs = self.c_proj(F.gelu(self.c_fc(inputs), approximate="tanh"))
        return F.dropout(outputs, self.dropout, self.training)


class Block(nn.Module):
    """Attention, then a feed-forward layer. Each reads a normalised copy of the residual stream."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.ln_1 = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.attn = Attention(config)
        self.ln_2 = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)
        self.mlp = FeedForward(config)

    def forward(self, stream: Tensor) -> Tensor:
        """Return the residual stream ``[B, L, D]`` after this block."""
        stream = stream + self.attn(self.ln_1(stream))
        after: Tensor = stream + self.mlp(self.ln_2(stream))
        return after


class Transformer(nn.Module):
    """Embeddings, blocks and the last normalisation."""

    def __init__(self, config: StudentConfig) -> None:
        super().__init__()
        self.dropout = config.dropout
        self.wte = nn.Embedding(config.vocab_size, config.embed_dim)
        self.wpe = nn.Embedding(config.max_length, config.embed_dim)
        self.h = nn.ModuleList(Block(config) for _ in range(config.num_blocks))
        self.ln_f = nn.LayerNorm(config.embed_dim, eps=LAYER_NORM_EPSILON)

    def forward(self, input_ids: Tensor) -> Tensor:
        """Return ``[B, L, D]`` for int64 ``[B, L]``."""
        stream = self.wte(input_ids) + self.wpe.weight[: input_ids.shape[1]]
        stream = F.dropout(stream, self.dropout, self.training)
        for block in self.h:
            stream = block(stream)
        normalised: Tensor = self.ln_f(stream)
        return normalised


class Student(nn.Module):
    """The student. Satisfies ``pipeline.dumping.next_token.NextTokenModel``.

    The initial weights depend on ``seed``, not on torch's global generator.
    """

    def __init__(self, config: StudentConfig, *, bos_id: int, seed: int) -> None:
        super().__init__()
        self.config = config
        self.bos_id = bos_id
        self.transformer = Transformer(config)
        self._initialise(torch.Generator().manual_seed(seed))

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.config.vocab_size

    @property
    def head_weight(self) -> Tensor:
        """The output weights ``[V, D]``, which are the token embedding."""
        return self.transformer.wte.weight

    def hidden(self, input_ids: Tensor) -> Tensor:
        """Return ``[B, L, D]`` after the last normalisation, for int64 ``[B, L]`` with L at most ``max_length``."""
        hidden: Tensor = self.transformer(input_ids)
        return hidden

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> StudentInputs:  # noqa: ARG002  a teacher needs them
        """Return each sentence as one row. The student ignores ``actions``.

        Raises:
            InputError: If a sentence has more than ``max_length`` positions.
        """
        self.config.check_length(int(tokens.lengths.max(initial=0)))
        return StudentInputs.of(tokens, np.arange(len(tokens) + 1), bos_id=self.bos_id)

    def states(self, inputs: StudentInputs) -> Tensor:
        """Return ``[P, D]``: the states that predict each sentence's tokens and ``<eos>``, sentence by sentence.

        Without sentences the result is ``[0, D]``. It still depends on every parameter, so that a process with an empty
        share of a batch contributes gradients of zero.
        """
        inputs = inputs.to(self.head_weight.device)
        return self.hidden(inputs.input_ids).flatten(0, 1).index_select(0, inputs.valid)

    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]`` unnormalised log-probabilities for ``[R, D]`` states."""
        return F.linear(states, self.head_weight)

    def forward(self, inputs: StudentInputs, row_loss: RowLoss, *, num_parts: int, chunk_rows: int = 0) -> Tensor:
        """Return ``[num_parts]``: the sums of the loss and of metrics over all positions of ``inputs``.

        Everything with a gradient happens in this method, because ``DistributedDataParallel`` requires it.

        Args:
            inputs: Rows of at most ``max_length`` positions.
            row_loss: Function that returns these sums for some of the positions; see ``RowLoss``.
            num_parts: The number of sums that ``row_loss`` returns.
            chunk_rows: The number of positions whose logits are computed at a time. 0: a number that suits the device.
        """
        states = self.states(inputs)
        return vocabulary_loss(states, self.head_weight, None, row_loss, num_parts=num_parts, chunk_rows=chunk_rows)

    @torch.no_grad()
    def _initialise(self, generator: torch.Generator) -> None:
        """Initialise as GPT-2 does. The two layers per block that add to the residual stream get smaller weights."""
        residual = INITIALIZER_RANGE / math.sqrt(2 * self.config.num_blocks)
        for name, module in self.named_modules():
            if isinstance(module, nn.Embedding | Conv1D):
                std = residual if name.endswith("c_proj") else INITIALIZER_RANGE
                module.weight.normal_(std=std, generator=generator)
