"""Writes the cleaned and split rows of a data set to a folder, with a card that says how they were made."""

from collections.abc import Sequence
from pathlib import Path

from tunelab.atomic import write_json, write_text
from tunelab.audit import refuse_foreign_splits, refuse_unread_keys
from tunelab.config import PrepareConfig, mark_read
from tunelab.data.exporting import Exported, data_card, export_rows
from tunelab.data.preparing import open_stage
from tunelab.folders import complete_folder
from tunelab.model.tokenizer import load_tokenizer
from tunelab.terminal import RunConsole, quiet_libraries


def prepare_files(config: PrepareConfig, overrides: Sequence[str]) -> None:
    """Write train, validation and test rows to the new folder `config.to`: all of it, or nothing.

    Raises:
        TunelabError: the data cannot be used, or the folder cannot be made.
    """
    console = RunConsole()
    quiet_libraries()
    refuse_foreign_splits(config.data, overrides)
    stage = open_stage(config.data, load_tokenizer(config.model))
    with complete_folder(Path(config.to)) as folder:
        with console.status("preparing the data"):
            exported = export_rows(stage, folder)
        mark_read(config.data, "cache")  # nothing is tokenized, so there is nothing to keep
        refuse_unread_keys(config, overrides, below="data.")
        command = " ".join(["python -m tunelab prepare", *overrides])
        write_json(folder / "data_report.json", exported.to_dict())
        write_text(folder / "README.md", data_card(Path(config.to).name, exported, command))
    console.print(_summary(exported, Path(config.to)), soft_wrap=True)


def _summary(exported: Exported, folder: Path) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in exported.num_rows.items())
    held_out = [split for split in ("validation", "test") if exported.num_rows[split]]
    paths = [f"data.path={folder}/train.jsonl", *(f"data.{split}_path={folder}/{split}.jsonl" for split in held_out)]
    return f"rows         {counts}\nfolder       {folder}\ntrain        python train.py data=file {' '.join(paths)}"
