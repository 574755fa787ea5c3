"""``import-trees``: any bracketed treebank with its raw text to STEM.mrg and STEM.txt, normalised and line-aligned."""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import IO

from pipeline.corpus.documents import SUFFIX, read_documents
from pipeline.corpus.matching import escape_brackets
from pipeline.corpus.readers import Counts, Sentence, read_sentences
from pipeline.corpus.text import OnError
from pipeline.corpus.trees import Tree, format_tree
from storage.errors import ConfigError, InputError, StoreError
from storage.files import PARTIAL_SUFFIX, fsync_directory, make_directory
from storage.fingerprints import Json


def import_trees(
    sources: Sequence[Path],
    out_stem: Path,
    *,
    texts: Sequence[Path],
    documents: Sequence[Path] = (),
    on_error: OnError = "stop",
    progress: Callable[[int], None] | None = None,
) -> dict[str, Json]:
    """Write ``OUT.mrg``, one normalised tree a line, its text in ``OUT.txt`` and its document in ``OUT.docs``.

    The words of a written tree are the characters of the text, round brackets escaped, so importing what was imported
    changes nothing. All files appear whole or not at all; what was there is replaced.

    Args:
        sources: Files of trees, plain or gzipped, in this order.
        out_stem: OUT; its folder is made.
        texts: One file of text for each source.
        documents: One file for each source, a document's name for each tree; or none: there is no ``OUT.docs`` then.
        on_error: "stop" at the first line that is not a tree or not UTF-8, or "skip" and count it.
        progress: Called with the number of trees read since the last call.

    Returns:
        ``num_trees``, ``num_kept``, ``dropped`` and ``repaired`` by reason.

    Raises:
        ConfigError: If there are not as many texts, or documents if any, as sources, or an output would replace an
            input.
        InputError: Naming file and line where there is one; also if no sentence is left.
        StoreError: If the files cannot be written.
    """
    outputs = _outputs(sources, out_stem, texts, documents)
    counts = Counts()
    last = None
    with written_whole(outputs) as (mrg, txt, *docs):
        for number, (source, text) in enumerate(zip(sources, texts, strict=True)):
            before, kept = counts.num_trees, []
            for sentence in read_sentences(source, text, on_error=on_error, counts=counts):
                mrg.write(format_tree(with_words_of_text(sentence)) + "\n")
                txt.write(sentence.text + "\n")
                kept.append(sentence.number - before)
                if progress is not None:
                    progress(1)
            if documents:
                names = read_documents(documents[number], num_trees=counts.num_trees - before)
                if names[:1] == [last]:
                    raise InputError(
                        f"{documents[number]}:1: document {last!r}, the last one of {documents[number - 1]}; expected "
                        "another name, since a document is a run of lines with the same one"
                    )
                last = names[-1] if names else last
                docs[0].writelines(names[tree] + "\n" for tree in kept)
        if not counts.num_kept:
            raise InputError(
                f"{sources[0]}: no sentence left of {counts.num_trees} trees: {dict(counts.dropped)}; expected trees "
                "with the text of each in the same line of the text file"
            )
    if not documents:
        out_stem.with_name(out_stem.name + SUFFIX).unlink(missing_ok=True)  # of trees that were there before
    return counts.to_json()


def with_words_of_text(sentence: Sentence) -> Tree:
    """Return the sentence's tree with its words spelt as in the text, round brackets escaped."""
    words = tuple(escape_brackets(sentence.text[start:stop]) for start, stop in sentence.spans)
    return Tree(words, sentence.tree.tags, sentence.tree.phrases)


def _outputs(sources: Sequence[Path], out_stem: Path, texts: Sequence[Path], documents: Sequence[Path]) -> list[Path]:
    if len(texts) != len(sources) or not sources:
        raise ConfigError(f"import-trees: {len(texts)} texts for {len(sources)} sources, expected one --text a source")
    if documents and len(documents) != len(sources):
        raise ConfigError(
            f"import-trees: {len(documents)} files of documents for {len(sources)} sources, expected one --documents a "
            "source, or none"
        )
    inputs = {path.resolve() for path in (*sources, *texts, *documents)}
    suffixes = (".mrg", ".txt", *[SUFFIX] * bool(documents))
    outputs = [out_stem.with_name(out_stem.name + suffix) for suffix in suffixes]
    for path in outputs:
        if path.resolve() in inputs:
            raise ConfigError(f"import-trees: {path} is read and would be replaced; give another --out")
    return outputs


@contextmanager
def written_whole(paths: Sequence[Path]) -> Iterator[list[IO[str]]]:
    """Open temporary files, which take the places of ``paths`` if all goes well and are removed if not."""
    folder = paths[0].absolute().parent
    make_directory(folder)
    partial = [path.with_name(f".{path.name}.{os.getpid()}{PARTIAL_SUFFIX}") for path in paths]
    try:
        with ExitStack() as stack:
            files = [stack.enter_context(path.open("w", encoding="utf-8", newline="\n")) for path in partial]
            yield list(files)
            for file in files:
                file.flush()
                os.fsync(file.fileno())
        for path, final in zip(partial, paths, strict=True):
            path.replace(final)
        fsync_directory(folder)
    except OSError as error:
        raise StoreError(
            f"{paths[0]}: cannot be written ({error.strerror}); make room or mend the rights, and run again"
        ) from error
    finally:
        for path in partial:
            path.unlink(missing_ok=True)
