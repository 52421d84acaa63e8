"""One run in several processes: starts them on the saved configuration, and is what they run. Hydra stays outside."""

import os
import sys
from collections.abc import Sequence

from tunelab.compose import load_config
from tunelab.config import RunConfig, mark_read
from tunelab.errors import ConfigError, Interrupted, TunelabError
from tunelab.finetune import fine_tune
from tunelab.process import end_with_parent, mend_streams
from tunelab.run import RunFolder, open_run_folder, recorded, resumable
from tunelab.sharing import Shared
from tunelab.training.launcher import inside_torchrun, launch, process_rank
from tunelab.training.trainer import resolve_device


def train_run(
    config: RunConfig, folder: RunFolder, overrides: Sequence[str], resuming: bool, shared: Shared | None = None
) -> None:
    """Train here, or on `trainer.devices` devices of this machine, which share nothing with other runs.

    Raises:
        TunelabError: the run cannot be done as asked, or one of the processes failed.
        Interrupted: a signal came; the run can be resumed.
    """
    if inside_torchrun():
        raise ConfigError("trainer.devices: start with plain python train.py trainer.devices=<n>, without torchrun.")
    if config.trainer.devices == 1:
        fine_tune(config, folder, overrides, resuming, shared)
        return
    before = folder.read_summary()
    arguments = [str(os.getpid()), str(folder.path), "resume" if resuming else "start", *overrides]
    on_cpu = resolve_device(config.trainer).type == "cpu"
    code = launch("tunelab.worker", arguments, config.trainer.devices, on_cpu)
    if code in (129, 130, 143):
        raise Interrupted(code - 128)
    after = folder.read_summary()
    if code and after != before:
        raise TunelabError(after["reason"])
    if code:
        with recorded(folder, config):  # the first process had no time to write why, or left a finished run alone
            raise TunelabError(f"a training process ended with exit code {code}; run again with resume={folder.path}.")


def main(folder_name: str, resuming: bool, overrides: list[str]) -> None:
    """Train the run of `folder_name` as one of several processes; the parent reads the reason of a failure."""
    folder = open_run_folder(folder_name)
    config = load_config(folder.path / "config.yaml", resumable(overrides) if resuming else ())
    mark_read(config, "output_dir", "name", "resume")  # the parent made or opened the folder by them
    try:
        fine_tune(config, folder, overrides, resuming)
    except TunelabError as error:
        if process_rank():  # the first process's reason is in summary.json, and the parent prints it
            print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    mend_streams()
    end_with_parent(int(sys.argv[1]))
    main(sys.argv[2], sys.argv[3] == "resume", sys.argv[4:])
