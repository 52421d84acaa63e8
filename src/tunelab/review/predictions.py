"""Reads predictions.jsonl back: the completions of several models, example by example."""

import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from tunelab.config import PredictionsConfig, Split
from tunelab.errors import ConfigError, DataError

MAX_CHARACTERS = 20_000  # of one text, where people see it


@dataclass(frozen=True, slots=True)
class Written:
    """What one model wrote for an example. `finished`: it ended by itself; `scores`: metric → value."""

    completion: str
    finished: bool
    scores: Mapping[str, float]


@dataclass(frozen=True, slots=True)
class Reviewed:
    """One example and what each model wrote for it. `id` is the origin of its row (`test.jsonl:17`)."""

    id: str
    prompt: str
    reference: str
    written: Mapping[str, Written]

    @property
    def are_alike(self) -> bool:
        """Whether all models wrote the same."""
        return len({each.completion for each in self.written.values()}) == 1


def predictions_file(split: str) -> str:
    """The name under which an evaluation of this split, or extra set, leaves its completions."""
    return "predictions.jsonl" if split == Split.test.value else f"predictions-{split}.jsonl"


@dataclass(frozen=True, slots=True)
class Predictions:
    """What several models wrote for the examples that all of them completed.

    `folder` is that of the (first) file; `num_left_out` examples only some of the models completed.
    """

    folder: Path
    models: list[str]
    examples: list[Reviewed]
    num_left_out: int

    @property
    def said(self) -> list[str]:
        """The examples that are left out, in a sentence; nothing where there are none."""
        if not self.num_left_out:
            return []
        count = f"{self.num_left_out:,} of {self.num_left_out + len(self.examples):,} examples"
        return [f"left out     {count}: not all of {', '.join(self.models)} completed them"]


def open_predictions(config: PredictionsConfig) -> Predictions:
    """What the models that `config` chooses wrote.

    Raises:
        TunelabError: a file cannot be used, or has no such model.
    """
    paths = [Path(path) for path in config.predictions]
    if config.run is not None:
        paths = [_file_of_run(Path(config.run), config.split)]
    found = _models_of(paths)
    models = list(found)
    unknown = [name for name in config.models if name not in models]
    twice = len(set(config.models)) < len(config.models)
    if unknown or twice or len(config.models) == 1:
        wrong = f"no {unknown[0]!r}" if unknown else "one twice" if twice else "one"
        raise ConfigError(
            f"models: expected two or more of {', '.join(models)}, found {wrong}; set models=[<name>,<name>]."
        )
    return _together(paths, {name: found[name] for name in config.models or models})


def _file_of_run(folder: Path, split: str) -> Path:
    """Raises DataError where there are predictions of other splits or sets alone."""
    path = folder / predictions_file(split)
    stems = [each.stem for each in sorted(folder.glob("predictions*.jsonl"))]
    there = [stem.removeprefix("predictions").removeprefix("-") or Split.test.value for stem in stems]
    if there and not path.is_file():
        raise DataError(
            f"split: expected one of {', '.join(there)}, whose predictions are in {str(folder)!r}, found {split!r}; "
            f"set split={there[0]}."
        )
    return path


def read_predictions(paths: Sequence[Path]) -> tuple[list[str], list[Reviewed]]:
    """The models, in the order of the files, and the examples that all of them completed, in the order of the first.

    Raises:
        DataError: a file is missing or damaged, holds fewer than two models in all, or they share no example.
    """
    found = _together(paths, _models_of(paths))
    return found.models, found.examples


def _models_of(paths: Sequence[Path]) -> "dict[str, _Written]":
    """What each model wrote, in the order of the files.

    Where several files have a model of one name, it is taken once if it wrote the same in both (a base model that two
    runs share), and otherwise named after its folder too.

    Raises:
        DataError: a file is missing or damaged, or they hold fewer than two models in all.
    """
    models: dict[str, _Written] = {}
    for path in paths:
        for name, found in _read(path).items():
            parents = path.absolute().parent.parts[1:]
            names = [name, *("/".join((*parents[-depth:], name)) for depth in range(1, len(parents) + 1))]
            free = next((each for each in names if each not in models or _say_the_same(models[each], found)), None)
            if free is None:
                raise DataError(f"{path}: expected each file once, found it twice; remove one from predictions.")
            models[free] = found
    if len(models) < 2:
        raise DataError(
            f"{_listed(paths)}: expected what two or more models wrote, found {', '.join(models) or 'none'}; measure "
            "both (evaluation.base=true), or name several files: predictions=[<file>,<file>]."
        )
    return models


def _together(paths: Sequence[Path], models: "Mapping[str, _Written]") -> Predictions:
    """The examples that all of `models` completed, in the order of the first."""
    first, *others = models.values()
    shared = [key for key in first if all(key in other for other in others)]
    if not shared:
        raise DataError(
            f"{_listed(paths)}: expected models measured on the same examples, found none that all completed; choose "
            "others: models=[<name>,<name>]."
        )
    examples = [
        replace(first[key][0], written={name: found[key][1] for name, found in models.items()}) for key in shared
    ]
    num_all = len(set[_Key]().union(*models.values()))
    return Predictions(paths[0].parent, list(models), examples, num_all - len(shared))


def _listed(paths: Sequence[Path]) -> str:
    return ", ".join(str(path) for path in paths)


_Key = tuple[str, str, str, int]  # id, prompt, reference, and which of those that are alike
_Written = Mapping[_Key, tuple[Reviewed, Written]]


def _read(path: Path) -> dict[str, dict[_Key, tuple[Reviewed, Written]]]:
    found: dict[str, dict[_Key, tuple[Reviewed, Written]]] = {}
    seen: Counter[tuple[str, ...]] = Counter()
    for name, example, written in _lines(path):
        place = (name, example.id, example.prompt, example.reference)
        key = (example.id, example.prompt, example.reference, seen[place])
        seen[place] += 1
        found.setdefault(name, {})[key] = (example, written)
    return found


def _lines(path: Path) -> Iterator[tuple[str, Reviewed, Written]]:
    try:
        lines = path.read_text(encoding="utf-8").removesuffix("\n").split("\n")  # U+2028 ends no line of JSON
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"{path}: expected the predictions of an evaluation, found none that can be read; evaluate the run with "
            "evaluation.generate=true, or name the file: predictions=[<file>]."
        ) from error
    for number, line in enumerate(lines if lines != [""] else [], start=1):
        try:
            fields = json.loads(line)
            written = Written(str(fields["completion"]), bool(fields["finished"]), _scores(fields.get("scores")))
            yield (
                str(fields["model"]),
                Reviewed(str(fields["id"]), str(fields["prompt"]), str(fields["reference"]), {}),
                written,
            )
        except (ValueError, TypeError, KeyError, RecursionError) as error:
            raise DataError(
                f"{path}:{number}: expected a JSON object with id, model, prompt, reference, completion and finished, "
                "found another line; evaluate again."
            ) from error


def _scores(values: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in dict(values or {}).items()}


def _say_the_same(one: _Written, other: _Written) -> bool:
    return one.keys() == other.keys() and all(one[key][1].completion == other[key][1].completion for key in one)
