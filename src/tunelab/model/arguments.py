"""Checks the arguments of a PEFT class against the types that the class declares: dataclasses take any value."""

import types
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from peft import PeftConfig

from tunelab.errors import ConfigError

UNDECLARED = ("lora_ga",)  # starts that PEFT 0.21 has and its annotation of init_lora_weights lacks

NAMES = {bool: "true or false", int: "a number", float: "a number", str: "a text", list: "a list", dict: "a mapping"}


def check_types(config: PeftConfig, given: Mapping[str, Any]) -> None:
    """Refuse values `given` of another type than the class of `config` declares: `no` is a text in Hydra, thus true.

    Raises:
        ConfigError: the first of them, or `inference_mode`, with which nothing would be trained.
    """
    if given.get("inference_mode"):
        raise ConfigError("peft.inference_mode: expected false, since it is to be trained, found true; remove it.")
    declared = get_type_hints(type(config))
    for key, value in given.items():
        kinds = list(_alternatives(declared[key])) if key in declared else []
        if kinds and value is not None and not any(_fits(value, each) for each in kinds):
            expected = " or ".join(dict.fromkeys(map(_said, kinds)))
            raise ConfigError(f"peft.{key}: expected {expected}, found {value!r}; set peft.{key}=<value>.")


def require_names_of_layers(given: Mapping[str, Any]) -> None:
    """PEFT takes `layers_to_transform` beside a list of names alone, and the usual `all-linear` is none.

    Raises:
        ConfigError: there is no list of names.
    """
    targets = given.get("target_modules")
    if given.get("layers_to_transform") is not None and isinstance(targets, str):
        raise ConfigError(
            f"peft.target_modules: expected a list of names beside peft.layers_to_transform, found {targets!r}; set "
            "'peft.target_modules=[<name>,<name>]', as [q_proj,v_proj]."
        )


def _alternatives(declared: Any) -> Iterator[Any]:
    if get_origin(declared) in (Union, types.UnionType):
        for each in get_args(declared):
            yield from _alternatives(each)
    elif get_origin(declared) is Literal:
        yield from get_args(declared)
    elif declared is not type(None):
        yield get_origin(declared) or declared


def _fits(value: Any, declared: Any) -> bool:
    if isinstance(declared, str):  # one of the texts that are allowed; some stand for many, as pissa_niter_[…]
        return isinstance(value, str) and (
            value.lower() in (declared, *UNDECLARED) or ("[" in declared and value.startswith(declared.split("[")[0]))
        )
    if declared in (int, float):  # PEFT says int where a fraction does as well
        return isinstance(value, int | float) and not isinstance(value, bool)
    if declared in (list, tuple):
        return isinstance(value, Sequence) and not isinstance(value, str)
    if declared is dict:
        return isinstance(value, Mapping)
    return isinstance(value, declared) if declared in (bool, str) else True


def _said(declared: Any) -> str:
    if isinstance(declared, str):
        return repr(declared)
    return NAMES.get(declared, str(declared))
