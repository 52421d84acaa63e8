"""Serves optimizer steps to Lightning: one batch is one step, and step k is computed, never remembered."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, cast

import pytorch_lightning as pl
import torch
from torch.utils.data import DataLoader, Dataset, Sampler

from tunelab.data.batching import num_steps, share, step_indices
from tunelab.data.records import TokenizedExample


@dataclass(frozen=True, slots=True)
class StepBatch:
    """This device's share of one optimizer step; `token_count` is the supervised tokens of the whole step."""

    step: int
    examples: list[TokenizedExample]
    token_count: int


@dataclass(frozen=True, slots=True)
class StepPlan:
    """Which examples each optimizer step trains on: a pure function of these numbers and the step.

    `total_examples` ends the stream after whole epochs; None where the number of steps was given.
    """

    num_examples: int
    batch_size: int
    seed: int
    total_steps: int
    total_examples: int | None

    @classmethod
    def create(
        cls, num_examples: int, batch_size: int, seed: int, max_epochs: int, max_steps: int | None
    ) -> "StepPlan":
        """Plan `max_steps` steps where given, else `max_epochs` passes over the examples."""
        return cls(
            num_examples=num_examples,
            batch_size=batch_size,
            seed=seed,
            total_steps=num_steps(num_examples, batch_size, max_epochs, max_steps),
            total_examples=None if max_steps is not None else num_examples * max_epochs,
        )

    def indices(self, step: int) -> list[int]:
        """Indices of the examples of `step` (from 0), over all devices."""
        return step_indices(step, self.num_examples, self.batch_size, self.seed, self.total_examples)


class StepDataset(Dataset[StepBatch]):
    """Item k is the share of optimizer step k that belongs to `rank`."""

    def __init__(self, examples: Sequence[TokenizedExample], plan: StepPlan, rank: int, world_size: int) -> None:
        self._examples = examples
        self._plan = plan
        self._rank = rank
        self._world_size = world_size

    def __getitem__(self, index: int) -> StepBatch:
        chosen = [self._examples[i] for i in self._plan.indices(index)]
        token_count = sum(example.num_supervised_tokens for example in chosen)
        return StepBatch(index, share(chosen, self._rank, self._world_size), token_count)


class StepSampler(Sampler[int]):
    """Counts from the current step to the end. Its length stays the whole plan: Lightning restores its own counter."""

    def __init__(self, current_step: Callable[[], int], total_steps: int) -> None:
        self._current_step = current_step
        self._total_steps = total_steps

    def __iter__(self) -> Iterator[int]:
        return iter(range(self._current_step(), self._total_steps))

    def __len__(self) -> int:
        return self._total_steps


class SftDataModule(pl.LightningDataModule):
    """Training steps by plan; validation examples in chunks of `plan.batch_size`, divided over the devices."""

    def __init__(
        self, train: Sequence[TokenizedExample], validation: Sequence[TokenizedExample], plan: StepPlan
    ) -> None:
        super().__init__()
        self._train = train
        self._validation = list(validation)
        self._plan = plan

    def train_dataloader(self) -> DataLoader[Any]:
        """One flat epoch of optimizer steps, read from the step the trainer stands at."""
        trainer = self._trainer()
        dataset = StepDataset(self._train, self._plan, trainer.global_rank, trainer.world_size)
        sampler = StepSampler(lambda: trainer.global_step, self._plan.total_steps)
        return DataLoader(dataset, sampler=sampler, batch_size=None, collate_fn=_as_is)

    def val_dataloader(self) -> DataLoader[Any]:
        """Lists of examples; every example is on exactly one device."""
        trainer = self._trainer()
        mine = share(self._validation, trainer.global_rank, trainer.world_size)
        size = self._plan.batch_size
        chunks = [mine[i : i + size] for i in range(0, len(mine), size)] or [[]]
        return DataLoader(cast(Dataset[Any], chunks), batch_size=None, collate_fn=_as_is)

    def transfer_batch_to_device(self, batch: Any, device: torch.device, dataloader_idx: int) -> Any:
        """Examples stay on the CPU: a micro-batch moves when it is its turn."""
        del device, dataloader_idx
        return batch

    def _trainer(self) -> pl.Trainer:
        assert self.trainer is not None
        return self.trainer


def _as_is(item: Any) -> Any:
    return item
