"""The optimizer: which parameters in which group, at which share of the learning rate, and by which class."""

import inspect
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from tunelab.components import build_component, resolve_target
from tunelab.config import OptimConfig, mark_read
from tunelab.errors import ConfigError, first_line
from tunelab.training.averaging import averaged_weights, begin_training
from tunelab.training.schedules import learning_rate

LR_RATIO = "lr_ratio"  # of a parameter group: its rate over that of the schedule
B_MATRICES = {"lora_B", "lora_embedding_B"}  # PEFT's names of the factor that starts at zero
Parameters = Mapping[str, torch.nn.Parameter]


class CombinedOptimizer(torch.optim.Optimizer):
    """Several optimizers, each over parameters of its own, that step, save and load as one."""

    def __init__(self, parts: list[torch.optim.Optimizer]) -> None:
        super().__init__([{"params": group["params"]} for part in parts for group in part.param_groups], {})
        self.parts = parts
        self._show_groups()

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Step each; `closure` runs once, before."""
        result = closure() if closure else None
        for part in self.parts:
            part.step()
        return result

    def state_dict(self) -> dict[str, Any]:
        """The state of each, in order."""
        return {"parts": [part.state_dict() for part in self.parts]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load each."""
        for part, state in zip(self.parts, state_dict["parts"], strict=True):
            part.load_state_dict(state)
        self._show_groups()

    def _show_groups(self) -> None:
        """The groups are those of the parts, so that a rate that is set here is theirs (loading makes new ones)."""
        self.param_groups = [group for part in self.parts for group in part.param_groups]


def build_optimizer(
    config: OptimConfig, model: torch.nn.Module, lr: float, scaled_gradients: bool
) -> torch.optim.Optimizer:
    """Build what `optim.optimizer` names over the trainable parameters of `model`.

    With `optim.rest` only over its hidden matrices, and what `rest` names over the others: embeddings, the head and
    all that is no matrix. Where a class has a fused kernel it is used unless the configuration says otherwise:
    adapters are hundreds of small tensors. Not with a gradient scaler (float16), whose unscaling has to come before
    the clipping.

    Raises:
        ConfigError: unknown class or argument, a value or a parameter the class refuses, LoRA+ without B matrices, or
            `optim.rest` with nothing but the rest.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    ratio = config.lora_plus_ratio
    if ratio is not None and not any(map(_is_b_matrix, trained)):
        raise ConfigError(
            "optim.lora_plus_ratio: expected LoRA's B matrices among the trained parameters, found none; "
            "set peft=lora or optim.lora_plus_ratio=null."
        )
    hidden = hidden_matrices(model) if config.rest else set(trained)
    shares = [("optim.optimizer", config.optimizer, hidden), ("optim.rest", config.rest, set(trained) - hidden)]
    parts = [
        _build(slot, node, {name: p for name, p in trained.items() if name in names}, lr, ratio, scaled_gradients)
        for slot, node, names in shares
        if names
    ]
    optimizer = parts[0] if len(parts) == 1 else CombinedOptimizer(parts)
    begin_training(optimizer)
    return optimizer


def hidden_matrices(model: torch.nn.Module) -> set[str]:
    """Names of the trained parameters that `optim.optimizer` has where `optim.rest` has the others.

    Raises:
        ConfigError: there are none, so that `optim.rest` alone would train.
    """
    trained = {name for name, p in model.named_parameters() if p.requires_grad}
    hidden = trained - _outside(model)
    if trained and not hidden:
        raise ConfigError(
            f"optim.optimizer: expected hidden matrices among the trained parameters, found only vectors and "
            f"embeddings, first {min(trained)}, all of which optim.rest would train; set optim=adamw."
        )
    return hidden


def set_learning_rate(optimizer: torch.optim.Optimizer, lr: float) -> None:
    """Give every parameter group its share of the schedule's rate `lr`."""
    for group in optimizer.param_groups:
        group["lr"] = lr * group.get(LR_RATIO, 1.0)


def suggested_learning_rate(hidden_size: int, adapter: bool) -> float:
    """The peak rate where none is given: 5e-5 * (2000 / hidden size)^0.781, and ten times that for adapters.

    The rule of "LoRA Without Regret" (Schulman et al. 2025) in its values for Llama models: 2.9e-4 for LoRA on a model
    of hidden size 4096, 3.1e-3 at 192. Two significant digits. A starting point, not a tuned value.
    """
    rate = 5e-5 * (10 if adapter else 1) * (2000 / hidden_size) ** 0.781
    return float(f"{rate:.1e}")


@dataclass(frozen=True, slots=True)
class Trained:
    """What is known of the trained parameters before there are any.

    `b_matrices`: LoRA's factors are among them; `everything`: they are the model's own, vectors included;
    `weighs_gradients`: the adapter looks at the gradients after the step (AdaLoRA's importance).
    """

    b_matrices: bool
    everything: bool
    weighs_gradients: bool = False


def check_optimizer(config: OptimConfig, lr: float, total_steps: int, trained: Trained, device: torch.device) -> None:
    """Take one step with a stand-in for the weights, so that a wrong argument shows now; and compute a rate.

    Raises:
        ConfigError: the optimizer cannot be built, cannot step, or does not go with the adapter.
    """
    model = _stand_in(trained.b_matrices, bool(config.rest) or trained.everything).to(device)
    optimizer = build_optimizer(config, model, lr, False)
    for parameter in model.parameters():
        parameter.grad = torch.full_like(parameter, 0.5)
    try:
        optimizer.step()
        averaged_weights(optimizer)
    except Exception as error:  # whatever the optimizer raises for a value that the user set
        raise ConfigError(
            f"optim.optimizer: {type(optimizer).__name__} cannot take a step with these arguments "
            f"({first_line(error)}); change or remove {_arguments(config)}."
        ) from error
    changed = any(not bool((p.grad == 0.5).all()) for p in model.parameters() if p.grad is not None)
    if trained.weighs_gradients and changed:
        raise ConfigError(
            f"optim.optimizer: expected one that leaves the gradients as they are, by which the adapter prunes its "
            f"ranks, found {type(optimizer).__name__}; set optim=adamw."
        )
    learning_rate(config, lr, total_steps - 1, total_steps)
    mark_read(config, "max_grad_norm")


def _arguments(config: OptimConfig) -> str:
    """The keys of what was given besides the classes."""
    parts = {"optim.optimizer": config.optimizer, "optim.rest": config.rest}
    keys = [f"{slot}.{key}" for slot, node in parts.items() for key in node or {} if key != "_target_"]
    return ", ".join(keys) or "optim.optimizer"


def _stand_in(b_matrices: bool, has_vectors: bool) -> torch.nn.Module:
    """Matrices named as the adapter's will be, just large enough for states of 8 bits, and vectors beside them."""
    names = ("lora_A", "lora_B") if b_matrices else ("weights",)
    return torch.nn.ModuleDict({name: torch.nn.Linear(64, 64, bias=has_vectors) for name in names})


def _build(
    slot: str, node: Mapping[str, Any], parameters: Parameters, lr: float, ratio: float | None, scaled_gradients: bool
) -> torch.optim.Optimizer:
    if "lr" in node:
        raise ConfigError(f"{slot}.lr: the learning rate is not set here, found {node['lr']!r}; set optim.lr=<rate>.")
    cls = resolve_target(str(node.get("_target_")), slot, torch.optim.Optimizer)
    odd = [name for name, p in parameters.items() if p.ndim != 2] if cls is torch.optim.Muon else []
    if odd:
        raise ConfigError(
            f"{slot}: Muon takes matrices only, found {len(odd)} other parameters, first {odd[0]}; "
            "set optim.rest._target_=torch.optim.AdamW."
        )
    known = inspect.signature(cls).parameters
    other = node.get("foreach") or node.get("differentiable")  # which torch does not combine with fused
    fused = {"fused": not scaled_gradients} if "fused" in known and not other else {}
    usual = known["weight_decay"].default if "weight_decay" in known else 0.0
    groups = _groups(parameters, lr, ratio, decays=bool(node.get("weight_decay", usual)))
    return build_component({**fused, **node}, slot, torch.optim.Optimizer, groups, lr=lr)


def _groups(parameters: Parameters, lr: float, ratio: float | None, decays: bool) -> list[dict[str, Any]]:
    """Parameter groups by rate and weight decay; one where neither differs.

    Weight decay is for matrices, embeddings included; norms, biases and other vectors have none. With a `ratio` the B
    matrices learn at that multiple of the rate (LoRA+, Hayou et al. 2024).
    """
    members: dict[tuple[float, bool], list[torch.nn.Parameter]] = {}
    for name, parameter in parameters.items():
        share = ratio if ratio is not None and _is_b_matrix(name) else 1.0
        spared = decays and (parameter.ndim < 2 or _is_bias(name))
        members.setdefault((share, spared), []).append(parameter)
    return [
        {"params": those, "lr": lr * share, LR_RATIO: share, **({"weight_decay": 0.0} if spared else {})}
        for (share, spared), those in members.items()
    ]


def _is_b_matrix(name: str) -> bool:
    return not B_MATRICES.isdisjoint(name.split("."))


def _is_bias(name: str) -> bool:
    """BEFT keeps its biases as rows of a matrix, (1, outputs)."""
    return "bias" in name


def _outside(model: torch.nn.Module) -> set[str]:
    """Names of the parameters that are no hidden matrices: embeddings, the head, biases, and all that is not 2-D.

    What an adapter trains of an embedding (rows of new tokens, LoRA's factors) belongs to it: PEFT keeps the embedding
    itself as `base_layer` of the module that holds them.
    """
    find_head = getattr(model, "get_output_embeddings", None)
    ends = [m for m in model.modules() if isinstance(getattr(m, "base_layer", m), torch.nn.Embedding)]
    ends += [head] if find_head and (head := find_head()) is not None else []
    at_ends = {id(parameter) for module in ends for parameter in module.parameters()}
    return {name for name, p in model.named_parameters() if p.ndim != 2 or _is_bias(name) or id(p) in at_ends}
