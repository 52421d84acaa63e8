"""Measure a base model and tuned ones on the same examples: `python evaluate.py --help`."""

from tunelab.compose import Invocation, command, open_one, open_run
from tunelab.config import EvaluateConfig


@command("evaluate", EvaluateConfig)
def main(config: EvaluateConfig, invocation: Invocation) -> None:
    """Open the run folders, where some are given, and measure."""
    # Imported here: composing, printing help and refusing a wrong key need no torch.
    from tunelab.evaluate import evaluate

    run, folder = open_run(config.run)
    more = [open_one(path) for _, path in config.listed("runs")]
    evaluate(config, run, folder, invocation.overrides, more)


if __name__ == "__main__":
    main()
