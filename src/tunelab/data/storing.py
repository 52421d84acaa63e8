"""Prepared splits on disk: flat arrays, memory-mapped when read, so that data larger than memory can be trained on."""

import json
from array import array
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, overload

import numpy as np
import numpy.typing as npt
import torch

from tunelab.data.records import Choice, EncodedExample, EvaluationExample, TokenizedExample

_IDS, _MASK, _ENDS, _SUPERVISED = "input_ids.i32", "loss_mask.u8", "ends.i64", "supervised.i64"
_NOTES, _NOTE_ENDS = "notes.json", "note_ends.i64"

_AS_JSON = json.JSONEncoder(ensure_ascii=False)  # json.dumps would make one for each note


class SplitWriter:
    """Appends the examples of one split to files below `folder`, which it makes; memory does not grow with them."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._ends, self._supervised, self._note_ends = array("q"), array("q"), array("q")

    def __enter__(self) -> "SplitWriter":
        self._folder.mkdir()
        with ExitStack() as stack:
            self._ids, self._mask, self._notes = (
                stack.enter_context((self._folder / name).open("wb")) for name in (_IDS, _MASK, _NOTES)
            )
            self._files = stack.pop_all()
        return self

    def add(self, example: EncodedExample, note: Mapping[str, Any]) -> None:
        """Append one example; `note` holds its other values, as JSON: `origin`, and what evaluation needs."""
        self._ids.write(np.ascontiguousarray(example.input_ids, dtype=np.int32).data)
        self._mask.write(np.ascontiguousarray(example.loss_mask, dtype=np.uint8).data)
        self._ends.append((self._ends[-1] if self._ends else 0) + example.num_tokens)
        self._supervised.append(example.num_supervised_tokens)
        text = _AS_JSON.encode(note).encode("utf-8", "surrogatepass")
        self._notes.write(text)
        self._note_ends.append((self._note_ends[-1] if self._note_ends else 0) + len(text))

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._files.close()
        if error is None:
            columns = {_ENDS: self._ends, _SUPERVISED: self._supervised, _NOTE_ENDS: self._note_ends}
            for name, values in columns.items():
                (self._folder / name).write_bytes(values.tobytes())


@dataclass(frozen=True, slots=True)
class _Ragged:
    """Rows of different length in one flat array: row i is `values[ends[i - 1]:ends[i]]`."""

    values: npt.NDArray[Any]
    ends: npt.NDArray[np.int64]

    def __getitem__(self, index: int) -> npt.NDArray[Any]:
        return self.values[int(self.ends[index - 1]) if index else 0 : int(self.ends[index])]


class StoredExamples(Sequence[TokenizedExample]):
    """The tokenized examples of a split that `SplitWriter` wrote; each is read from disk when it is asked for."""

    def __init__(self, folder: Path) -> None:
        ends = _mapped(folder / _ENDS, np.int64)
        self._ids = _Ragged(_mapped(folder / _IDS, np.int32), ends)
        self._mask = _Ragged(_mapped(folder / _MASK, np.uint8), ends)
        self._supervised = _mapped(folder / _SUPERVISED, np.int64)
        self._notes = _Ragged(_mapped(folder / _NOTES, np.uint8), _mapped(folder / _NOTE_ENDS, np.int64))

    @property
    def num_tokens(self) -> npt.NDArray[np.int64]:
        """The length of each example, in tokens."""
        return np.diff(self._ids.ends, prepend=0)

    @property
    def num_supervised_tokens(self) -> npt.NDArray[np.int64]:
        """The number of supervised tokens of each example."""
        return self._supervised

    def note(self, index: int) -> dict[str, Any]:
        """What was stored beside the tokens of an example."""
        return json.loads(self._notes[index].tobytes().decode("utf-8", "surrogatepass"))

    def __len__(self) -> int:
        return self._ids.ends.size

    @overload
    def __getitem__(self, index: int) -> TokenizedExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[TokenizedExample]: ...
    def __getitem__(self, index: int | slice) -> TokenizedExample | list[TokenizedExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        index = _checked(index, len(self))
        return TokenizedExample(
            input_ids=torch.from_numpy(self._ids[index].astype(np.int64)),
            loss_mask=torch.from_numpy(self._mask[index].astype(np.bool_)),
            origin=self.note(index)["origin"],
        )

    def __iter__(self) -> Iterator[TokenizedExample]:
        return (self[index] for index in range(len(self)))


class StoredEvaluation(Sequence[EvaluationExample]):
    """A split that is measured on: tokenized examples with the prompts and references that were stored beside them."""

    def __init__(self, tokenized: StoredExamples) -> None:
        self.tokenized = tokenized

    def __len__(self) -> int:
        return len(self.tokenized)

    @overload
    def __getitem__(self, index: int) -> EvaluationExample: ...
    @overload
    def __getitem__(self, index: slice) -> list[EvaluationExample]: ...
    def __getitem__(self, index: int | slice) -> EvaluationExample | list[EvaluationExample]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        tokenized = self.tokenized[index]
        note = self.tokenized.note(_checked(index, len(self)))
        return EvaluationExample(
            prompt_ids=note["prompt_ids"],
            prompt=note["prompt"],
            response=note["response"],
            tokenized=tokenized,
            origin=tokenized.origin,
            choices=tuple(Choice(*choice) for choice in note.get("choices", ())),
        )


def _mapped(path: Path, dtype: type[np.generic]) -> npt.NDArray[Any]:
    """A read-only view of a file; an empty file cannot be mapped."""
    return np.memmap(path, dtype=dtype, mode="r") if path.stat().st_size else np.zeros(0, dtype=dtype)


def _checked(index: int, length: int) -> int:
    if not -length <= index < length:
        raise IndexError(f"expected an index below {length}, found {index}")
    return index % length
