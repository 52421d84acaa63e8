"""The hook for augmentation: a user's function from one training example to the examples that take its place."""

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from tunelab.data.records import Conversation, Example, Passage, TokenSequence
from tunelab.errors import ConfigError, DataError, first_line

Augment = Callable[[Example], list[Example]]


def load_augmentation(reference: str | None) -> Augment | None:
    """Load `<file.py>:<function>`. The function is called with each training example that stays, and returns a list.

    It must be deterministic: prepared data is kept and used again. Raises ConfigError where there is no such file or
    function; the returned function raises DataError, quoting the origin, where the user's fails or returns anything but
    examples.
    """
    if reference is None:
        return None
    file, name = _parts(reference)
    specification = importlib.util.spec_from_file_location(f"tunelab_augmentation_{file.stem}", file)
    assert specification is not None
    assert specification.loader is not None
    module = importlib.util.module_from_spec(specification)
    try:
        specification.loader.exec_module(module)
    except (Exception, SystemExit) as error:  # whatever the user's file raises
        raise ConfigError(f"data.augment: {str(file)!r} cannot be loaded ({_shown(error)}); mend the file.") from error
    function = getattr(module, name, None)
    if not callable(function):
        raise ConfigError(f"data.augment: expected a function {name!r} in {str(file)!r}, found none; set data.augment.")
    return _checked(cast(Callable[[Example], Any], function), reference)


def augmentation_fingerprint(reference: str | None) -> str | None:
    """SHA-256 of the file that `reference` names; None without one."""
    return None if reference is None else hashlib.sha256(_parts(reference)[0].read_bytes()).hexdigest()


def _parts(reference: str) -> tuple[Path, str]:
    file, colon, name = reference.rpartition(":")
    if not colon or not name.isidentifier() or not file.endswith(".py"):
        raise ConfigError(
            f"data.augment: expected <file.py>:<function>, found {reference!r}; for example data.augment=swap.py:swap."
        )
    if not Path(file).is_file():
        raise ConfigError(f"data.augment: no file {file!r} (looked for {Path(file).absolute()}); set data.augment.")
    return Path(file), name


def _checked(function: Callable[[Example], Any], reference: str) -> Augment:
    def augment(example: Example) -> list[Example]:
        try:
            result = function(example)
        except (Exception, SystemExit) as error:  # whatever the user's function raises
            raise DataError(
                f"{example.origin}: data.augment={reference} failed on this example ({_shown(error)}); mend it."
            ) from error
        if not isinstance(result, list) or not all(
            isinstance(item, Conversation | Passage | TokenSequence) for item in cast("list[Any]", result)
        ):
            raise DataError(
                f"{example.origin}: expected a list of examples from data.augment={reference}, found "
                f"{type(result).__name__}; return [example, …]."
            )
        return cast("list[Example]", result)

    return augment


def _shown(error: BaseException) -> str:
    return f"{type(error).__name__}: {first_line(error)}"
