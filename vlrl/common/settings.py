"""What sections of a run file are made of: the base of each section, and the kinds of numbers."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

Positive = Annotated[float, Field(gt=0)]
Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0, le=1)]
GroupSize = Annotated[int, Field(ge=2)]


class Section(BaseModel):
    """A section of the run file. An unknown key is an error."""

    model_config = ConfigDict(extra="forbid", frozen=True)
