"""Prints how many bytes a process holds that has imported everything and read the data of a run, and no weights yet."""

import os
import sys
from pathlib import Path

from hydra import compose, initialize_config_dir
from hydra.core.config_store import ConfigStore

import tunelab.finetune  # noqa: F401 (what a run imports)
from tunelab.compose import to_config
from tunelab.config import RunConfig
from tunelab.preflight import prepare

REPOSITORY = Path(__file__).resolve().parents[1]


def main(output_dir: str) -> None:
    ConfigStore.instance().store(name="run_schema", node=RunConfig)
    with initialize_config_dir(str(REPOSITORY / "conf"), version_base="1.3"):
        config = to_config(compose("train", overrides=[f"output_dir={output_dir}"]), RunConfig)
    prepared = prepare(config)  # held while the memory is read
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[1])
    print(pages * os.sysconf("SC_PAGE_SIZE"))
    del prepared


if __name__ == "__main__":
    main(sys.argv[1])
