"""How held-out rows are sampled."""

from typing import Annotated

from pydantic import Field

from vlrl.common.settings import Count, Section


class EvaluationPreset(Section):
    """Other sampling settings for the held-out rows. A setting that is left out has the value in `evaluation`.

    samples: responses to each row. temperature, top_p, top_k, max_new_tokens: instead of those in `evaluation`.
    """

    samples: Count | None = None
    temperature: Annotated[float, Field(ge=0)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=0)] | None = None
    max_new_tokens: Count | None = None


class EvaluationConfig(Section):
    """How held-out rows are sampled.

    rows: the most rows of each task; more of them give narrower intervals. samples: responses to each row, for avg@k and pass@k.
    temperature: 0 takes the most likely token. top_p: the share of probability that is sampled from. top_k: how many of the most
    likely tokens; 0 is no limit. max_new_tokens: as in training, if left out.
    every: steps between evaluations; 0 evaluates before and after the run only. presets: by name, other sampling settings, which
    `vlrl eval` measures too.
    """

    rows: Count = 256
    samples: Count = 1
    temperature: Annotated[float, Field(ge=0)] = 1.0
    top_p: Annotated[float, Field(gt=0, le=1)] = 1.0
    top_k: Annotated[int, Field(ge=0)] = 0
    max_new_tokens: Count | None = None
    every: Annotated[int, Field(ge=0)] = 0
    presets: dict[str, EvaluationPreset] = {}

    def all_presets(self) -> dict[str, "EvaluationConfig"]:
        """Every preset by its name; the settings of `evaluation` itself have the name ""."""
        return {"": self} | {
            name: self.model_copy(update=preset.model_dump(exclude_none=True)) for name, preset in self.presets.items()
        }
