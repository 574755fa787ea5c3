"""The floor of the teacher's arithmetic: floating-point operations that are left after sharing and caching.

Counted are matrix products, two operations a multiplication and addition; point-wise work is not, so no program reaches
the floor. What the model computes once is counted once: the recurrent product of a state for all that is pushed onto
it, the first step of a composition for all constituents of a label, and in inference the input products of tokens and
nonterminals, which are taken once a vocabulary and not counted at all. Training is three times the forward pass: the
gradients of inputs and of weights are one product each.

For the top-down strategy with the BiLSTM. Shape letters as in ``teacher.levels``; D embedding, H hidden, V vocabulary.
"""

from teacher.levels import Schedule
from teacher.rnng import Rnng


def training_flops(model: Rnng, schedule: Schedule) -> float:
    """Return the operations of one forward and backward pass."""
    dim, hidden = model.config.embed_dim, model.config.hidden_dim
    num_children = sum(level.children.shape[1] for level in schedule.compositions)
    num_values = len(schedule.tokens) + schedule.num_constituents
    # Every child is read once forward and once backward; a product for each node and direction.
    composition = _product(num_values, dim, 8 * dim) + 2 * _product(num_children, dim, 4 * dim)
    labels = _product(model.num_labels, dim, 8 * dim)
    first = _product(len(schedule.inputs), dim, 4 * hidden)
    return 3 * (composition + labels + _composed(model, schedule) + first + _shared(model, schedule))


def inference_flops(model: Rnng, schedule: Schedule) -> float:
    """Return the operations of the states and logits of all positions, inputs cached."""
    dim, hidden = model.config.embed_dim, model.config.hidden_dim
    num_children = sum(level.children.shape[1] for level in schedule.compositions)
    composition = _product(schedule.num_constituents, dim, 8 * dim) + 2 * _product(num_children, dim, 4 * dim)
    first = _product(schedule.num_constituents, dim, 4 * hidden)
    actions = _product(len(schedule.inputs), hidden, model.action_head.out_features)
    return composition + _composed(model, schedule) + first + _shared(model, schedule) - actions


def _shared(model: Rnng, schedule: Schedule) -> float:
    """Return the operations of the stack but for its first layer's inputs, of the actions and of the vocabulary."""
    dim, hidden, layers = model.config.embed_dim, model.config.hidden_dim, model.config.num_layers
    num_rows, num_positions = len(schedule.inputs), len(schedule.gold)
    num_parents = sum(len(level.parents) for level in schedule.stack)
    stack = (layers - 1) * _product(num_rows, hidden, 4 * hidden) + layers * _product(num_parents, hidden, 4 * hidden)
    actions = _product(num_rows, hidden, model.action_head.out_features)
    projection = _product(num_positions, hidden, dim) if hidden != dim else 0
    return stack + actions + projection + _product(num_positions, dim, model.vocab_size)


def _composed(model: Rnng, schedule: Schedule) -> float:
    return _product(schedule.num_constituents, 2 * model.config.embed_dim, model.config.embed_dim)


def _product(rows: int, inner: int, columns: int) -> float:
    return 2.0 * rows * inner * columns
