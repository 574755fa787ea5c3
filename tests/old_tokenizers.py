"""Make tokenizers as older versions wrote them. These files must stay usable."""

import json

from pipeline.corpus.dataset.tokenizer import json_bytes


def old_form(data: bytes) -> bytes:
    """Return a ``tokenizer.json`` of train-tokenizer in its old form.

    It puts a space before every text, even if the text begins with a space, and its decoder removes the space.
    """
    content = json.loads(data)
    strip = {"type": "Strip", "content": " ", "start": 1, "stop": 0}
    content["decoder"] = {"type": "Sequence", "decoders": [content["decoder"], strip]}
    content["normalizer"] = {"type": "Prepend", "prepend": " "}
    return json_bytes(content)
