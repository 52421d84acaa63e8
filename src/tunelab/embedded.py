"""Finds the base model and the data sets that travel with the package (`embedded:<name>`)."""

from pathlib import Path

PREFIX = "embedded:"
_ASSETS = Path(__file__).parent / "assets"


def locate(path: str) -> str:
    """Return the file-system path that `path` means: `embedded:tickets/train.jsonl` lies inside the package."""
    return str(_ASSETS / path.removeprefix(PREFIX)) if path.startswith(PREFIX) else path
