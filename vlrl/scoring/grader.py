"""A grader elsewhere: a server of the team's own that scores batches of responses over HTTP. See docs/judges.md."""

from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from vlrl.common.service_settings import GraderConfig
from vlrl.scoring.client import HttpClient
from vlrl.scoring.service import Failed, Replies
from vlrl.types import Status

_Number = Annotated[float, Field(allow_inf_nan=False)]


class _Graded(BaseModel):
    """One item's score, as the grader must write it."""

    model_config = ConfigDict(extra="forbid", strict=True)

    reward: _Number
    status: Literal["ok", "error", "timeout", "bad_row"] = "ok"
    parts: dict[str, _Number] = {}
    detail: Annotated[str, Field(max_length=2000)] = ""


_GRADED = TypeAdapter(list[_Graded])


class Grader:
    """The backend of a Service."""

    identity = ""

    def __init__(self, config: GraderConfig, place: str):
        self.place, self.batch = place, config.batch
        self._client = HttpClient(config, place)

    def check(self) -> None:
        """Raises ValueError unless the grader replies to an empty batch with an empty list."""
        try:
            self.ask([])
        except Failed as failed:
            raise ValueError(f"{failed.detail}; start the grader, or correct the url or the key") from None

    def ask(self, contents: Sequence[Mapping[str, Any]]) -> Replies:
        reply, requests = self._client.call("", list(contents))
        try:
            graded = _GRADED.validate_python(reply)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the reply"
            detail = f"{self.place}: the reply is not a list of scores: {where}: {first['msg']}, got {first['input']!r:.100}"
            raise Failed(detail, requests=requests) from None
        if len(graded) != len(contents):
            raise Failed(f"{self.place}: {len(graded)} scores for {len(contents)} items", requests=requests)
        return Replies(found=[self._found(each) for each in graded], requests=requests)

    def close(self) -> None:
        self._client.close()

    def _found(self, graded: _Graded) -> dict[str, Any] | Failed:
        """The score as JSON. One with status error or timeout is not kept, so that a resumed run asks again."""
        if graded.status in ("error", "timeout"):
            return Failed(f"{self.place} gives {graded.status}: {graded.detail}", status=Status(graded.status))
        return graded.model_dump()
