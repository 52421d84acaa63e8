"""Fine-tune a causal language model: `python train.py --help`."""

import sys

from tunelab.compose import Invocation, command, dump_config, load_config
from tunelab.config import RunConfig


@command("train", RunConfig)
def main(config: RunConfig, invocation: Invocation) -> None:
    """Open the run folder, save the configuration, and train here or on several devices."""
    # Imported here: composing, printing help and refusing a wrong key need no torch.
    from tunelab.finetune import fine_tune
    from tunelab.run import create_run_folder, open_run_folder, resumed_config
    from tunelab.training.callbacks import Interrupted
    from tunelab.training.launcher import inside_torchrun, launch

    if config.resume:
        folder = open_run_folder(config.resume)
        config = resumed_config(load_config(folder.path / "config.yaml"), config, invocation.overrides)
    else:
        folder = create_run_folder(config, invocation.sweep_dir)
        folder.write_text("config.yaml", dump_config(config))
        folder.write_text("overrides.yaml", "".join(f"- {override}\n" for override in invocation.overrides))
    if config.trainer.devices > 1 and not inside_torchrun():
        arguments = [str(folder.path), *invocation.overrides]
        code = launch("tunelab.worker", arguments, config.trainer.devices, config.trainer.accelerator.value == "cpu")
        sys.exit(code)
    try:
        fine_tune(config, folder, invocation.overrides, resuming=bool(config.resume))
    except Interrupted as error:
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
