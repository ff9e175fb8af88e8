"""How a run file says that its data sets and its tiny model are made (see vlrl/prepare.py)."""

from pathlib import Path

from vlrl.common.settings import Section


class RecipeConfig(Section):
    """How `vlrl data build` makes the data sets of a folder.

    recipe: the recipe's file. source: what `vlrl data build` gets as --from. task: what it gets as --task.
    """

    recipe: Path
    source: str | None = None
    task: str | None = None


class BuildConfig(Section):
    """What a run's first start makes if it is missing.

    data: by the folder that gets train and eval. tiny_models: the family of each tiny random model, by its folder.
    """

    data: dict[str, RecipeConfig] = {}
    tiny_models: dict[str, str] = {}
