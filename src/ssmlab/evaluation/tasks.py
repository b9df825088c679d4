"""Zero-shot tasks from JSON lines. The fields of the first line tell the kind.

| kind | fields | asked |
|---|---|---|
| last word | text | the last word after all before it (LAMBADA, arXiv 1606.06031) |
| multiple choice | query, choices, gold | which choice follows the query best |
| contexts | context_options, continuation, gold | after which context the continuation fits best |
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from ssmlab.core.errors import DataError

Kind = Literal["last word", "multiple choice", "contexts"]
_FIELDS: dict[Kind, tuple[str, ...]] = {
    "contexts": ("context_options", "continuation", "gold"),
    "multiple choice": ("query", "choices", "gold"),
    "last word": ("text",),
}


@dataclass(frozen=True)
class Item:
    """One question: pairs of context and continuation, of which ``gold`` is the right one.

    Attributes:
        pairs: texts; the space between them begins the continuation.
        gold: index into ``pairs``.
        lengths: characters of each answer, for the length-normalised accuracy.
    """

    pairs: tuple[tuple[str, str], ...]
    gold: int
    lengths: tuple[int, ...]


@dataclass(frozen=True)
class Task:
    """Questions of one file.

    Attributes:
        name: shown in results.
        kind: what is asked.
        items: the questions, in the file's order.
    """

    name: str
    kind: Kind
    items: tuple[Item, ...]


def load_task(path: str | Path, name: str | None = None, limit: int | None = None) -> Task:
    """Read a task.

    Args:
        path: a file of JSON lines with the fields of one of the kinds above.
        name: the file's name without its ending, unless given.
        limit: the first so many questions alone.

    Raises:
        DataError: it cannot be read, has no questions, or a line is not of the kind.
    """
    path = Path(path).expanduser()
    kind: Kind | None = None
    items: list[Item] = []
    try:
        with open(path, encoding="utf-8") as file:
            for number, line in enumerate(file, start=1):
                if limit is not None and len(items) >= limit:
                    break
                if not line.strip():
                    continue
                where = f"{path}, line {number}"
                row = _row(line, where)
                kind = kind or _kind(row, where)
                items.append(_item(kind, row, where))
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"cannot read the task {path}: {error}; give a file of JSON lines"
        ) from error
    if kind is None:
        raise DataError(f"{path} has no questions; give a file with one JSON object a line")
    return Task(name or path.stem, kind, tuple(items))


def _row(line: str, where: str) -> Mapping[str, Any]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise DataError(f"{where}: not JSON ({error}); give one JSON object a line") from error
    if not isinstance(row, dict):
        raise DataError(f"{where}: expected a JSON object, got {type(row).__name__}")
    return row


def _kind(row: Mapping[str, Any], where: str) -> Kind:
    for kind, fields in _FIELDS.items():
        if all(field in row for field in fields):
            return kind
    known = "; ".join(f"{', '.join(fields)} ({kind})" for kind, fields in _FIELDS.items())
    raise DataError(f"{where}: fields {', '.join(row)} are of no known task; expected {known}")


def _item(kind: Kind, row: Mapping[str, Any], where: str) -> Item:
    try:
        if kind == "last word":
            return _last_word(_text(row["text"]))
        gold = row["gold"]
        if kind == "contexts":
            contexts = [_text(text) for text in row["context_options"]]
            answer = _text(row["continuation"])
            pairs = tuple((context, " " + answer) for context in contexts)
            lengths = (len(answer),) * len(contexts)
        else:
            context = _question(_text(row["query"]))
            choices = [_text(text) for text in row["choices"]]
            pairs = tuple((context, " " + choice) for choice in choices)
            lengths = tuple(len(choice) for choice in choices)
        if isinstance(gold, bool) or not isinstance(gold, int) or not 0 <= gold < len(pairs):
            raise ValueError(f"gold is {gold!r}, expected 0 to {len(pairs) - 1}")
        if any(not context for context, _ in pairs) or any(not length for length in lengths):
            raise ValueError("an empty context or answer")
    except (KeyError, TypeError, ValueError) as error:
        raise DataError(f"{where}: not a question of kind '{kind}': {error}") from error
    return Item(pairs, gold, lengths)


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _last_word(text: str) -> Item:
    context, space, word = text.rstrip().rpartition(" ")
    if not space or not context:
        raise ValueError("expected at least two words")
    return Item(((context, " " + word),), 0, (len(word),))


def _question(query: str) -> str:
    """A query that asks is followed by a line for the answer; any other is simply gone on with."""
    query = query.rstrip()
    return f"{query}\nAnswer:" if query.startswith("Question:") else query
