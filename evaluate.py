"""Measure a base model and a tuned one on the same examples: `python evaluate.py --help`."""

from tunelab.compose import Invocation, command, load_config
from tunelab.config import EvaluateConfig


@command("evaluate", EvaluateConfig)
def main(config: EvaluateConfig, invocation: Invocation) -> None:
    """Open the run folder, where one is given, and measure."""
    # Imported here: composing, printing help and refusing a wrong key need no torch.
    from tunelab.run import open_run_folder

    folder = open_run_folder(config.run) if config.run else None
    run = load_config(folder.path / "config.yaml") if folder else None
    from tunelab.evaluate import evaluate

    evaluate(config, run, folder, invocation.overrides)


if __name__ == "__main__":
    main()
