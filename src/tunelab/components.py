"""Builds the few objects whose class is itself the choice (`_target_`), from listed packages only.

A configuration file is data: a target outside these packages, or of another kind than the slot holds, is refused
before anything is imported. Nothing else in a configuration can name code.
"""

import importlib
import inspect
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from tunelab.errors import ConfigError, first_line
from tunelab.suggesting import did_you_mean

T = TypeVar("T")

ALLOWED_MODULES = {
    "peft": ("peft",),
    "optim.optimizer": ("torch.optim", "bitsandbytes.optim", "transformers.optimization", "schedulefree"),
    "optim.rest": ("torch.optim", "bitsandbytes.optim", "transformers.optimization", "schedulefree"),
    "logger": ("pytorch_lightning.loggers",),
}

TRUTHS = {"yes": "true", "on": "true", "no": "false", "off": "false"}  # texts for Hydra, and any text is true in Python


def resolve_target(target: str, slot: str, kind: type[T]) -> type[T]:
    """Return the class `target` names for `slot`.

    Raises:
        ConfigError: the target is not `<listed module>.<Class>`, does not exist, is no `kind`, or lacks its package.
    """
    allowed = ALLOWED_MODULES[slot]
    module_name, _, class_name = target.rpartition(".")
    if module_name not in allowed or not class_name.isidentifier():
        raise ConfigError(
            f"{slot}._target_: expected a class of {' or '.join(allowed)}, found {target!r}; "
            f"set {slot}._target_={allowed[0]}.<Class>."
        )
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        name = error.name or module_name
        raise ConfigError(
            f"{slot}._target_: {target} needs the package {name!r}, found not installed; pip install {name}."
        ) from error
    found = getattr(module, class_name, None)
    if not (inspect.isclass(found) and issubclass(found, kind) and not inspect.isabstract(found)):
        known = [n for n in dir(module) if inspect.isclass(c := getattr(module, n, None)) and issubclass(c, kind)]
        hint = did_you_mean(class_name, known)
        raise ConfigError(f"{slot}._target_: {target!r} is no {kind.__name__} of {module_name}{hint or '.'}")
    return found


def build_component(node: Mapping[str, Any], slot: str, kind: type[T], *args: Any, **extra: Any) -> T:
    """Call the class that `node["_target_"]` names with the other keys of `node`, after `args` and `extra`.

    Raises:
        ConfigError: the target is refused, or one of the keys is no argument of the class.
    """
    cls = resolve_target(str(node.get("_target_")), slot, kind)
    given = {key: value for key, value in node.items() if key != "_target_"}
    parameters = inspect.signature(cls).parameters
    open_ended = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    for key in given:
        if key not in parameters and not open_ended:
            hint = did_you_mean(key, list(parameters))
            raise ConfigError(f"{slot}.{key}: {cls.__name__} has no such argument{hint or '; remove it.'}")
        meant = TRUTHS.get(str(given[key]).lower())
        if meant and key in parameters and isinstance(parameters[key].default, bool):
            raise ConfigError(f"{slot}.{key}: expected true or false, found {given[key]!r}; set {slot}.{key}={meant}.")
    try:
        return cls(*args, **extra, **given)
    except ImportError as error:
        raise ConfigError(f"{slot}: {cls.__name__} needs a package that is missing: {first_line(error)}.") from error
    except Exception as error:  # whatever another package raises for a value that the user set
        built = (lambda rest: cls(*args, **extra, **rest)) if slot != "logger" else None  # which may write files
        raise ConfigError(_refused(slot, cls, given, first_line(error), built)) from error


def _refused(
    slot: str, cls: type[Any], given: Mapping[str, Any], reason: str, build: Callable[[Mapping[str, Any]], Any] | None
) -> str:
    """One sentence for arguments that a class refuses: with the one it is about, where that can be told, and its own.

    It is the one that `reason` names, or without which the class can be built.
    """
    named = [key for key in given if re.search(rf"\b{re.escape(key)}\b", reason)]
    culprits = named or ([key for key in given if _works(build, given, key)] if build else [])
    if len(culprits) != 1:
        keys = ", ".join(f"{slot}.{key}" for key in culprits or given) or f"{slot}._target_"
        return f"{slot}: {cls.__name__} refused its arguments ({reason}); change or remove {keys}."
    [key] = culprits
    usual = inspect.signature(cls).parameters[key].default if key in inspect.signature(cls).parameters else None
    shown = f"[{','.join(map(str, usual))}]" if isinstance(usual, list | tuple) else usual
    is_value = usual is not None and usual is not inspect.Parameter.empty
    return f"{slot}.{key}: {cls.__name__} refused its arguments, found {given[key]!r} ({reason}); set " + (
        f"'{slot}.{key}={shown}', its own." if is_value else f"{slot}.{key}=<value>, or remove it."
    )


def _works(build: Callable[[Mapping[str, Any]], Any], given: Mapping[str, Any], key: str) -> bool:
    try:
        build({name: value for name, value in given.items() if name != key})
    except Exception:  # whatever another package raises
        return False
    return True
