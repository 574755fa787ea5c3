"""Dump a causal language model of the library transformers, from a Hugging Face folder, as if it were a teacher.

``--teacher`` names the folder in place of a run directory. The dataset must be built with the model's tokenizer, which
``adopt-tokenizer`` converts. The model reads ``<bos>`` and the tokens of a sentence, and predicts the tokens and
``<eos>``. If its output layer has more rows than the tokenizer has entries, the distribution is renormalised over the
entries of the tokenizer.

No code of the folder is executed. Weights are read only from safetensors files and converted to float32.

Shape letters: M sentences, L positions of the longest sentence, P positions of all sentences, D state size, R any
number of rows, V entries of the tokenizer.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import safetensors
import tokenizers
import torch
from torch import Tensor

from pipeline.corpus.dataset.adopt_tokenizer import adopted_tokenizer
from pipeline.corpus.dataset.dataset_store import Dataset
from pipeline.corpus.dataset.tokenizer import Tokenizer
from pipeline.dumping.dump_config import Condition
from pipeline.dumping.dump_source import ModelAndSearch
from pipeline.dumping.grouped_by_length import GroupedByLength
from storage.errors import FingerprintMismatchError, InputError
from storage.fingerprints import canonical_json, sha256_bytes, sha256_file
from storage.json_files import names_code
from storage.ragged import Ragged

_CODE = ("config.json", "tokenizer_config.json")
"""Files in which the key ``auto_map`` can name Python code of the folder."""
_TEXT_TO_IDS = ("normalizer", "pre_tokenizer", "model", "decoder")
"""The parts of a tokenizer.json that decide the ids of a text."""


class CausalLmSource:
    """A folder in Hugging Face's format as a ``DumpSource``. Its distributions are p(w | x_<t), given the words so far.

    Raises:
        InputError: If a file is missing or damaged, the model needs code of its own, or it is only an adapter.
    """

    kind = "a folder in Hugging Face's format"
    run = None
    conditions: tuple[Condition, ...] = ("none",)

    def __init__(self, path: Path) -> None:
        self.path = path
        for name in _CODE:
            if (path / name).is_file() and names_code(path / name, remedy="save the model again, or fetch the file"):
                raise InputError(
                    f"{path / name}: has auto_map, so the model needs code of its own, which is never run. Give a "
                    "model that is part of transformers"
                )
        if (path / "adapter_config.json").is_file():
            raise InputError(f"{path}: holds an adapter. Merge it into its model, and save the whole model")
        self._weights = sorted(path.glob("*.safetensors*"))
        missing = [] if (path / "tokenizer.json").is_file() else ["tokenizer.json"]
        if missing := missing + ([] if self._weights else ["*.safetensors"]):
            raise InputError(
                f"{path}: no {' and no '.join(missing)}, expected a folder as save_pretrained writes it. Save the "
                "model with safetensors, and its fast tokenizer"
            )

    def fingerprint(self) -> str:
        """Return the sha256 of the configuration and the weights."""
        files = [self.path / "config.json", *self._weights]
        return sha256_bytes(canonical_json({file.name: sha256_file(file) for file in files}))

    def check_reads(self, dataset: Dataset, split: str) -> None:
        """Check that the model fits a split: the tokenizer, the vocabulary size and the lengths of the sentences."""
        ours = dataset.tokenizer
        try:
            theirs = adopted_tokenizer(self.path / "tokenizer.json", bos=ours.bos_id, eos=ours.eos_id)
        except InputError as error:
            raise FingerprintMismatchError(
                f"{dataset.location}: its tokenizer cannot be that of {self.path} ({error})"
            ) from error
        if different := [part for part, of in _text_to_ids(theirs).items() if of != _text_to_ids(ours)[part]]:
            raise FingerprintMismatchError(
                f"{dataset.location}: its tokenizer differs from that of {self.path} in {', '.join(different)}. "
                f"Convert {self.path / 'tokenizer.json'} with adopt-tokenizer, and build the dataset with it"
            )
        config = self._config()
        if config.vocab_size < ours.vocab_size:
            raise InputError(
                f"{self.path}: the model's vocabulary has {config.vocab_size} entries, but its tokenizer has "
                f"{ours.vocab_size}. They belong to different models. Fetch both again"
            )
        lengths, most = dataset.split(split).tokens.lengths + 1, getattr(config, "max_position_embeddings", None)
        if most is not None and len(lengths) and lengths.max() > most:
            sentence = int(lengths.argmax())
            raise InputError(
                f"{dataset.location}: sentence {sentence} of split {split} has {lengths[sentence]} positions, but "
                f"{self.path} reads at most {most}. Build the dataset without longer sentences "
                f"(this split has {np.count_nonzero(lengths > most)}), or give a model that reads more"
            )

    def load(self, dataset: Dataset, condition: Condition, device: torch.device) -> ModelAndSearch:  # noqa: ARG002
        """Return the model, and the version of transformers, which the dump records."""
        transformers = _transformers()
        options = {"trust_remote_code": False, "use_safetensors": True, "local_files_only": True}
        try:
            loaded, about = transformers.AutoModelForCausalLM.from_pretrained(
                self.path, **options, output_loading_info=True
            )
        except (OSError, ValueError, RuntimeError, KeyError, ImportError, safetensors.SafetensorError) as error:
            raise self._unreadable(error) from error
        if lacking := sorted(map(str, [*about["missing_keys"], *about["mismatched_keys"]])):
            raise InputError(
                f"{self.path}: {lacking[0]} is missing or has another shape ({len(lacking)} such weights). The weights "
                "belong to another config.json, or the model has no head for the next token. Save the whole model again"
            )
        tokenizer = dataset.tokenizer
        model = CausalLm(
            loaded.float().to(device).eval(), vocab_size=tokenizer.vocab_size, bos_id=tokenizer.bos_id, path=self.path
        )
        return GroupedByLength(model), {"transformers": transformers.__version__}

    def _config(self) -> Any:  # noqa: ANN401  a class of transformers
        try:
            config = _transformers().AutoConfig.from_pretrained(
                self.path, trust_remote_code=False, local_files_only=True
            )
        except (OSError, ValueError, KeyError) as error:
            raise self._unreadable(error) from error
        return config.get_text_config()

    def _unreadable(self, error: Exception) -> InputError:
        reason = next(iter(str(error).strip().splitlines()), "") or type(error).__name__
        return InputError(
            f"{self.path}: transformers cannot load it as a causal language model ({reason}). Give a folder that "
            "AutoModelForCausalLM loads, saved with safetensors"
        )


class CausalLm:
    """A causal language model of transformers as a ``NextTokenModel``.

    The state of a position is the input of the output layer. If the model changes the output of this layer, for example
    caps the logits, the state is the row of logits. This takes more memory.

    Args:
        model: The model, on its device and in evaluation mode.
        vocab_size: V: the number of entries of the tokenizer.
        bos_id: Id of ``<bos>``.
        path: The folder, for errors.

    Raises:
        InputError: If a later word changes the distribution at an earlier position.
    """

    def __init__(self, model: Any, *, vocab_size: int, bos_id: int, path: Path) -> None:  # noqa: ANN401
        self._model = model
        self._bos_id = bos_id
        self.vocab_size = vocab_size
        probe = torch.tensor([[bos_id, 1, 2, 3], [bos_id, 1, 2, 4]], device=model.device) % vocab_size
        mask = torch.ones_like(probe)
        with torch.no_grad():
            logits = self._run(self._model, probe, mask).logits
            before = logits[:, :3].log_softmax(2)
            if not torch.allclose(before[0], before[1], atol=1e-4):
                raise InputError(
                    f"{path}: the distributions depend on later words, so this is not a causal language model. Give a "
                    "model that predicts the next token from the tokens before it"
                )
            head = model.get_output_embeddings()
            hidden = getattr(self._run(model.base_model, probe, mask), "last_hidden_state", None)
            is_plain = head is not None and hidden is not None and torch.equal(head(hidden), logits)
        self._head = head if is_plain else None

    def prepare(self, tokens: Ragged, actions: Ragged | None) -> tuple[Tensor, Tensor]:  # noqa: ARG002  no trees
        """Return rows of token ids and a mask, int64 ``[M, L]`` each. The mask is 0 at padding and 1 elsewhere."""
        lengths = tokens.lengths + 1
        is_valid = np.arange(int(lengths.max(initial=1))) < lengths[:, None]
        rows = np.full(is_valid.shape, self._bos_id, np.int64)
        rows[is_valid] = np.insert(tokens.values.astype(np.int64), tokens.offsets[:-1], self._bos_id)
        return torch.from_numpy(rows), torch.from_numpy(is_valid.astype(np.int64))

    def states(self, inputs: tuple[Tensor, Tensor]) -> Tensor:
        """Return the states ``[P, D]`` of all positions, sentence by sentence."""
        rows, mask = (each.to(self._model.device) for each in inputs)
        if self._head is None:
            found: Tensor = self._run(self._model, rows, mask).logits
        else:
            found = self._run(self._model.base_model, rows, mask).last_hidden_state
        return found[mask.bool()]

    def logits(self, states: Tensor) -> Tensor:
        """Return ``[R, V]`` unnormalised log-probabilities of the tokenizer's entries for ``[R, D]`` states."""
        logits: Tensor = states if self._head is None else self._head(states)
        return logits[:, : self.vocab_size]

    @staticmethod
    def _run(model: Any, rows: Tensor, mask: Tensor) -> Any:  # noqa: ANN401  classes of transformers
        return model(input_ids=rows, attention_mask=mask, use_cache=False)


def _transformers() -> Any:  # noqa: ANN401  a module
    import transformers  # noqa: PLC0415  an extra installs it

    library: Any = transformers
    library.utils.logging.set_verbosity_error()
    library.utils.logging.disable_progress_bar()
    return library


def _text_to_ids(tokenizer: Tokenizer) -> dict[str, Any]:
    """Return the parts ``_TEXT_TO_IDS`` of a tokenizer, as the library tokenizers writes them."""
    content = json.loads(tokenizers.Tokenizer.from_str(tokenizer.data.decode()).to_str())
    return {part: content.get(part) for part in _TEXT_TO_IDS}
