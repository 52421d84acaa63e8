"""The table of benchmarks/methods.py: by family, best loss first, beside LoRA's speed."""

from pathlib import Path
from typing import Any

BEGIN, END = "<!-- methods: begin -->", "<!-- methods: end -->"
BUSY_CORES = 0.1  # of others, above which a speed is marked as doubtful
OWN_SPEED = 0.9  # of LoRA's, from which on a method counts as equally fast

LORA = "LoRA, and what starts or scales it otherwise"
OTHER = "Other re-parametrisations"
PROMPTS = "Prompts"
PARTIAL = "A part of the weights, or all"
MEMBERS = {
    LORA: "lora qlora rslora dora lora_plus pissa olora mica loftq eva corda lora_ga velora adalora",
    PROMPTS: "prompt_tuning p_tuning prefix_tuning cartridge adaption_prompt",
    PARTIAL: "none last_layers ln_tuning beft shira supertuning trainable_tokens osf",
}  # every other method is one of OTHER
FAMILIES = {name: family for family, names in MEMBERS.items() for name in names.split()}
ORDER = (LORA, OTHER, PROMPTS, PARTIAL)
COLUMNS = ("trained", "test loss", "exact match", "tokens/s", "of LoRA's", "memory, MiB", "export, KB")

READING = (
    "Test loss in nats per token, exact match over {num_test} test examples with greedy completions. Tokens/s: real "
    "tokens of training, the median over the steps after the first {warm_up_steps}; **bold** where it is at least "
    "{own_speed:.0%} of LoRA's. Memory: the peak of the process until the last training step, less what it holds "
    "before the weights are loaded: weights, gradients, optimizer, activations, and what the allocator keeps."
)


def table(results: dict[str, Any]) -> str:
    """The Markdown tables of all families; what failed stands below with its reason."""
    methods: dict[str, dict[str, Any]] = dict(results["methods"])
    base = methods.pop("base", None)
    good = {name: found for name, found in methods.items() if "error" not in found}
    reference = good.get("lora", {}).get("tokens_per_second")
    parts = [head(results, good)]
    if base and "error" not in base:
        untrained = f"loss {base['test_loss']:.4f}, exact match {base['test_exact_match']:.3f}"
        parts.append(f"The untrained base model: {untrained}.")
    for family in ORDER:
        members = {name: found for name, found in good.items() if FAMILIES.get(name, OTHER) == family}
        if members:
            parts += [f"**{family}**", rows(members, reference)]
    if any(is_doubtful(found) for found in good.values()):
        parts.append("~ Other processes kept more than a tenth of a core busy: the speed is a trial only.")
    failed = {name: found for name, found in results["methods"].items() if "error" in found}
    return "\n\n".join([*parts, *(f"`{name}` failed: {found['error']}" for name, found in sorted(failed.items()))])


def head(results: dict[str, Any], good: dict[str, dict[str, Any]]) -> str:
    """How all was measured, in a few sentences."""
    setting, machine = results["setting"], results["machine"]
    packages = next(iter(good.values()))["packages"] if good else {}
    versions = ", ".join(f"{name} {packages[name]}" for name in ("torch", "transformers", "peft") if name in packages)
    how = f"{setting['num_steps']} steps of 16 examples, one run each, seed {setting['seed']}"
    return f"{how}; {setting['threads']} threads of {machine['cpu']}; {versions}.\n" + READING.format(
        num_test=setting["num_test_examples"], warm_up_steps=setting["warm_up_steps"], own_speed=OWN_SPEED
    )


def rows(methods: dict[str, dict[str, Any]], reference: float | None) -> str:
    """One table, lowest test loss first; `reference` is LoRA's speed."""
    lines = [f"| `peft=` | {' | '.join(COLUMNS)} |", "|---|" + "--:|" * len(COLUMNS)]
    for name, found in sorted(methods.items(), key=lambda item: item[1]["test_loss"]):
        share = found["tokens_per_second"] / reference if reference else None
        shown = "" if share is None else f"{share:.2f}"
        cells = (
            f"{found['num_trainable_parameters']:,}",
            f"{found['test_loss']:.4f}",
            f"{found['test_exact_match']:.3f}",
            f"{'~' * is_doubtful(found)}{found['tokens_per_second']:,.0f}",
            f"**{shown}**" if share is not None and share >= OWN_SPEED else shown,
            f"{(found['peak_resident_bytes'] - found['resident_before_weights_bytes']) / 2**20:,.0f}",
            f"{found['export_bytes'] / 1000:,.0f}",
        )
        lines.append(f"| `{name}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def is_doubtful(found: dict[str, Any]) -> bool:
    """True where other processes computed meanwhile."""
    return (found.get("cores_of_others") or 0.0) > BUSY_CORES


def rewrite(page: Path, text: str) -> None:
    """Put the tables between the two marks of the page."""
    before, _, rest = page.read_text(encoding="utf-8").partition(BEGIN)
    after = rest.partition(END)[2]
    page.write_text(f"{before}{BEGIN}\n\n{text}\n\n{END}{after}", encoding="utf-8")
