"""TensorBoard's HParams tab over several runs, read as its own plugin reads them."""

from pathlib import Path

from tensorboard import context
from tensorboard.backend.event_processing.data_provider import MultiplexerDataProvider
from tensorboard.backend.event_processing.plugin_event_multiplexer import EventMultiplexer
from tensorboard.plugins import base_plugin
from tensorboard.plugins.hparams import api_pb2, backend_context, list_session_groups
from tensorboard.plugins.hparams.api_pb2 import ListSessionGroupsRequest

from tunelab.training.loggers import build_loggers, log_result

STATUSES = ("STATUS_UNKNOWN", "STATUS_SUCCESS", "STATUS_FAILURE", "STATUS_RUNNING")


class Table:
    """The columns and the rows (by the name of the run) that the plugin shows for a folder."""

    def __init__(self, folder: Path) -> None:
        events = EventMultiplexer()
        events.AddRunsFromDirectory(str(folder))
        events.Reload()
        self.runs = set(events.Runs())
        provider = MultiplexerDataProvider(events, str(folder))
        backend, asked = (
            backend_context.Context(base_plugin.TBContext(data_provider=provider)),
            context.RequestContext(),
        )
        found = backend.experiment_from_metadata(
            asked, "", True, backend.hparams_metadata(asked, ""), backend.hparams_from_data_provider(asked, "", 0)
        )
        self.columns = {info.name for info in found.hparam_infos}
        self.differing = {info.name for info in found.hparam_infos if info.differs}
        self.scores = {info.name.tag for info in found.metric_infos}
        everything = ListSessionGroupsRequest(start_index=0, slice_size=100)
        everything.allowed_statuses.extend(api_pb2.Status.Value(name) for name in STATUSES)
        groups = list_session_groups.Handler(asked, backend, "", everything).run().session_groups
        self.rows = {group.name: group for group in groups}

    def score(self, run: str, name: str) -> float:
        [value] = [each.value for each in self.rows[run].metric_values if each.name.tag == name]
        return value


def logged(folder: Path, compose_config, typed: list[str], config: dict, scores: dict[str, float] | None) -> None:
    """What a run logs; without scores it ends half-way."""
    [logger] = build_loggers(compose_config("logger=tensorboard").logger, folder).values()
    for step in (1, 2):
        logger.log_metrics({"train/loss": 3.0 / step, "perf/tokens_per_second": 10.0}, step=step)
    if scores is None:
        logger.finalize("failed")
    else:
        log_result([logger], config, scores, typed)


def test_a_sweep_is_one_table(compose_config, tmp_path: Path):
    lora = {
        "seed": 1,
        "optim": {"lr": 1e-3},
        "peft": {"_target_": "peft.LoraConfig", "r": 8},
        "trainer": {"max_steps": 5},
    }
    full = {"seed": 2, "optim": {"lr": 1e-4}, "peft": {"_target_": None}, "trainer": {"max_steps": 5}}
    # the one that lacks a key, and the half one, come first
    logged(tmp_path / "a_peft-none", compose_config, ["peft=none", "optim.lr=1e-4", "seed=2"], full, {"test/loss": 0.5})
    logged(tmp_path / "b_half", compose_config, ["peft=lora", "seed=3"], lora, None)
    scores = {"test/loss": 0.25, "test/exact_match": 0.75, "base/test/loss": 3.0, "test/num_tokens": 9}
    typed = ["peft=lora", "++peft.r=8", "optim.lr=1e-3", "seed=1", "sweep.workers=2", "hydra/launcher=pool"]
    logged(tmp_path / "c_peft-lora", compose_config, [*typed, "experiment=x", "output_dir=o"], lora, scores)
    table = Table(tmp_path)
    assert set(table.rows) == {"a_peft-none/tensorboard/result", "c_peft-lora/tensorboard/result"}  # no half run
    assert table.columns == {"peft", "peft._target_", "peft.r", "optim.lr", "seed"}
    assert table.differing == {"peft", "optim.lr", "seed"}  # the others have one value alone
    assert table.scores == {"test/loss", "test/exact_match"}  # final ones, not every scalar
    assert table.score("c_peft-lora/tensorboard/result", "test/loss") == 0.25
    assert table.score("a_peft-none/tensorboard/result", "test/loss") == 0.5
    first = table.rows["a_peft-none/tensorboard/result"].hparams
    assert first["peft"].string_value == "none"
    assert "peft.r" not in first
    assert {"a_peft-none/tensorboard", "b_half/tensorboard"} < table.runs  # the curves, named by the job's folder
