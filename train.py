"""Fine-tune a causal language model: `python train.py --help`."""

import sys

from tunelab.compose import Invocation, command, dump_config, load_config
from tunelab.config import RunConfig, mark_read
from tunelab.errors import Interrupted


@command("train", RunConfig)
def main(config: RunConfig, invocation: Invocation) -> None:
    """Make or open the run folder, save the configuration in it, and train."""
    # Imported here: composing, printing help and refusing a wrong key need no torch.
    from tunelab.run import create_run_folder, open_run_folder, resumable
    from tunelab.worker import train_run

    resuming = config.resume is not None
    if config.resume is not None:
        folder = open_run_folder(config.resume)
        config = load_config(folder.path / "config.yaml", resumable(invocation.overrides))
        mark_read(config, "resume", "output_dir", "name")  # the folder was made, and is opened, by them
    else:
        folder = create_run_folder(config, invocation.sweep_dir)
        folder.write_overrides(invocation.overrides)
        folder.write_text("config.yaml", dump_config(config))
    try:
        train_run(config, folder, invocation.overrides, resuming)
    except Interrupted as error:
        print(f"{error}; {folder.way_on()}", file=sys.stderr)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
