"""Hydra's view of `python train.py -m`: its sweeper and its launchers. Hydra takes plugins from this namespace only."""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

from hydra._internal.core_plugins.basic_sweeper import BasicSweeper, BasicSweeperConf
from hydra.core.config_store import ConfigStore
from hydra.core.utils import JobReturn
from hydra.plugins.launcher import Launcher
from hydra.types import HydraContext, TaskFunction
from omegaconf import DictConfig


@dataclass
class GridSweeperConf(BasicSweeperConf):
    """The settings of Hydra's own sweeper: `params` are swept besides what is typed."""

    _target_: str = "hydra_plugins.tunelab.GridSweeper"


class GridSweeper(BasicSweeper):
    """The jobs of `sweep.design`, all of them composed and checked before the first starts."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the jobs, and end with an error where one has failed."""
        from tunelab.multirun import finish, plan_jobs

        del arguments  # they are in the configuration too
        assert self.hydra_context is not None
        assert self.config is not None
        assert self.launcher is not None
        jobs = plan_jobs(self.hydra_context.config_loader, self.config)
        return finish(self.launcher.launch(jobs, initial_job_idx=0))


@dataclass
class OptunaSweeperConf(BasicSweeperConf):
    """What is searched besides what is typed: `params`, as of the grid."""

    _target_: str = "hydra_plugins.tunelab.OptunaSweeper"


class OptunaSweeper(BasicSweeper):
    """Trials that Optuna proposes one after another, from the results so far."""

    def sweep(self, arguments: list[str]) -> Any:
        """Run the search, and end with an error where a trial has failed."""
        del arguments  # the configuration has them too
        from tunelab.errors import ConfigError

        if find_spec("optuna") is None:
            raise ConfigError("hydra/sweeper: expected optuna for it, found none; pip install 'tunelab[search]'.")
        from tunelab.search import search

        assert self.hydra_context is not None
        if not isinstance(self.launcher, _TunelabLauncher) or self.launcher.config is None:
            raise ConfigError("hydra/launcher: expected pool or in_process for a search; remove hydra/launcher.")
        loader = self.hydra_context.config_loader
        return search(loader, self.launcher.config, isinstance(self.launcher, InProcessLauncher))


@dataclass
class PoolConf:
    """Each job in a process of its own, several at a time."""

    _target_: str = "hydra_plugins.tunelab.PoolLauncher"


@dataclass
class InProcessConf:
    """One job after another in this process, which loads the base model once."""

    _target_: str = "hydra_plugins.tunelab.InProcessLauncher"


class _TunelabLauncher(Launcher):
    """What both launchers are told by Hydra."""

    def __init__(self) -> None:
        self.config: DictConfig | None = None
        self.hydra_context: HydraContext | None = None

    def setup(self, *, hydra_context: HydraContext, task_function: TaskFunction, config: DictConfig) -> None:
        """Keep what composing needs; the task is always a training run."""
        del task_function
        self.hydra_context, self.config = hydra_context, config

    def launch(self, job_overrides: Sequence[Sequence[str]], initial_job_idx: int) -> Sequence[JobReturn]:
        """Compose all jobs, then run them; a failed job has its error as the return value."""
        from tunelab.multirun import run_sweep

        del initial_job_idx  # jobs are named by their content
        assert self.hydra_context is not None
        assert self.config is not None
        in_process = isinstance(self, InProcessLauncher)
        return run_sweep(self.hydra_context.config_loader, self.config, job_overrides, in_process)


class PoolLauncher(_TunelabLauncher):
    """hydra/launcher=pool"""


class InProcessLauncher(_TunelabLauncher):
    """hydra/launcher=in_process"""


for _name, _node in (("pool", PoolConf), ("in_process", InProcessConf)):
    ConfigStore.instance().store(group="hydra/launcher", name=_name, node=_node, provider="tunelab")
for _name, _node in (("grid", GridSweeperConf), ("optuna", OptunaSweeperConf)):
    ConfigStore.instance().store(group="hydra/sweeper", name=_name, node=_node, provider="tunelab")
