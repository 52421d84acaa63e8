"""Finds the tasks of lm-evaluation-harness that were named, and loads them with their data."""

import importlib.util
import logging
import os
import random
import sys
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import yaml

from tunelab.config import HarnessConfig
from tunelab.data.rendering import ChosenTemplate
from tunelab.embedded import locate
from tunelab.errors import ConfigError, first_line
from tunelab.evaluation.evaluating import SplitEvaluation, SplitSettings
from tunelab.evaluation.harness.results import Aggregations, TaskResults
from tunelab.suggesting import did_you_mean

SEED, OTHER_SEED = 0, 1234  # those that lm-eval itself starts with: of Python, of NumPy, torch and the few shots


@dataclass(frozen=True, slots=True)
class Tasks:
    """Tasks with their data. `loaded` is what lm-eval's TaskManager gives; `template`: to render questions with."""

    loaded: dict[str, Any]
    max_examples: int | None
    template: ChosenTemplate | None

    def measure(self, model: torch.nn.Module, tokenizer: Any, settings: SplitSettings) -> SplitEvaluation:
        """Ask `model` all of them: same seeds and few shots for every model. Metrics are named `<task>/<metric>`.

        Raises:
            TunelabError: a task asks for what cannot be answered.
        """
        from lm_eval.evaluator import evaluate

        from tunelab.evaluation.harness.language_model import LanguageModel

        language_model = LanguageModel(model, tokenizer, settings, self.template)
        random.seed(SEED)
        np.random.seed(OTHER_SEED)
        torch.manual_seed(OTHER_SEED)
        for task in self.loaded["tasks"].values():
            task.set_fewshot_seed(seed=OTHER_SEED)
        with quiet():
            found: Any = evaluate(
                lm=language_model,
                task_dict=self.loaded,  # pyright: ignore[reportArgumentType] (a dictionary of just that)
                limit=self.max_examples,
                bootstrap_iters=0,  # intervals are ours
                apply_chat_template=self.template is not None,
                fewshot_as_multiturn=True,
            )
        how = f"template:{self.template.name if self.template else 'none'}|limit:{self.max_examples or 'none'}"
        return TaskResults.read(found, self._aggregations(), how).evaluation(language_model.num_cut)

    def _aggregations(self) -> Aggregations:
        return {
            name: {metric: getattr(how, "__name__", "") for metric, how in task.aggregation().items()}
            for name, task in self.loaded["tasks"].items()
        }


def load_tasks(config: HarnessConfig, template: ChosenTemplate) -> Tasks:
    """Load what `config.tasks` names.

    Raises:
        ConfigError: lm-eval is not installed, there is no such task or folder, a file is damaged, data cannot be had,
            a task needs more than a language model, or it cannot take the number of examples.
    """
    if importlib.util.find_spec("lm_eval") is None:
        raise ConfigError(
            "harness.tasks: expected the package lm-eval, which measures them, found it not installed; "
            "pip install 'tunelab[eval]', or leave harness.tasks out."
        )
    with quiet():
        loaded = _load(config.tasks, _include(config.include))
    for name, task in loaded["tasks"].items():
        _refuse(name, task)
        _set_examples(name, task, config.num_few_shot)
    return Tasks(loaded, config.max_examples, template if config.apply_chat_template else None)


def _include(include: str | None) -> Path | None:
    if include is None:
        return None
    folder = Path(locate(include)).expanduser()
    if not any(folder.rglob("*.y*ml")):
        raise ConfigError(
            f"harness.include: expected a folder with task files (*.yaml), found none in {include!r}; "
            "set harness.include=<folder>."
        )
    for path in sorted(folder.rglob("*.y*ml")):
        _require_yaml(path)
    return folder


def _require_yaml(path: Path) -> None:
    """lm-eval passes over files that it cannot read, and their tasks would be missing or its own."""
    try:
        for _ in yaml.parse(path.read_text(encoding="utf-8")):
            pass
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise ConfigError(
            f"harness.include: expected YAML in {str(path)!r}, found a damaged file ({reason}); mend it, or remove it."
        ) from error


def _load(names: Sequence[str], include: Path | None) -> dict[str, Any]:
    from lm_eval.tasks import TaskManager

    # lm-eval's own tasks are thousands of files: they are read where `include` has not all that is asked for.
    manager = TaskManager(include_path=include, include_defaults=include is None)
    if not set(names) <= set(manager.all_tasks):
        manager = TaskManager(include_path=include)
    for name in names:
        if name not in manager.all_tasks:
            raise ConfigError(
                f"harness.tasks: there is no task {name!r}{did_you_mean(name, manager.all_tasks)}; `lm-eval ls "
                "tasks` lists them, and harness.include=<folder> adds your own."
            )
    try:
        return dict(manager.load(list(names)))
    except Exception as error:  # whatever datasets, the hub, a task file or its functions raise
        offline = " (HF_HUB_OFFLINE is set)" if os.environ.get("HF_HUB_OFFLINE") else ""
        data = f"the data must lie on this machine, or the hub be in reach{offline}"
        remedy = data if isinstance(error, OSError) else "mend the task's file"
        found = f"{', '.join(names)} cannot be set up: {type(error).__name__}, {first_line(error)}"
        raise ConfigError(f"harness.tasks: {found}; {remedy}.") from error


def _refuse(name: str, task: Any) -> None:
    for flag, needs in (("UNSAFE_CODE", "runs what the model writes"), ("MULTIMODAL", "shows images or sound")):
        if getattr(task, flag, False):
            raise ConfigError(f"harness.tasks: expected tasks of text alone, found {name!r}, which {needs}; remove it.")


def _set_examples(name: str, task: Any, number: int | None) -> None:
    """`number` of answered examples, or the task's own."""
    own = task.get_config("num_fewshot")
    if own == 0 and number:
        raise ConfigError(
            f"harness.num_few_shot: expected null or 0 for {name!r}, whose own file says 0, found {number}; "
            "set harness.num_few_shot=null."
        )
    task.set_config("num_fewshot", (own or 0) if number is None else number)


@contextmanager
def quiet() -> Generator[None]:
    """Keep progress bars and notices of lm-eval off the screen, and `import evaluate` away from our script.

    `python evaluate.py` puts its own folder first in sys.path, where lm-eval would find that file instead of the
    package `evaluate` of Hugging Face.
    """
    import datasets
    from lm_eval.api import task

    logger, path, bar = logging.getLogger("lm_eval"), list(sys.path), task.tqdm
    level, had_no_bars = logger.level, datasets.utils.are_progress_bars_disabled()
    logger.setLevel(logging.ERROR)
    datasets.utils.disable_progress_bars()
    task.tqdm = lambda rows, **_: rows  # it asks nobody whether to show one
    sys.path[:] = [place for place in path if not (Path(place or ".") / "evaluate.py").is_file()]
    try:
        yield
    finally:
        logger.setLevel(level)
        task.tqdm = bar
        sys.path[:] = path
        if not had_no_bars:
            datasets.utils.enable_progress_bars()
