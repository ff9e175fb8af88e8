"""Makes what a run file names and this machine lacks: data sets by recipes and from sources, then a tiny random model.

Recipes and tiny models are those of its `build`. No other folder is made; the checks before a run refuse one that is missing.
"""

import json
import logging
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory

from vlrl.common.folder_lock import held
from vlrl.config import Config
from vlrl.data.build import build, report
from vlrl.data.column_rows import recipe_of
from vlrl.data.recipe import load_recipe
from vlrl.data.row_cache import RowsRequest
from vlrl.data.shards import MANIFEST, Dataset, file_sha256
from vlrl.inputs import attempt_each, row_folders, rows_request
from vlrl.models.config_json import FAMILIES
from vlrl.scoring import Scorer
from vlrl.scoring.start import start_scorer
from vlrl.tasks import load_task
from vlrl.telemetry.progress import announce

logger = logging.getLogger(__name__)
_LEARNED = (
    "tokenizer_data.json"  # in a tiny model's folder: the data sets that its tokenizer learned from, with their fingerprints
)
_TEXTS = 500  # rows of each data set that a tiny model's tokenizer learns from
_TIMEOUT_S, _MEMORY_MB = 10.0, 2048  # of the verifier for one answer, as in `vlrl data build`


def missing(config: Config) -> list[str]:
    """What `prepare` would make: folders, and the sources that rows come from."""
    return [*_missing_sets(config), *_missing_sources(config), *_missing_model(config)]


def prepare(config: Config) -> None:
    """Makes the missing data sets and the missing tiny model, and prints what it makes. What is there stays as it is, with a
    warning if it would be made differently now.

    Raises ValueError if a recipe or its source cannot be used, or for an unknown family.
    """
    for folder, family in config.build.tiny_models.items():
        if family not in FAMILIES:
            raise ValueError(f"build.tiny_models: {folder} is of {family!r}, no family that vlrl has; use {', '.join(FAMILIES)}")
    if sets := _missing_sets(config):
        with Scorer(config.task_folders, config.scoring.workers, _TIMEOUT_S, memory_mb=_MEMORY_MB) as scorer:
            for folder in sets:
                _build_sets(config, folder, scorer)
    build_missing_rows(config)
    for folder in _missing_model(config):
        _build_model(config, Path(folder))
    warn_of_outdated(config)


def warn_of_outdated(config: Config) -> None:
    """Logs what `outdated` says. Sets that are missing or damaged are left to the checks, which report all faults together."""
    with suppress(ValueError):
        for sentence in outdated(config):
            logger.warning(sentence)


def outdated(config: Config) -> Iterator[str]:
    """A sentence for each data set whose recipe has changed since, and for a tiny model made from other data than the run's."""
    for folder, recipe in {folder: how.recipe for folder, how in config.build.data.items()}.items():
        built = {Dataset(each).manifest.recipe_sha256 for each in _read_sets(config) if each.parent == Path(folder)} - {""}
        if built and Path(recipe).exists() and built != {file_sha256(Path(recipe))}:
            yield f"{folder} was built before {recipe} was changed; to train on what the recipe makes now, delete {folder}"
    record = Path(config.model) / _LEARNED
    if config.model in config.build.tiny_models and record.exists():
        learned, read = json.loads(record.read_text()), _fingerprints(_texts_folders(config))
        if set(learned.values()) != set(read.values()):
            yield (
                f"the tokenizer of {config.model} learned from other data sets than this run reads ({', '.join(learned)}), so "
                f"answers may have many more tokens; delete {config.model} to have it made again, or name another folder in "
                "model and build.tiny_models"
            )


def build_missing_rows(config: Config) -> None:
    """Builds what is missing in the cache, and prints what was kept and left out. Raises ValueError with one line per fault.

    One process calls it, before the others read the rows. It needs no torch.
    """
    _, faults = attempt_each({name: partial(_build_rows, config, name) for name in config.mixture})
    if faults:
        raise ValueError("\n".join(faults))


def texts_of(folders: Iterable[Path]) -> list[str]:
    """What a tiny model's tokenizer learns from: questions and responses of the first rows of each data set."""
    sets = [Dataset(folder) for folder in folders]
    rows = [each[number] for each in sets for number in range(min(_TEXTS, len(each)))]
    return [text for row in rows for text in (row.question, row.response)]


def learned_from(folder: Path, data: Iterable[Path]) -> None:
    """Writes into a tiny model's folder which data sets its tokenizer learned from."""
    (folder / _LEARNED).write_text(json.dumps(_fingerprints(data), indent=1))


def _fingerprints(data: Iterable[Path]) -> dict[str, str]:
    return {str(folder): Dataset(folder).fingerprint for folder in data}


def _texts_folders(config: Config) -> list[Path]:
    return sorted({row_folders(name, mix)[0] for name, mix in config.mixture.items()})


def _read_sets(config: Config) -> list[Path]:
    """The sets of a recipe's build that the mixture reads and that are there."""
    return [rows for rows in _named_sets(config) if (rows / MANIFEST).is_file()]


def _named_sets(config: Config) -> list[Path]:
    """The sets of a recipe's build that the mixture names: a folder of another name is a slip, which building would not mend."""
    named = [rows for mix in config.mixture.values() for rows in (mix.rows, mix.eval_rows) if isinstance(rows, Path)]
    return [rows for rows in named if rows.name in ("train", "eval")]


def _missing_sets(config: Config) -> list[str]:
    """The folders of `build.data` that lack a data set which the mixture reads."""
    lacking = {rows.parent for rows in _named_sets(config) if not (rows / MANIFEST).is_file()}
    return [folder for folder in config.build.data if Path(folder) in lacking]


def _missing_sources(config: Config) -> list[str]:
    """The sources whose rows are not built yet. Asks no other machine."""
    requests = [rows_request(name, mix) for name, mix in config.mixture.items()]
    return [str(asked.source) for asked in requests if asked and not asked.is_built]


def _missing_model(config: Config) -> list[str]:
    """The run's model, if `build.tiny_models` names it and it is missing; else nothing."""
    return [config.model] if config.model in config.build.tiny_models and not Path(config.model).exists() else []


def _build_sets(config: Config, folder: str, scorer: Scorer) -> None:
    how = config.build.data[folder]
    announce(f"Building {folder} by {how.recipe}")
    with held(Path(folder), doing="written", remedy="wait until it is built"):
        recipe = load_recipe(how.recipe)
        built, left_out = build(replace(recipe, task=how.task or recipe.task), Path(folder), scorer, source=how.source)
    print("\n".join(report(built, left_out, Path(folder))), flush=True)


def _build_rows(config: Config, name: str) -> None:
    request = rows_request(name, config.mixture[name])
    if request is None or request.is_built:
        return
    try:
        load_task(request.task, config.task_folders)
        _build_from_source(config, name, request)
    except ValueError as error:
        raise ValueError(f"mixture.{name}: {error}") from None


def _build_from_source(config: Config, name: str, request: RowsRequest) -> None:
    request, licence = request.pinned()
    announce(f"Building the rows of {name} from {request.source}")
    recipe = recipe_of(request.source, request.columns, request.task, licence=licence, held_out=request.held_out)
    with held(request.folder, doing="built", remedy="stop the other command"), start_scorer(config) as scorer:
        if request.is_built:  # by the command that held the lock; a run may read the rows by now
            return
        built, left_out = build(recipe, request.folder, scorer)
    print("\n".join(report(built, left_out, request.folder)))


def _build_model(config: Config, folder: Path) -> None:
    family = config.build.tiny_models[config.model]
    folders = _texts_folders(config)
    texts = texts_of(folders)
    announce(f"Making the tiny random model {folder} ({family}); its tokenizer learns from the run's data sets")
    from vlrl.models.tiny import build_tiny

    folder.parent.mkdir(parents=True, exist_ok=True)
    with TemporaryDirectory(dir=folder.parent) as aside:
        count = build_tiny(Path(aside) / folder.name, texts, family=FAMILIES[family])
        learned_from(Path(aside) / folder.name, folders)
        (Path(aside) / folder.name).rename(folder)  # in one move, so that a model that is there is whole
    print(f"{folder}: {count / 1e6:.2f} M parameters", flush=True)
