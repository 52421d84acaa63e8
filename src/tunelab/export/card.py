"""The model card of an export: what it was made of, what was measured, and how plain libraries load it."""

import json
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCardData, try_to_load_from_cache

from tunelab.config import ModelConfig, Quantization, RunConfig, to_plain
from tunelab.embedded import PREFIX
from tunelab.evaluation.metrics import REGISTRY, Unit
from tunelab.evaluation.metrics.token_level import LOSS, NATS, PERPLEXITY, TOKEN_ACCURACY
from tunelab.model.adapter_folder import is_adapter_folder, read_settings
from tunelab.model.locating import is_hub_name, resolve_model
from tunelab.model.origin import Origin, origin_of_run, read_origin
from tunelab.model.quantizing import FOUR_BITS
from tunelab.model.tuning import read_tuning
from tunelab.run import RunFolder

_METRICS = {metric.name: metric for metric in (LOSS, PERPLEXITY, TOKEN_ACCURACY, *REGISTRY.values())}


@dataclass(frozen=True, slots=True)
class Card:
    """What a card says.

    `kind`: adapter, merged or full. `method`: the adapter's settings in words; `trained_on`: how its base was stored,
    None where that is not recorded. `metrics`: as in summary.json;
    `provenance`: as in provenance.json. `notes`: further sections, title → Markdown.
    """

    title: str
    kind: str
    base: ModelConfig
    method: str
    template: str
    trained_on: Origin | None = None
    metrics: Mapping[str, float] = field(default_factory=dict[str, float])
    provenance: Mapping[str, Any] = field(default_factory=dict[str, Any])
    notes: Mapping[str, str] = field(default_factory=dict[str, str])

    def render(self) -> str:
        """The text of README.md. The same run gives the same text: it holds no time and no path of this machine."""
        parts = [f"---\n{self._front_matter()}\n---\n", f"# {self.title}\n", self._summary()]
        parts += [f"## {title}\n\n{text}" for title, text in self._sections().items() if text]
        return "\n".join(part.rstrip() + "\n" for part in parts)

    def _front_matter(self) -> str:
        plain = to_plain(self.base)
        on_hub = is_hub_name(plain["path"])
        relation = {"adapter": "adapter", "merged": "merge"}.get(self.kind, "finetune")
        data = ModelCardData(
            base_model=plain["path"] if on_hub else None,
            library_name="peft" if self.kind == "adapter" else "transformers",
            license=base_license(self.base),
            pipeline_tag="text-generation",
            tags=["tunelab", *(["lora"] if "LoRA" in self.method else [])],
        )
        if on_hub:
            data["base_model_relation"] = relation
        return data.to_yaml().strip()

    def _summary(self) -> str:
        plain = to_plain(self.base)
        revision = f" at revision `{plain['revision']}`" if plain["revision"] else ""
        what = {"adapter": "An adapter for", "merged": "An adapter merged into"}.get(self.kind, "A full fine-tuning of")
        return (
            f"{what} `{_shown(plain['path'])}`{revision}: {self.method}{self._training()}. "
            f"Prompt template: `{self.template}`.\n"
        )

    def _training(self) -> str:
        if self.kind == "full":
            return ""
        if self.trained_on is None:
            return "; whether its base was quantised in training is not recorded"
        return f", trained on {self.trained_on}"

    def _sections(self) -> dict[str, str]:
        return {
            "Use": _loading(self.kind, self.base, self.trained_on),
            "Results": metrics_table(self.metrics),
            **self.notes,
            "Data and base": _sources(self.provenance),
            "Made by": _making(self.provenance),
            "Licence": _licence(self.base),
        }


def run_card(config: RunConfig, template: str, folder: RunFolder, export: Path | None = None) -> str:
    """The card of what a run exported; `export`: where that is now, where not yet in its place in the run folder."""
    place = export or folder.adapter
    is_adapter = is_adapter_folder(place)
    return Card(
        title=to_plain(config)["name"],
        kind="adapter" if is_adapter else "full",
        base=config.model,
        method=read_method(place) if is_adapter else method_without_adapter(config),
        template=template,
        trained_on=read_origin(place),
        metrics=folder.summary.metrics,
        provenance=folder.read_json("provenance.json"),
    ).render()


def run_record(config: RunConfig, template: str, end_tokens: Sequence[str], quantization: str | None) -> dict[str, Any]:
    """What export.json says beside the adapter of a run; `quantization`: of its base, by `config` or in its files."""
    return {
        "base_model": to_plain(config.model),
        "template": template,
        "end_tokens": list(end_tokens),
        "trained_on": origin_of_run(config, quantization).to_dict(),
    }


def metrics_table(metrics: Mapping[str, float]) -> str:
    """A Markdown table of base beside tuned, for each split; empty where nothing was measured."""
    names = list(dict.fromkeys(name.removeprefix("base/") for name in metrics))
    rows = [
        f"| {_label(name)} | {_value(name, metrics.get(f'base/{name}'))} | {_value(name, metrics.get(name))} |"
        for name in names
    ]
    return "\n".join(["| | base | tuned |", "|---|---:|---:|", *rows]) if rows else ""


def method_in_words(settings: Mapping[str, Any]) -> str:
    """What an adapter_config.json says of the method, shortly."""
    upstream = str(settings.get("peft_type"))
    kind = "LoRA" if upstream == "LORA" else upstream.replace("_", " ").lower()
    rank, alpha, targets = settings.get("r"), settings.get("lora_alpha"), settings.get("target_modules")
    words = [kind]
    words += [f"rank {rank}"] if isinstance(rank, int) else []
    words += [f"alpha {alpha:g}"] if isinstance(alpha, int | float) else []
    words += [name.removeprefix("use_") for name in ("use_dora", "use_rslora") if settings.get(name)]
    if targets:
        names = [targets] if isinstance(targets, str) else sorted({name.rpartition(".")[2] for name in targets})
        words.append(f"on {', '.join(names)}")
    return ", ".join(words)


def read_method(folder: Path) -> str:
    """The method of the adapter in a PEFT folder, in words."""
    return method_in_words(read_settings(folder))


def method_without_adapter(config: RunConfig) -> str:
    """What was trained where there is no adapter."""
    num_layers = read_tuning(to_plain(config)["peft"]).num_layers
    if num_layers is None:
        return "every weight trained"
    return f"the last {num_layers} decoder layers trained" if num_layers > 1 else "the last decoder layer trained"


def base_license(base: ModelConfig) -> str | None:
    """The licence that the base model's own card names in its front matter; None where it names none."""
    plain = to_plain(base)
    name = resolve_model(plain["path"], plain["revision"])
    cached: Any = str(Path(name) / "README.md")
    if not Path(name).is_dir():
        cached = try_to_load_from_cache(name, "README.md", revision=plain["revision"])
    card = Path(cached) if isinstance(cached, str) else None
    if card is None or not card.is_file():
        return None
    lines = card.read_text(encoding="utf-8", errors="replace").splitlines()
    if not lines or lines[0].strip() != "---":
        return None
    end = next((number for number, line in enumerate(lines[1:], 1) if line.strip() == "---"), 0)
    found = (line.partition(":")[2].strip().strip("'\"") for line in lines[1:end] if line.startswith("license:"))
    return next(found, "") or None


def _shown(path: str) -> str:
    """A hub name as it is; of a folder its name alone."""
    return path if is_hub_name(path) or path.startswith(PREFIX) else Path(path).name


def _loading(kind: str, base: ModelConfig, trained_on: Origin | None) -> str:
    plain = to_plain(base)
    path, shown = plain["path"], _shown(plain["path"])
    name = json.dumps(path if is_hub_name(path) else f"<folder of {shown}>")
    revision = f", revision={json.dumps(plain['revision'])}" if plain["revision"] else ""
    if kind != "adapter":
        return _python(
            "from transformers import AutoModelForCausalLM, AutoTokenizer",
            "",
            'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
            'model = AutoModelForCausalLM.from_pretrained("<this folder>", dtype="auto")',
        )
    settings = _bitsandbytes(trained_on)
    quantized = f", quantization_config=BitsAndBytesConfig({settings})" if settings else ""
    names = ["AutoModelForCausalLM", "AutoTokenizer", *(["BitsAndBytesConfig"] if settings else []), "GenerationConfig"]
    return _python(
        "from peft import PeftModel",
        f"from transformers import {', '.join(names)}",
        "",
        'tokenizer = AutoTokenizer.from_pretrained("<this folder>")',
        f"base = AutoModelForCausalLM.from_pretrained({name}{revision}{quantized})",
        'model = PeftModel.from_pretrained(base, "<this folder>")',
        'model.generation_config = GenerationConfig.from_pretrained("<this folder>")  # where an answer ends',
    )


def _bitsandbytes(trained_on: Origin | None) -> str:
    """The arguments that quantise a base as it was in training; empty where nothing has to."""
    kind = trained_on.quantization if trained_on else Quantization.none.value
    if kind == Quantization.int8.value:
        return "load_in_8bit=True"
    if trained_on is None or kind not in [each.value for each in FOUR_BITS]:
        return ""
    double = f"bnb_4bit_use_double_quant={trained_on.double_quantization}"
    return f'load_in_4bit=True, bnb_4bit_quant_type="{kind}", {double}'


def _python(*lines: str) -> str:
    return "\n".join(["```python", *lines, "```"])


def _sources(provenance: Mapping[str, Any]) -> str:
    data: Mapping[str, Any] = provenance.get("data_sha256") or {}
    base: Mapping[str, Any] = provenance.get("base_model") or {}
    facts = [f"- data `{name}`: {_digest(found)}" for name, found in data.items()]
    if base.get("commit"):
        facts.append(f"- base model: commit `{base['commit']}`")
    facts += [f"- base model `{name}`: SHA-256 `{digest}`" for name, digest in (base.get("sha256") or {}).items()]
    return "\n".join(facts)


def _digest(found: Any) -> str:
    if isinstance(found, Mapping):
        each: Mapping[str, Any] = found
        return ", ".join(f"`{name}` SHA-256 `{digest}`" for name, digest in each.items())
    return f"SHA-256 `{found}`"


def _making(provenance: Mapping[str, Any]) -> str:
    command: Sequence[str] = provenance.get("command") or ()
    packages: Mapping[str, Any] = provenance.get("packages") or {}
    commit = (provenance.get("git") or {}).get("commit")
    code = f", commit `{commit}`" if commit else ""
    versions = ", ".join(f"{name} {version}" for name, version in packages.items() if version)
    line = f"    python {shlex.join(command)}\n\n" if command else ""
    return f"{line}{versions}{code}".strip("\n")


def _licence(base: ModelConfig) -> str:
    named = base_license(base)
    known = f"The base model's card names the licence `{named}`. " if named else ""
    return f"{known}What was trained is bound by the licences of the base model and of the data; read both."


def _label(name: str) -> str:
    unit = _unit(name)
    if unit is None:
        return name
    return f"{name} ({unit.name})" if unit is NATS else f"{name}{unit.symbol}"


def _unit(name: str) -> Unit | None:
    """What `<split>/<metric>` or `<split>/<metric>/<part>` is counted in; None for a count."""
    found = (_METRICS[part].unit for part in name.split("/") if part in _METRICS)
    return next(found, None)


def _value(name: str, value: float | None) -> str:
    if value is None:
        return "–"
    if name.rpartition("/")[2].startswith("num_"):
        return f"{value:,.0f}"
    unit = _unit(name)
    return f"{unit.scale * value:.1f}" if unit and unit.scale != 1 else f"{value:,.4f}"
