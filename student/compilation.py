"""``--compile``: the student's Transformer through ``torch.compile``, everything else as it was.

Only embeddings, blocks and the last normalisation are compiled, in place: parameters keep their names, so checkpoints
are those of a run that is not compiled, and either goes on from the other's. The loss over the vocabulary stays
outside, a function with a backward pass of its own. Shapes are dynamic from the first batch on, because row lengths
differ from batch to batch: there is a graph for training and one for dev, and one more of each where a batch has a
single row.

Sums are taken in another order, so losses are those of the plain model but for rounding; with dropout they are others,
because generated code draws its own numbers, from the same seeds.
"""

import torch
from torch._dynamo.exc import TorchDynamoException

from storage.errors import ConfigError
from student.model import Student


def compile_transformer(model: Student, device: torch.device) -> None:
    """Have the model's Transformer compiled when it is first called.

    Raises:
        ConfigError: If nothing can be compiled for ``device`` here, which a function of one line is tried with.
    """
    try:
        torch.compile(torch.neg, dynamic=True)(torch.zeros(3, device=device))
    except TorchDynamoException as error:
        reason = next(iter(str(error).splitlines()), "") or type(error).__name__
        needed = "a C++ compiler (g++, or one that CXX names)" if device.type == "cpu" else "Triton and a C compiler"
        raise ConfigError(
            f"--compile: torch compiles nothing for {device.type} on this machine ({reason}); it needs {needed}: "
            "install that, or leave --compile out"
        ) from error
    model.transformer.compile(dynamic=True)
