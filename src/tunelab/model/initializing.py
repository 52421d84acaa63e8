"""Adapters that start elsewhere than at zero: from training examples, or from a part of the base weights.

PiSSA, OLoRA, CorDA and LoRA-GA take what the adapter starts with out of the base weights. Such an adapter is right only
on that changed base, so `as_plain_lora` gives it back before it is measured and exported.
"""

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import torch
from huggingface_hub import snapshot_download
from peft import LoraConfig, PeftConfig, PeftModel, initialize_lora_eva_weights
from peft.tuners.lora.corda import preprocess_corda
from peft.tuners.lora.layer import LoraLayer
from peft.tuners.lora.loraga import preprocess_loraga
from peft.utils.integrations import dequantize_bnb_weight
from peft.utils.loftq_utils import _SafetensorLoader  # pyright: ignore[reportPrivateUsage]
from safetensors import SafetensorError
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from tunelab.config import ModelConfig
from tunelab.errors import ConfigError, ModelError
from tunelab.model.attention import attention_implementation, dense_implementation
from tunelab.model.covering import last_names
from tunelab.model.matching import on_meta

Batch = Mapping[str, torch.Tensor]  # arguments of the model, labels included; one example each
CHANGE_THE_BASE = ("pissa", "olora", "corda", "lora_ga")
NEED_EXAMPLES = ("eva", "corda", "lora_ga")
EVA_ROWS = 8  # examples at a time: the decomposition wants more tokens than directions


def initialization(config: PeftConfig | None) -> str:
    """The method by which LoRA starts, in small letters; empty for the usual one and for other adapters."""
    chosen = config.init_lora_weights if isinstance(config, LoraConfig) else None
    return chosen.lower() if isinstance(chosen, str) else ""


def needs_examples(config: PeftConfig | None) -> bool:
    """True where the start is computed from training examples."""
    return initialization(config).startswith(NEED_EXAMPLES)


def changes_the_base(config: PeftConfig | None) -> bool:
    """True where attaching the adapter takes its start out of the base weights."""
    return initialization(config).startswith(CHANGE_THE_BASE)


def check_initialization(config: PeftConfig | None, num_examples: int, quantization: str) -> None:
    """Refuse, before the weights, a start that cannot be made.

    Raises:
        ConfigError: it needs examples and gets none, gets some and needs none, or does not go with the quantisation.
    """
    if needs_examples(config) != bool(num_examples):
        expected = (
            "at least 1, which this initialisation looks at" if needs_examples(config) else "none for this method"
        )
        raise ConfigError(
            f"peft.num_calibration_examples: expected {expected}, found {num_examples}; "
            f"{'set peft.num_calibration_examples=256' if needs_examples(config) else 'remove it'}."
        )
    if changes_the_base(config) and quantization != "none":
        raise ConfigError(
            f"model.quantization: expected none, found {quantization!r}: {initialization(config)} takes its start "
            "out of the base weights, which cannot be quantised then; set model.quantization=none, or use peft=loftq."
        )
    if initialization(config) == "loftq" and getattr(config, "loftq_config", {}).get("loftq_iter", 1) != 1:
        raise ConfigError("peft.loftq_config: expected loftq_iter=1, the only number there is here; remove the key.")
    if initialization(config) == "loftq" and quantization != "nf4":
        raise ConfigError(
            f"model.quantization: expected nf4, whose error LoftQ starts from, found {quantization!r}; "
            "set model.quantization=nf4."
        )


def check_started_layers(config: PeftConfig | None, base: ModelConfig) -> None:
    """Refuse, without weights, layers that a start cannot be taken out of.

    Raises:
        ConfigError: one is no linear layer, shares its weights with the embeddings, keeps them transposed, or has fewer
            directions than the rank.
    """
    wrapped: Any = on_meta(config, base) if config is not None and changes_the_base(config) else None
    if wrapped is None:
        return
    method = initialization(config)
    embeddings = {id(module.weight) for module in wrapped.modules() if isinstance(module, torch.nn.Embedding)}
    layers = {name: m for name, m in wrapped.get_base_model().named_modules() if isinstance(m, LoraLayer)}
    bases: dict[str, Any] = {name: layer.get_base_layer() for name, layer in layers.items()}
    plain = last_names(name for name, module in bases.items() if isinstance(module, torch.nn.Linear | Conv1D))
    for path, module in bases.items():
        linear = isinstance(module, torch.nn.Linear | Conv1D)
        if not linear or id(module.weight) in embeddings:
            problem = ", whose weights are the input embeddings too" if linear else f" ({type(module).__name__})"
            raise ConfigError(
                f"peft.target_modules: expected linear layers of their own weights, which {method} takes its start out "
                f"of, found {path}{problem}; leave it out (others: {', '.join(plain)}), or set peft=lora."
            )
        if method == "olora" and isinstance(module, Conv1D):
            raise ConfigError(
                f"peft.init_lora_weights: expected one that PEFT has for transposed weights, as {path} keeps them, "
                f"found {method!r}; set peft=pissa."
            )
    _require_directions(method, layers)


def _require_directions(method: str, layers: Mapping[str, Any]) -> None:
    """Raises ConfigError where a layer has fewer directions than the rank: PEFT makes do with those there are."""
    share = 2 if method.startswith("lora_ga") else 1  # whose two factors have directions of their own
    most = {name: min(layer.in_features, layer.out_features) // share for name, layer in layers.items()}
    short = [name for name, layer in layers.items() if layer.r["default"] > most[name]]
    if short:
        name = min(short, key=lambda each: most[each])
        raise ConfigError(
            f"peft.r: expected at most {most[name]}, the directions that {method} finds in {name}, found "
            f"{layers[name].r['default']}; set peft.r={most[name]}."
        )


def look_at_examples(model: PreTrainedModel, config: LoraConfig, batches: Sequence[Batch]) -> None:
    """Before the adapter is made: collect what CorDA (inputs) and LoRA-GA (gradients) start from."""
    name = initialization(config)
    if not name.startswith(("corda", "lora_ga")):
        return
    training = model.training
    with attention_implementation(model, dense_implementation(model)), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="Full backward hook is firing")  # PEFT's own, which only counts
        if name.startswith("corda"):
            preprocess_corda(model, config, run_model=lambda: _run(model, batches))
        else:
            preprocess_loraga(model, config, train_step=lambda: _run(model, batches, backward=True))
    model.train(training)


def finish_initialization(model: PeftModel, name: str, batches: Sequence[Batch], revision: str | None) -> None:
    """After the adapter is made: EVA decomposes the inputs of its layers, LoftQ the error of the quantised weights.

    `revision`: that of a base from the hub, whose files LoftQ reads.
    """
    if name == "eva":
        rows = [_stacked(batches[i : i + EVA_ROWS]) for i in range(0, len(batches), EVA_ROWS)]
        base: Any = model.get_base_model()
        with attention_implementation(base, dense_implementation(base)):
            initialize_lora_eva_weights(model.eval(), rows, gather_distributed_inputs=False, show_progress_bar=False)
    if name == "loftq":
        path = str(cast(Any, model.get_base_model()).config._name_or_path)
        cached = not Path(path).is_dir()
        folder = snapshot_download(path, revision=revision, local_files_only=True) if cached else path
        _start_as_error(model, _SafetensorLoader(model, folder))


@torch.no_grad()
def _start_as_error(model: PeftModel, exact: Any) -> None:
    """LoftQ with one iteration: B A is the best approximation, at its rank, of what quantising a weight lost.

    PEFT's own function for this needs CUDA.
    """
    layers: list[tuple[str, Any]] = [
        (n, module) for n, module in model.named_modules() if isinstance(module, LoraLayer)
    ]
    for name, layer in layers:
        stored: torch.Tensor = dequantize_bnb_weight(layer.get_base_layer().weight).float()
        weight = _exact_weight(exact, f"{name.removeprefix('base_model.model.')}.weight")
        lost = weight.to(stored.device, torch.float32) - stored
        left, values, right = torch.linalg.svd(lost, full_matrices=False)
        rank = layer.r["default"]
        roots = (values[:rank] / layer.scaling["default"]).sqrt()
        layer.lora_A["default"].weight.copy_(roots[:, None] * right[:rank])
        layer.lora_B["default"].weight.copy_(left[:, :rank] * roots)


def _exact_weight(exact: Any, name: str) -> torch.Tensor:
    try:
        return exact.get_tensor(name)
    except (SafetensorError, KeyError) as error:
        raise ModelError(
            f"peft.init_lora_weights: expected the weight {name} in the files of the base, whose error LoftQ starts "
            "from, found it under no such name, since transformers renames it; set peft=qlora."
        ) from error


def remember_start(model: PeftModel, config: PeftConfig) -> None:
    """Keep a copy of what was taken out of the base; it moves with the model and is never saved."""
    if not changes_the_base(config):
        return
    for layer in _layers(model):
        for part in ("A", "B"):
            start = getattr(layer, f"lora_{part}")["default"].weight.detach().clone()
            layer.register_buffer(f"start_{part}", start, persistent=False)


@torch.no_grad()
def as_plain_lora(model: Any) -> bool:
    """Turn an adapter on a changed base into one of twice the rank on the ordinary base; True where there was one.

    With the base W - s B0 A0 and the adapter s B A, the model is W + s [B, -B0] [A; A0]: the same function, in ordinary
    LoRA that any tool adds to the ordinary base. In place.
    """
    layers = [layer for layer in _layers(model) if hasattr(layer, "start_A")]
    for layer in layers:
        base, scaling = layer.get_base_layer().weight, layer.scaling["default"]
        start_a, start_b = layer.start_A.float(), layer.start_B.float()
        start = scaling * start_b @ start_a
        base.copy_(
            (base.float() + (start.T if getattr(layer, "fan_in_fan_out", False) else start)).to(base.dtype)
        )  # GPT-2's are (in, out)
        first, second = layer.lora_A["default"], layer.lora_B["default"]
        first.weight = torch.nn.Parameter(torch.cat([first.weight, start_a]), requires_grad=False)
        second.weight = torch.nn.Parameter(torch.cat([second.weight, -start_b], dim=1), requires_grad=False)
        first.out_features = second.in_features = layer.r["default"] = 2 * layer.r["default"]
        del layer.start_A, layer.start_B
    if layers:
        _double_rank(model.peft_config["default"])
    return bool(layers)


def _double_rank(config: LoraConfig) -> None:
    """Twice the rank at the same scaling: alpha / r, or alpha / sqrt(r) where that is asked for."""
    growth = 2**0.5 if config.use_rslora else 2
    ranks, alphas = dict(config.rank_pattern or {}), dict(config.alpha_pattern or {})
    config.rank_pattern = {key: 2 * rank for key, rank in ranks.items()}
    config.alpha_pattern = {key: growth * alpha for key, alpha in alphas.items()}
    config.r, config.lora_alpha = 2 * config.r, growth * config.lora_alpha  # pyright: ignore[reportAttributeAccessIssue]
    config.init_lora_weights = True
    config.corda_config = config.lora_ga_config = None


def _layers(model: Any) -> list[Any]:
    return [module for module in model.modules() if isinstance(module, LoraLayer)]


def _run(model: Any, batches: Sequence[Batch], backward: bool = False) -> None:
    for batch in batches:
        output = model(**batch, use_cache=False)
        if backward:
            output.loss.backward()


def _stacked(batches: Sequence[Batch]) -> dict[str, torch.Tensor]:
    """One right-padded batch of several examples; padding is masked, and its labels say so too."""
    fill = {"input_ids": 0, "attention_mask": 0, "labels": -100}
    return {
        name: torch.nn.utils.rnn.pad_sequence(
            [batch[name][0] for batch in batches], batch_first=True, padding_value=fill[name]
        )
        for name in fill
    }
