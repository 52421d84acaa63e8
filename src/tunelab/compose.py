"""The Hydra seam: schemas in, a typed plain config out; the only module that knows hydra and omegaconf."""

import dataclasses
import os
import sys
import typing
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

import hydra
from hydra.core.config_store import ConfigStore
from hydra.core.hydra_config import HydraConfig
from hydra.errors import HydraException
from hydra.types import RunMode
from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import ConfigAttributeError, ConfigKeyError, OmegaConfBaseException
from yaml import YAMLError

from tunelab.config import (
    RunConfig,
    Section,
    forget_reads,
    to_plain,
)
from tunelab.errors import ConfigError, Interrupted, TunelabError, first_line, storage_problem
from tunelab.explaining import TAKE_A_WORD, explained, of_another_version, refuse_lone_word
from tunelab.process import interruptible, mend_streams
from tunelab.shorthand import spelled_out
from tunelab.suggesting import explain_unknown_key

if typing.TYPE_CHECKING:
    from tunelab.run import RunFolder

ConfigT = TypeVar("ConfigT", bound=Section)
# Written on top of every saved config so that `--config-path <run folder> --config-name config` type-checks it again.
SAVED_HEADER = """\
defaults:
  - run_schema
  - override hydra/hydra_logging: none
  - override hydra/job_logging: none
  - override hydra/sweeper: grid
  - override hydra/launcher: pool
  - _self_
hydra:
  run: {dir: .}
  sweep: {dir: "${output_dir}/sweeps/${now:%Y-%m-%d}_${now:%H-%M-%S}", subdir: .}
  output_subdir: null
"""


@dataclass(frozen=True, slots=True)
class Invocation:
    """How the command was called: the overrides as typed, and the sweep folder when it is one job of a sweep."""

    overrides: tuple[str, ...]
    sweep_dir: Path | None


def command(
    config_name: str, schema: type[ConfigT]
) -> Callable[[Callable[[ConfigT, Invocation], None]], Callable[[], None]]:
    """Make a Hydra command of a function of (config, invocation).

    Errors a user can mend are printed as one sentence and end the process with exit code 1, in a sweep after its
    other jobs.
    """

    def decorate(task: Callable[[ConfigT, Invocation], None]) -> Callable[[], None]:
        composed = failed = False

        def on_composed(node: DictConfig) -> None:
            nonlocal composed, failed
            composed = True
            invocation = _invocation()
            try:
                task(to_config(node, schema), invocation)
            except TunelabError as error:
                if invocation.sweep_dir is None:
                    _exit(str(error))
                failed = True  # the sweep goes on with its other jobs
                print(f"error: {' '.join(invocation.overrides)}: {error}", file=sys.stderr)

        def run() -> None:
            os.environ["HYDRA_FULL_ERROR"] = "1"  # raise instead of printing: the sentence is ours to write
            mend_streams()
            # This schema and no other: Hydra copies its whole store for every group of the help page.
            name = f"{schema.__name__.removesuffix('Config').lower()}_schema"
            ConfigStore.instance().store(name=name, node=schema)
            try:
                sys.argv[1:] = prepare_arguments(sys.argv[1:], schema)
                main = hydra.main(version_base="1.3", config_path=str(conf_folder()), config_name=config_name)
                with interruptible():
                    main(on_composed)()
                if failed:
                    sys.exit(1)
            except TunelabError as error:
                _exit(str(error))
            except Interrupted as error:
                _exit(str(error), error.exit_code)
            except (HydraException, OmegaConfBaseException) as error:  # before OSError: some are both
                _exit(explain_hydra_error(error, schema))
            except OSError as error:
                problem = storage_problem(error, "a file")
                if problem is None:
                    raise
                _exit(f"{problem}; mend that, and start again.")
            except YAMLError as error:
                _exit(f"--config-name: expected YAML, found a damaged file ({_in_one_line(error)}).")
            except ValueError as error:  # Hydra's own, for a group set to what is no option's name
                if composed:
                    raise
                _exit(first_line(error))

        return run

    return decorate


def conf_folder() -> Path:
    """The configuration groups: beside the script that was started, else those of this repository or package."""
    package = Path(__file__).resolve().parent
    places = (Path(sys.argv[0]).resolve().parent, package.parents[1], package)
    return next((place / "conf" for place in places if (place / "conf" / "train.yaml").is_file()), package / "conf")


def to_config(node: DictConfig, schema: type[ConfigT]) -> ConfigT:
    """Turn a composed node into plain dataclasses.

    Raises:
        ConfigError: a required value is missing, or a rule of the schema is broken.
    """
    missing = sorted(OmegaConf.missing_keys(node))
    if missing:
        raise ConfigError(f"{missing[0]}: expected a value, found none; set {missing[0]}=<value>.")
    config = OmegaConf.to_object(node)
    if not isinstance(config, schema):
        raise ConfigError(
            "--config-name: expected a configuration whose defaults begin with the schema, as the config.yaml of a run "
            "folder does, found one without."
        )
    forget_reads(config)  # building the tree read its values; from here on reading means using
    return config


def load_config(path: Path, changes: Sequence[str] = ()) -> RunConfig:
    """Read the `config.yaml` of a run folder back, type-checked against the schema, with `changes` (`key=value`).

    Raises:
        ConfigError: there is no such file, or it does not fit the schema.
    """
    if not path.is_file():
        raise ConfigError(f"{path}: expected the config.yaml of a run folder, found no such file.")
    try:
        saved = OmegaConf.load(path)
        if not isinstance(saved, DictConfig):
            raise ConfigError(f"{path}: expected the configuration of a run, found a list; put the file back.")
        own = OmegaConf.masked_copy(saved, [str(k) for k in saved if k not in ("defaults", "hydra")])
        merged = OmegaConf.merge(OmegaConf.structured(RunConfig), own, OmegaConf.from_dotlist(list(changes)))
        return to_config(typing.cast(DictConfig, merged), RunConfig)
    except (YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: expected YAML, found a damaged file ({_in_one_line(error)}).") from error
    except (ConfigKeyError, ConfigAttributeError) as error:
        known = (name for name, _ in _walk(RunConfig))
        raise ConfigError(f"{path}: {of_another_version(str(error.full_key), known)}") from error
    except OmegaConfBaseException as error:
        raise ConfigError(f"{path}: {explain_hydra_error(error, RunConfig)}") from error


def open_run(path: str | None) -> "tuple[RunConfig | None, RunFolder | None]":
    """The configuration and the folder of an earlier run; two Nones where none is named.

    Raises:
        ConfigError: there is no run in it.
    """
    return (None, None) if path is None else open_one(path)


def open_one(path: str) -> "tuple[RunConfig, RunFolder]":
    """The same of a run that is named."""
    from tunelab.run import open_run_folder  # composing and help need none of what it needs

    folder = open_run_folder(path)
    return load_config(folder.path / "config.yaml"), folder


def dump_config(config: RunConfig) -> str:
    """The YAML text of a complete, resolved config, ready to be run again."""
    return SAVED_HEADER + OmegaConf.to_yaml(OmegaConf.create(to_plain(config)))


def prepare_arguments(arguments: list[str], schema: type[Section]) -> list[str]:
    """Check the override keys of a command line before Hydra sees them, and open the dictionaries to new keys.

    `peft.use_dora=true` is allowed although `peft/lora.yaml` does not list it: the class that gets it decides.

    Raises:
        ConfigError: a key exists in no section; the message names the closest, or the familiar name's translation.
    """
    known, open_ended = dict(_walk(schema)), [key for key, is_open in _walk(schema) if is_open]
    prepared: list[str] = []
    for index, argument in enumerate(arguments):
        if index and arguments[index - 1] in ("--config-path", "-cp", "--config-dir", "-cd"):
            argument = str(Path(argument).resolve())
        elif argument.startswith("--") and argument.partition("=")[0] not in _HYDRA_FLAGS:
            raise ConfigError(f"{argument}: settings are written key=value here. {_as_key(argument, known)}")
        elif argument.startswith("~") or ("=" in argument and not argument.startswith("-")):
            prepared += spelled_out(_checked(argument, known, open_ended))
            continue
        elif not argument.startswith("-") and (not index or arguments[index - 1] not in TAKE_A_WORD):
            refuse_lone_word(arguments, index)
        prepared.append(argument)
    return sorted(prepared, key=lambda word: word not in MULTIRUN)  # first: argparse wants all overrides in one row


MULTIRUN = ("-m", "--multirun")
_HYDRA_FLAGS = {
    *("--help", "--hydra-help", "--version", "--cfg", "--resolve", "--package", "--run", "--multirun", "--info"),
    *("--shell-completion", "--config-path", "--config-name", "--config-dir", "--experimental-rerun"),
}


def _as_key(flag: str, known: Iterable[str]) -> str:
    name = flag.partition("=")[0].lstrip("-").replace("-", "_")
    return explain_unknown_key(name, known)


def explain_hydra_error(error: BaseException, schema: type[Section]) -> str:
    """One sentence for what Hydra or OmegaConf raised, with the full key and a suggestion where there is one."""
    while error.__cause__ is not None and isinstance(error.__cause__, (HydraException, OmegaConfBaseException)):
        error = error.__cause__
    key = str(getattr(error, "full_key", "") or "")
    if key and type(error).__name__ in ("ConfigKeyError", "ConfigAttributeError"):
        return explain_unknown_key(key, [name for name, _ in _walk(schema)])
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    full_key = next((line.removeprefix("full_key: ") for line in lines if line.startswith("full_key: ")), None)
    if full_key and "ConfigKeyError raised while composing" in str(error):
        return of_another_version(full_key, [name for name, _ in _walk(schema)])
    lines = [line for line in lines if not line.startswith(("full_key", "object_type", "reference_type"))]
    sentence = " ".join(lines).split(" Config search path:")[0]
    return explained(key, sentence)


def _in_one_line(error: BaseException) -> str:
    return " ".join(str(error).split())


def _checked(argument: str, known: dict[str, bool], open_ended: list[str]) -> str:
    key = argument.partition("=")[0].lstrip("+~").partition("@")[0]
    if key.startswith("hydra") or "/" in key or key in known or key == "experiment":
        return argument
    if any(key.startswith(f"{name}.") for name in open_ended):
        return argument if argument[0] in "+~" else f"++{argument}"
    raise ConfigError(explain_unknown_key(key, known))


def _walk(schema: type[Any], prefix: str = "") -> Iterator[tuple[str, bool]]:
    """Yield every key of a schema with whether it is an open dictionary."""
    hints = typing.get_type_hints(schema)
    for item in dataclasses.fields(schema):
        kind = hints[item.name]
        yield f"{prefix}{item.name}", typing.get_origin(kind) is dict
        if dataclasses.is_dataclass(kind):
            yield from _walk(typing.cast(type[Any], kind), f"{prefix}{item.name}.")


def _invocation() -> Invocation:
    state = HydraConfig.get()
    sweeping = state.mode is RunMode.MULTIRUN
    return Invocation(
        overrides=tuple(state.overrides.task),
        sweep_dir=Path(state.sweep.dir) if sweeping else None,
    )


def _exit(message: str, code: int = 1) -> None:
    print(f"error: {message}" if code == 1 else message, file=sys.stderr)
    sys.exit(code)
