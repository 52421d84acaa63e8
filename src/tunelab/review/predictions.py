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


def open_predictions(config: PredictionsConfig) -> tuple[Path, list[str], list[Reviewed]]:
    """The folder of the (first) file of `config`, the models that it chooses, and what they wrote.

    Raises:
        TunelabError: a file cannot be used, or has no such model.
    """
    paths = [Path(path) for path in config.predictions]
    if config.run is not None:
        paths = [Path(config.run) / predictions_file(config.split.value)]
    models, examples = read_predictions(paths)
    unknown = [name for name in config.models if name not in models]
    twice = len(set(config.models)) < len(config.models)
    if unknown or twice or len(config.models) == 1:
        found = f"no {unknown[0]!r}" if unknown else "one twice" if twice else "one"
        raise ConfigError(
            f"models: expected two or more of {', '.join(models)}, found {found}; set models=[<name>,<name>]."
        )
    names = config.models or models
    kept = [replace(each, written={name: each.written[name] for name in names}) for each in examples]
    return paths[0].parent, list(names), kept


def read_predictions(paths: Sequence[Path]) -> tuple[list[str], list[Reviewed]]:
    """The models, in the order of the files, and the examples that all of them completed, in the order of the first.

    Where several files have a model of one name, it is taken once if it wrote the same in both (a base model that two
    runs share), and otherwise named after its folder too.

    Raises:
        DataError: a file is missing or damaged, holds fewer than two models in all, or they share no example.
    """
    models: dict[str, dict[_Key, tuple[Reviewed, Written]]] = {}
    for path in paths:
        for name, found in _read(path).items():
            parents = path.absolute().parent.parts[1:]
            names = [name, *("/".join((*parents[-depth:], name)) for depth in range(1, len(parents) + 1))]
            free = next((each for each in names if each not in models or _say_the_same(models[each], found)), None)
            if free is None:
                raise DataError(f"{path}: expected each file once, found it twice; remove one from predictions.")
            models[free] = found
    where = ", ".join(str(path) for path in paths)
    if len(models) < 2:
        raise DataError(
            f"{where}: expected what two or more models wrote, found {', '.join(models) or 'none'}; measure both "
            "(evaluation.base=true), or name several files: predictions=[<file>,<file>]."
        )
    first, *others = models.values()
    shared = [key for key in first if all(key in other for other in others)]
    if not shared:
        raise DataError(f"{where}: expected models measured on the same examples, found none that all completed.")
    examples = [
        replace(first[key][0], written={name: found[key][1] for name, found in models.items()}) for key in shared
    ]
    return list(models), examples


_Key = tuple[str, str, str, int]  # id, prompt, reference, and which of those that are alike


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
        except (ValueError, TypeError, KeyError) as error:
            raise DataError(
                f"{path}:{number}: expected a JSON object with id, model, prompt, reference, completion and finished, "
                "found another line; evaluate again."
            ) from error


def _scores(values: Any) -> dict[str, float]:
    return {str(name): float(value) for name, value in dict(values or {}).items()}


def _say_the_same(one: Mapping[_Key, tuple[Reviewed, Written]], other: Mapping[_Key, tuple[Reviewed, Written]]) -> bool:
    return one.keys() == other.keys() and all(one[key][1].completion == other[key][1].completion for key in one)
