"""Measure a base model and a tuned one on the same examples: `python evaluate.py --help`."""

from tunelab.compose import Invocation, command, open_run
from tunelab.config import EvaluateConfig


@command("evaluate", EvaluateConfig)
def main(config: EvaluateConfig, invocation: Invocation) -> None:
    """Open the run folder, where one is given, and measure."""
    # Imported here: composing, printing help and refusing a wrong key need no torch.
    from tunelab.evaluate import evaluate

    run, folder = open_run(config.run)
    evaluate(config, run, folder, invocation.overrides)


if __name__ == "__main__":
    main()
