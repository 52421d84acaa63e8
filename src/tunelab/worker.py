"""What torchrun starts on each device: reads the run's saved configuration and trains. Hydra is not involved."""

import sys

from tunelab.compose import load_config
from tunelab.errors import TunelabError
from tunelab.finetune import fine_tune
from tunelab.run import open_run_folder
from tunelab.training.callbacks import Interrupted


def main(folder_name: str, overrides: list[str]) -> None:
    """Train the run of `folder_name` as one of several processes."""
    folder = open_run_folder(folder_name)
    config = load_config(folder.path / "config.yaml")
    _ = config.output_dir  # used: the folder was made from it
    try:
        fine_tune(config, folder, tuple(overrides), resuming=(folder.checkpoints / "last.ckpt").exists())
    except TunelabError as error:
        print(f"error: {error}", file=sys.stderr)
        sys.exit(1)
    except Interrupted as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
