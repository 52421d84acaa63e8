"""One run under way: everything that is read, checked, shown and recorded before the weights are loaded."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from rich.console import Console

from tunelab.atomic import remove_stale
from tunelab.audit import refuse_foreign_splits, refuse_unread_keys
from tunelab.config import RunConfig, to_plain
from tunelab.data.collating import collate
from tunelab.data.inspecting import render_examples
from tunelab.data.pages import report_page
from tunelab.data.preparing import report_table
from tunelab.extra_sets import sources_of
from tunelab.model.adapter import Start
from tunelab.model.initializing import Batch
from tunelab.model.targets import check_modules
from tunelab.model.tuning import read_tuning
from tunelab.model.virtual_tokens import num_virtual_tokens
from tunelab.preflight import (
    Prepared,
    TrainingPlan,
    build_adapter_config,
    continued_adapter,
    mark_read_later,
    plan_training,
    prepare,
)
from tunelab.provenance import continued, doubts, fingerprints, provenance
from tunelab.run import RunFolder
from tunelab.training.checkpoint import ResumePoint, newest_checkpoint
from tunelab.training.launcher import process_rank
from tunelab.training.loggers import Loggers, build_loggers, limits_of_resuming, start_trackers


@dataclass(frozen=True, slots=True)
class Session:
    """One run under way: its configuration, its folder, and what was prepared for it."""

    config: RunConfig
    folder: RunFolder
    prepared: Prepared
    plan: TrainingPlan
    console: Console
    overrides: Sequence[str]  # as typed
    resume_point: ResumePoint | None

    @property
    def is_main(self) -> bool:
        """True in the process that writes, of those that train."""
        return process_rank() == 0

    @property
    def method(self) -> str:
        """The class of the adapter, a continued one's own."""
        adapter = self.plan.peft_config
        return "none (full fine-tuning)" if adapter is None else f"peft.{type(adapter).__name__}"

    def hyperparameters(self) -> dict[str, Any]:
        """What loggers show of the configuration: with the peak rate, and a continued adapter's own settings."""
        plain = to_plain(self.config)
        own = to_plain(vars(self.plan.peft_config)) if self.plan.tuning.folder and self.plan.peft_config else {}
        kept = {key: sorted(own[key]) if isinstance(own[key], set) else own[key] for key in plain["peft"] if key in own}
        return {**plain, "peft": {**plain["peft"], **kept}, "peak_lr": self.plan.peak_lr}

    def adapter_start(self) -> Start:
        """What the adapter starts from: for a data-driven initialisation, training examples drawn by the seed."""
        return Start(self.plan.tuning, _calibration_batches(self), self.config.model.revision)


def open_session(
    config: RunConfig, folder: RunFolder, overrides: Sequence[str], console: Console, resuming: bool
) -> Session:
    """Check and read everything that needs no weights, show it, and record where it comes from.

    Raises:
        TunelabError: the run cannot be done as asked.
    """
    refuse_foreign_splits(config.data, overrides)
    peft_config = build_adapter_config(config)
    for line in continued_adapter(config, peft_config, overrides):
        console.print(line)
    check_modules(peft_config, read_tuning(config.peft).num_layers, config.model)
    resume_point = newest_checkpoint(folder.checkpoints) if resuming else None
    prepared = prepare(config, num_virtual_tokens(peft_config))
    plan = plan_training(config, prepared, peft_config)
    session = Session(config, folder, prepared, plan, console, overrides, resume_point)
    _show(session)
    if session.is_main:
        folder.write_json("data_report.json", prepared.data.report.to_dict())
        folder.write_text("data_report.html", report_page(prepared.data.report))
        for each in prepared.sets:
            folder.write_json(f"data_report-{each.name}.json", each.data.report.to_dict())
        _record_provenance(session)
    mark_read_later(config, plan, prepared)
    refuse_unread_keys(config, overrides)
    return session


def open_loggers(session: Session) -> Loggers:
    """The loggers, begun, or going on where the checkpoint was written; none in a process that does not write."""
    if not session.is_main:
        return {}
    point, path = session.resume_point, session.folder.path
    if point is not None:
        remove_stale(path)
        remove_stale(session.folder.checkpoints)
    loggers = build_loggers(session.config.logger, path, point.step if point else None)
    for line in limits_of_resuming(loggers, path) if point else ():
        session.console.print(line)
    start_trackers(loggers, path)
    return loggers


def _show(session: Session) -> None:
    prepared, plan, console = session.prepared, session.plan.steps, session.console
    console.print(report_table(prepared.data.report))
    console.print(render_examples(prepared.data.train, prepared.tokenizer))
    for each in prepared.sets:
        console.print(str(each))
    console.print(
        f"{plan.total_steps} optimizer steps of {plan.batch_size} examples over {plan.num_examples}, "
        f"peak learning rate {session.plan.peak_lr:.2g}, {prepared.precision.value} on {prepared.device}"
    )


def _record_provenance(session: Session) -> None:
    """Write where the result comes from, and say whether a resumed run ends with the bits of an uninterrupted one."""
    config, prepared, folder, point = session.config, session.prepared, session.folder, session.resume_point
    knobs = {"micro_batch_tokens": config.trainer.micro_batch_tokens, **to_plain(config.objective)}
    place = {"device": prepared.device.type, "num_devices": config.trainer.devices, "memory_knobs": knobs}
    data_sha256 = {source.name: source.sha256 for source in prepared.data.report.sources}
    data_sha256 |= sources_of(prepared.sets)
    found = fingerprints(config, data_sha256, session.plan.tuning.folder)
    record = provenance(session.overrides, {**place, **found})
    if point:
        record = continued(folder.read_json("provenance.json"), record, point.step)
    folder.write_json("provenance.json", record)
    reasons = doubts(record)
    exactness = "best-effort" if reasons else "bit-exact"
    folder.summary.facts["reproducibility"] = exactness
    if point:
        for problem in point.problems:
            session.console.print(f"passed over: {problem}")
        session.console.print(f"resuming from {point.path}")
    if point or reasons:
        why = "; ".join(reasons) or "versions, hardware and settings are those recorded"
        session.console.print(f"reproducibility: {exactness} ({why})")


def _calibration_batches(session: Session) -> list[Batch]:
    tuning, prepared = session.plan.tuning, session.prepared
    examples = prepared.data.train
    order = torch.randperm(len(examples), generator=torch.Generator().manual_seed(session.config.seed))
    count = 0 if tuning.folder else tuning.num_calibration_examples
    chosen = [examples[int(i)] for i in order[:count]]
    rows = [collate([example], padded=True, pad_token_id=0).to(prepared.device) for example in chosen]
    names = ("input_ids", "attention_mask", "labels")
    return [{name: getattr(row, name) for name in names} for row in rows]
