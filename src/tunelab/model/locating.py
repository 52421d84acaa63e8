"""Finds out in seconds whether a base model can be had: embedded, in a folder, in the local cache, or on the hub."""

import functools
import os
from pathlib import Path

from huggingface_hub import HfApi, try_to_load_from_cache
from huggingface_hub.errors import GatedRepoError as _GatedRepoError
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, RepositoryNotFoundError

from tunelab.embedded import PREFIX, locate
from tunelab.errors import ModelError, first_line
from tunelab.suggesting import did_you_mean

PROBE_TIMEOUT_SECONDS = 10.0


def resolve_model(path: str, revision: str | None = None) -> str:
    """Return a folder, or a hub name that is cached or reachable.

    transformers itself retries an unreachable hub for tens of seconds a file; here one short question is asked.

    Raises:
        ModelError: no such folder or hub name, a revision of a folder, no permission, or neither cached nor reachable.
    """
    located = Path(locate(path)).expanduser()
    if located.is_dir():
        if not (located / "config.json").is_file():
            raise ModelError(f"model.path: expected a model folder with config.json, found none in {path!r}.")
        if revision is not None:
            raise ModelError(
                f"model.revision: expected none for a folder, which has one version, found {revision!r} for {path!r}; "
                "set model.revision=null."
            )
        return str(located)
    if _looks_like_folder(path):
        if located.exists():
            raise ModelError(
                f"model.path: expected a folder with config.json, found a file, {path!r}; set model.path=<folder>."
            )
        siblings = [p.name for p in located.parent.iterdir()] if located.parent.is_dir() else []
        raise ModelError(
            f"model.path: there is no folder {path!r}{did_you_mean(located.name, siblings)}; "
            "set model.path=<folder or hub name>."
        )
    try:
        cached = try_to_load_from_cache(path, "config.json", revision=revision)
    except HFValidationError as error:
        raise ModelError(
            f"model.path: {path!r} is neither a folder nor a hub name ({first_line(error)}); "
            "set model.path=<folder or hub name>."
        ) from error
    if not isinstance(cached, str):
        _probe_hub(path, revision)
    return path


def reads_local_files_only(source: str) -> bool:
    """Whether the files of `source` (from `resolve_model`) are to be read from this machine alone.

    So for a folder, and for a hub that does not answer: libraries would ask it again for every file that a checkpoint
    may lack, with retries. It is asked once a process.
    """
    return Path(source).is_dir() or _is_offline() or not _hub_answers(source)


@functools.cache
def _hub_answers(name: str) -> bool:
    try:
        HfApi().model_info(name, timeout=PROBE_TIMEOUT_SECONDS)
    except HfHubHTTPError:  # a refusal is an answer
        return True
    except Exception:  # the HTTP client's own errors: no route, no name service, time-out
        return False
    return True


def _is_offline() -> bool:
    return os.environ.get("HF_HUB_OFFLINE", "").lower() in ("1", "true", "yes", "on")


def refuse_code(path: str, error: BaseException | None = None) -> None:
    """Raise the sentence for a checkpoint whose own Python code would have to run; pass over other errors.

    `error`: what transformers raised; it names its own argument for this.

    Raises:
        ModelError: the checkpoint cannot be used without its code.
    """
    if error is None or "trust_remote_code" in str(error):
        raise ModelError(
            f"model.trust_remote_code: {path!r} is written in Python code of its own, which would run with your rights "
            "and which transformers does not have; read that code, then set model.trust_remote_code=true."
        ) from error


def written_path(path: str) -> str:
    """How an export names its base model: a folder from the root of this machine, a hub name as it is."""
    folder = Path(locate(path)).expanduser()
    return str(folder.absolute()) if folder.is_dir() else path


def is_hub_name(path: str) -> bool:
    """Whether a base model is named as on the hub: `<owner>/<name>`, or a name alone, and no folder."""
    return not (_looks_like_folder(path) or Path(path).is_dir())


def _looks_like_folder(path: str) -> bool:
    return path.startswith((PREFIX, "/", ".", "~")) or path.count("/") > 1 or path.endswith("/")


def _probe_hub(name: str, revision: str | None) -> None:
    where = f"{name!r}" + (f" at revision {revision!r}" if revision else "")
    remedy = "set model.path=<folder> to use a copy on this machine"
    if _is_offline():
        raise ModelError(f"model.path: {where} is not in the local cache, and HF_HUB_OFFLINE is set; {remedy}.")
    try:
        found = HfApi().model_info(name, revision=revision, timeout=PROBE_TIMEOUT_SECONDS)
    except _GatedRepoError as error:
        raise ModelError(
            f"model.path: {where} is gated; accept its terms on the hub and set the variable HF_TOKEN, or {remedy}."
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model.path: the hub knows no model {where} that you may read; check the name, or {remedy}."
        ) from error
    except HfHubHTTPError as error:
        raise ModelError(f"model.path: the hub refused {where} ({first_line(error)}); {remedy}.") from error
    except Exception as error:  # the HTTP client's own errors: no route, no name service, time-out
        raise ModelError(
            f"model.path: {where} is neither a folder nor in the local cache, and the hub cannot be reached "
            f"({type(error).__name__}); connect to the network, or {remedy}."
        ) from error
    files = [file.rfilename for file in found.siblings or ()]
    if files and not any(file.endswith(".safetensors") for file in files):
        raise ModelError(
            f"model.path: expected *.safetensors at {where}, found none; other weights are not read: set "
            "model.revision to one that has them, or model.path=<folder> to a converted copy (docs/models.md)."
        )
