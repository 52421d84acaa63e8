"""Data sets of the Hugging Face hub: fetched once into its local cache, then read from the Arrow files there."""

from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunelab.data.records import BadRow, Row
from tunelab.data.sources.tables import rows_of
from tunelab.errors import DataError, first_line
from tunelab.hashing import file_sha256

_TIMEOUT_SECONDS = 10  # for the first answer of the hub; without one, the local cache is asked


@dataclass(frozen=True, slots=True)
class HubName:
    """What to fetch: `org/name`, a configuration (`subset`), a split, a commit, tag or branch, a folder in it."""

    name: str
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    folder: str | None = None

    def __str__(self) -> str:
        parts = f"{self.name}/{self.subset}" if self.subset else self.name
        return f"{parts}:{self.split}"


@dataclass(frozen=True, slots=True)
class HubRows:
    """The rows of a loaded data set. `commit` is None where it came from the cache without word from the hub."""

    label: str
    dataset: Any
    commit: str | None

    @property
    def note(self) -> str:
        """Which state of the data set this is."""
        return f"commit {self.commit} on the hub" if self.commit else "from the local cache: the hub was not reached"

    def rows(self) -> Iterator[Row | BadRow]:
        """The rows, batch by batch from the memory-mapped Arrow files."""
        tables = self.dataset.with_format("arrow").iter(batch_size=256)
        batches = (batch for table in tables for batch in table.to_batches())
        yield from rows_of(batches, list(self.dataset.column_names), self.label)

    def fingerprints(self) -> dict[str, str]:
        """The commit, or else the SHA-256 of each Arrow file in the cache."""
        if self.commit:
            return {self.label: self.commit}
        files = [Path(entry["filename"]) for entry in self.dataset.cache_files]
        return {f"{self.label}:{file.name}": file_sha256(file) for file in files}


def load_from_hub(wanted: HubName, key: str) -> HubRows:
    """Fetch a data set, or take it from the cache where the hub cannot be reached. Scripts are never run.

    Raises DataError naming `key`: there is no such data set, revision, subset or split, or no network and no copy.
    """
    import datasets  # two seconds, which files need not wait for

    answer = _ask(wanted, key)
    commit, silence = (answer, None) if isinstance(answer, str) else (None, answer)
    try:
        with _offline(commit is None):
            dataset = datasets.load_dataset(
                wanted.name,
                wanted.subset,
                split=wanted.split,
                revision=commit or wanted.revision,
                data_dir=wanted.folder,
            )
    except Exception as error:  # of whatever class: the library passes on those of its own libraries
        raise DataError(
            f"{key}: expected a local file or a data set of the hub, found {str(wanted)!r}, which cannot be loaded "
            f"({first_line(silence or error)}); {_remedy(error, commit, key)}."
        ) from error
    return HubRows(str(wanted), dataset, commit)


def _ask(wanted: HubName, key: str) -> str | Exception:
    """The commit that the hub has for the revision; an error where the hub gives no answer in time."""
    from huggingface_hub import HfApi, errors

    try:
        info = HfApi().dataset_info(wanted.name, revision=wanted.revision, timeout=_TIMEOUT_SECONDS)
        return info.sha or ValueError("the hub named no commit")
    except errors.RevisionNotFoundError as error:
        raise DataError(
            f"data.revision: expected a commit, tag or branch of {wanted.name!r}, found {wanted.revision!r}, which the "
            "hub does not have; set data.revision=<one that it has>."
        ) from error
    except errors.GatedRepoError as error:
        raise DataError(
            f"{key}: the data set {wanted.name!r} asks for consent to its terms; accept them on its page, and log in "
            "with hf auth login."
        ) from error
    except (errors.RepositoryNotFoundError, errors.HFValidationError) as error:
        raise DataError(
            f"{key}: found no local file or folder {wanted.name!r}, and the hub shows no data set of this name; set "
            f"{key} to one that exists, or log in with hf auth login where it is private."
        ) from error
    except Exception as error:  # no network, no answer in time, a hub in trouble: the cache may still have it
        return error


@contextmanager
def _offline(offline: bool) -> Generator[None]:
    """Keep both libraries from retrying, for half a minute, to reach a hub that has just given no answer."""
    from datasets import config
    from huggingface_hub import constants

    before = config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE
    if offline:
        config.HF_HUB_OFFLINE = constants.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        config.HF_HUB_OFFLINE, constants.HF_HUB_OFFLINE = before


def _remedy(error: Exception, commit: str | None, key: str) -> str:
    said = str(error).lower()
    if key == "data.name" and ("config" in said or "split" in said):
        return "mend subset and split in the entry"
    if "config" in said:
        return "set data.subset to one of them"
    if "split" in said:
        return "set data.hub_split to one of them" if key == "data.path" else f"set {key}=<org/name>:<one of them>"
    if commit is None:
        return f"there is no local file of this name, no answer from the hub and no copy in the cache: set {key}=<file>"
    return f"download its files and set {key}=<file or folder>"
