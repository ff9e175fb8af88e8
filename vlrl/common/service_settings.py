"""The settings of the services that verifiers may ask, as parts of the run file's `scoring`."""

from typing import Annotated, Any, Literal

from pydantic import Field

from vlrl.common.settings import Count, Positive, Section

ServiceName = Annotated[str, Field(pattern=r"^[A-Za-z0-9][A-Za-z0-9_-]*$")]


class ServiceConfig(Section):
    """A service that verifiers may ask.

    timeout_s: seconds for one request with all its retries. concurrency: requests under way at once, on each rank.
    """

    timeout_s: Positive = 60.0
    concurrency: Count = 8


class HttpConfig(ServiceConfig):
    """A service over HTTP.

    url: where it is. key_env: the environment variable with its key, which is sent as a bearer token and never printed.

    retries: after a request that found no connection, or a busy or failing server; with growing pauses. max_requests: a run's
    budget, over all its ranks and resumes; beyond it, questions are errors.
    """

    url: str = Field(pattern=r"^https?://")
    key_env: str | None = None
    retries: Annotated[int, Field(ge=0)] = 4
    max_requests: Count | None = None


class JudgeConfig(HttpConfig):
    """A model behind an OpenAI-compatible server.

    model: its name there. temperature: for its replies; 0 takes the most likely token. url: up to /v1, as in
    http://127.0.0.1:8000/v1.

    max_new_tokens: the longest reply in tokens. structured: the server enforces the reply's form, by response_format. body:
    more settings of the request, such as chat_template_kwargs. max_tokens: a run's budget of tokens, of prompts and replies.
    """

    model: str
    temperature: Annotated[float, Field(ge=0)] = 0.0
    max_new_tokens: Count = 1024
    structured: bool = False
    body: dict[str, Any] = {}
    max_tokens: Count | None = None


class GraderConfig(HttpConfig):
    """A grader of the team's own.

    batch: the most items in a request.
    """

    concurrency: Count = 2
    batch: Count = 32


class RewardModelConfig(ServiceConfig):
    """A model of transformers' AutoModelForSequenceClassification with one output, in a process of its own.

    model: its folder, or its name on the hub. dtype: the type of its weights. threads: how many torch uses in that process.
    device: as torch names it. max_length: tokens of a question and a response; more are an error. batch: the most in a
    forward. start_s: the longest time for loading it.
    """

    concurrency: Literal[1] = 1
    model: str
    device: str = "cpu"
    dtype: Literal["float32", "bfloat16"] = "float32"
    max_length: Count = 4096
    batch: Count = 16
    threads: Count = 1
    start_s: Positive = 600.0
