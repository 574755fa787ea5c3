"""The slow, obvious RNNG: one action at a time, one sentence at a time, a Python list as its stack.

It reads the weights of ``teacher.rnng.Rnng`` and nothing else of it; the level-parallel model must equal it.
"""

import torch
from torch import Tensor

from pipeline.corpus.oracle import FIRST_NT, REDUCE, SHIFT
from teacher.rnng import Rnng

State = list[tuple[Tensor, Tensor]]
"""Hidden and cell state of each layer of the stack LSTM."""


def sentence_log_probs(model: Rnng, tokens: list[int], actions: list[int]) -> tuple[Tensor, Tensor]:
    """Return the log-probabilities of all actions ``[T]`` and of all tokens, ``<eos>`` included, ``[n + 1]``."""
    words = [*tokens, model.eos_id]
    hidden_dim = model.config.hidden_dim
    zeros = torch.zeros(hidden_dim, dtype=model.token_bias.dtype)
    empty: State = [(zeros, zeros) for _ in model.stack]
    # An element: ("open", label), ("token", vector) or ("constituent", vector), and the state after pushing it.
    stack: list[tuple[str, object, State]] = []
    action_log_probs, token_log_probs = [], []
    next_word = 0
    for action in actions:
        state = stack[-1][2] if stack else empty
        u = state[-1][0]
        action_log_probs.append(_action_log_prob(model, u, stack, action, ended=next_word == len(words)))
        if action == SHIFT:
            word = words[next_word]
            logits = model.token_embedding @ model.projection(u) + model.token_bias
            token_log_probs.append(logits.log_softmax(0)[word])
            vector = model.config.embed_dim**0.5 * model.token_embedding[word]
            stack.append(("token", vector, _push(model, vector, state)))
            next_word += 1
        elif action == REDUCE:
            children = []
            while stack[-1][0] != "open":
                children.append(stack.pop()[1])
            label = stack.pop()[1]
            below = stack[-1][2] if stack else empty
            if stack:  # the constituent TOP is never looked at
                vector = _compose(model, label, children[::-1])
                stack.append(("constituent", vector, _push(model, vector, below)))
        else:
            label = action - FIRST_NT
            vector = model.config.embed_dim**0.5 * model.nt_embedding[label]
            stack.append(("open", label, _push(model, vector, state)))
    return torch.stack(action_log_probs), torch.stack(token_log_probs)


def _action_log_prob(model: Rnng, u: Tensor, stack: list, action: int, *, ended: bool) -> Tensor:
    if not stack:
        valid = [FIRST_NT]
    elif ended:
        valid = [REDUCE]
    else:
        valid = [SHIFT] + [FIRST_NT + label for label in range(1, model.num_labels)]
        num_open = sum(kind == "open" for kind, _, _ in stack)
        if stack[-1][0] != "open" and num_open > 1:
            valid.append(REDUCE)
    assert action in valid
    if len(valid) == 1:
        return u.sum() * 0.0
    scores = model.action_head(u)
    columns = [a if a < FIRST_NT else a - 1 for a in valid]
    return scores[columns].log_softmax(0)[valid.index(action)]


def _push(model: Rnng, vector: Tensor, state: State) -> State:
    pushed = []
    for layer, (hidden, cell) in zip(model.stack, state, strict=True):
        gates = layer.input.weight @ vector + layer.input.bias + layer.recurrent.weight @ hidden
        pushed.append(_lstm(gates, cell))
        vector = pushed[-1][0]
    return pushed


def _compose(model: Rnng, label: int, children: list[Tensor]) -> Tensor:
    module = model.composition
    ends = []
    for direction, order in enumerate((children, children[::-1])):
        hidden = cell = torch.zeros_like(module.label_embedding[0])
        for vector in [module.label_embedding[label], *order]:
            gates = vector @ module.input_weight[direction] + module.bias[direction, 0]
            gates = gates + hidden @ module.recurrent_weight[direction]
            hidden, cell = _lstm(gates, cell)
        ends.append(hidden)
    return torch.tanh(module.output.weight @ torch.cat(ends) + module.output.bias)


def _lstm(gates: Tensor, cell: Tensor) -> tuple[Tensor, Tensor]:
    size = len(cell)
    i, f, g, o = (gates[n * size : (n + 1) * size] for n in range(4))
    cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
    return torch.sigmoid(o) * torch.tanh(cell), cell
