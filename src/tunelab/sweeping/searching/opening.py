"""Opens the study of a search, optuna.db, and says in a sentence why it cannot be read or written."""

import contextlib
import json
import warnings
from collections.abc import Generator, Mapping, Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.study import StudyDirection
from sqlalchemy.exc import SQLAlchemyError

from tunelab.config import SearchConfig
from tunelab.errors import ConfigError, TunelabError, first_line
from tunelab.report.formatting import joined
from tunelab.sweeping.searching.objectives import Objective
from tunelab.sweeping.searching.space import Space

DATABASE = "optuna.db"
STUDY = "search"
ABSENT = "???"  # of a key that only one of two searches has


def asked_of_all(
    space: Space, objectives: Sequence[Objective], settings: SearchConfig, fixed: Mapping[str, Any]
) -> dict[str, Any]:
    """What all trials of one study have in common, as it is read back."""
    asked = {
        "the space": space.to_dict(),
        "search.objectives": [each.name for each in objectives],
        "search.seeds": list(settings.seeds),
        **fixed,
    }
    return json.loads(json.dumps(asked, default=str))


def open_study(path: Path, objectives: Sequence[Objective], asked: Mapping[str, Any]) -> optuna.Study:
    """The study in `path`, made where there is none.

    Raises:
        ConfigError: the one that lies there was asked for something else.
    """
    storage = optuna.storages.RDBStorage(f"sqlite:///{path}")
    known = any(study.study_name == STUDY for study in storage.get_all_studies())
    directions = [StudyDirection.MAXIMIZE if each.higher_is_better else StudyDirection.MINIMIZE for each in objectives]
    if not known:
        study = optuna.create_study(study_name=STUDY, storage=storage, directions=directions)
        study.set_user_attr("asked", asked)
        return study
    study = optuna.load_study(study_name=STUDY, storage=storage)
    earlier: dict[str, Any] = study.user_attrs.get("asked", {})
    other = [key for key in {**asked, **earlier} if earlier.get(key, ABSENT) != asked.get(key, ABSENT)]
    if other:
        raise ConfigError(
            f"sweep.name: expected the search that lies in {path.parent}, found another one (it differs in "
            f"{joined(other)}); set sweep.name=<another>."
        )
    return study


@contextlib.contextmanager
def told(path: Path) -> Generator[None]:
    """Say in a sentence why the study cannot be read or written; leave out what Optuna warns of.

    Raises:
        TunelabError: it cannot.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    except (optuna.exceptions.StorageInternalError, SQLAlchemyError, OSError) as error:
        cause = error.__cause__ or error
        raise TunelabError(
            f"{path}: expected a study of Optuna that can be read and written, found: "
            f"{first_line(getattr(cause, 'orig', None) or cause)}; mend that, or set sweep.name=<another>."
        ) from error
