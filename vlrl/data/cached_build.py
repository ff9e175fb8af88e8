"""Builds the rows of the sources that a run file names, before the run, unless they are there already."""

from functools import partial

from vlrl.common.folder_lock import held
from vlrl.config import Config
from vlrl.data.build import build, report
from vlrl.data.column_rows import recipe_of
from vlrl.data.row_cache import RowsRequest
from vlrl.inputs import attempt_each, rows_request
from vlrl.scoring.start import start_scorer
from vlrl.tasks import load_task
from vlrl.telemetry.progress import announce


def build_missing_rows(config: Config) -> None:
    """Builds what is missing in the cache, and prints what was kept and left out. Raises ValueError with one line per fault.

    One process calls it, before the others read the rows. It needs no torch.
    """
    _, faults = attempt_each({name: partial(_build_missing, config, name) for name in config.mixture})
    if faults:
        raise ValueError("\n".join(faults))


def missing_sources(config: Config) -> dict[str, str]:
    """The sources whose rows are not built yet, by the task in the mixture. Asks no other machine."""
    requests = {name: rows_request(name, mix) for name, mix in config.mixture.items()}
    return {name: str(asked.source) for name, asked in requests.items() if asked and not asked.is_built}


def _build_missing(config: Config, name: str) -> None:
    request = rows_request(name, config.mixture[name])
    if request is None or request.is_built:
        return
    try:
        load_task(request.task, config.task_folders)
        _build(config, name, request)
    except ValueError as error:
        raise ValueError(f"mixture.{name}: {error}") from None


def _build(config: Config, name: str, request: RowsRequest) -> None:
    request, licence = request.pinned()
    announce(f"Building the rows of {name} from {request.source}")
    recipe = recipe_of(request.source, request.columns, request.task, licence=licence, held_out=request.held_out)
    with held(request.folder, doing="built", remedy="stop the other command"), start_scorer(config) as scorer:
        if request.is_built:  # by the command that held the lock; a run may read the rows by now
            return
        built, left_out = build(recipe, request.folder, scorer)
    print("\n".join(report(built, left_out, request.folder)))
