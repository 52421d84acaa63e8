"""Shows what a run would see of its data, in the terminal and as pages, without loading a model."""

import datetime
from collections.abc import Sequence
from pathlib import Path

from tunelab.atomic import write_json, write_text
from tunelab.audit import refuse_foreign_splits, refuse_unread_keys
from tunelab.config import AnySplit, InspectConfig, mark_read
from tunelab.data.comparing import rejected_answers
from tunelab.data.inspecting import inspect_example, render_inspected
from tunelab.data.pages import inspect_page, report_page
from tunelab.data.preparing import PreparedData, prepare_data, report_table
from tunelab.data.storing import StoredExamples
from tunelab.errors import ConfigError
from tunelab.folders import make_new_folder
from tunelab.model.tokenizer import load_tokenizer
from tunelab.terminal import RunConsole, quiet_libraries


def inspect_data(config: InspectConfig, overrides: Sequence[str]) -> None:
    """Prepare the data of `config`, print report and examples, and write both as pages into a new folder.

    Raises:
        TunelabError: the data or the tokenizer cannot be used.
    """
    console = RunConsole()
    quiet_libraries()
    refuse_foreign_splits(config.data, overrides)
    tokenizer = load_tokenizer(config.model)
    with console.status("preparing the data"):
        data = prepare_data(config.data, tokenizer, Path(config.output_dir) / "cache")
    mark_read(config.data, "batch_size")  # of the training that the same line would start
    refuse_unread_keys(config, overrides, below="data.")
    split = _split(data, config.split)
    chosen = split[: config.num_examples]
    console.print(report_table(data.report))
    rejected = rejected_answers(config.data, tokenizer, [example.origin for example in chosen])
    examples = [inspect_example(example, tokenizer, rejected.get(example.origin)) for example in chosen]
    console.print(render_inspected(examples, data.report.template, show_ids=config.ids))
    folder = _folder(config)
    write_json(folder / "data_report.json", data.report.to_dict())
    write_text(folder / "data_report.html", report_page(data.report))
    write_text(folder / "examples.html", inspect_page(examples, data.report.template, len(split)))
    console.print(f"report     {folder / 'data_report.html'}", soft_wrap=True)
    console.print(f"examples   {folder / 'examples.html'}", soft_wrap=True)


def _split(data: PreparedData, split: AnySplit) -> StoredExamples:
    if split is AnySplit.train:
        return data.train
    return (data.validation if split is AnySplit.validation else data.test).tokenized


def _folder(config: InspectConfig) -> Path:
    now = datetime.datetime.now().strftime("%Y-%m-%d_%H-%M-%S")
    wanted = Path(config.to) if config.to else Path(config.output_dir) / "inspect" / now
    try:
        return make_new_folder(wanted)
    except OSError as error:
        raise ConfigError(
            f"to: the folder {str(wanted)!r} cannot be made ({error.strerror}); set to=<folder>."
        ) from error
