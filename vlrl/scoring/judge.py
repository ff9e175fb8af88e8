"""A judge: a model behind an OpenAI-compatible server, which gives verdicts on texts. See vlrl.common.judge_prompt."""

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.common.judge_prompt import judge_messages, read_verdict, verdict_schema
from vlrl.common.service_settings import JudgeConfig
from vlrl.scoring.client import HttpClient
from vlrl.scoring.service import Failed, Replies

_CODE_BYTES = 6


class Judge:
    """Asks one question a request: servers batch by themselves. The backend of a Service."""

    batch = 1

    def __init__(self, config: JudgeConfig, place: str):
        self.place = place
        self._config = config
        self._client = HttpClient(config, place)
        asked = config.model_dump(include={"model", "temperature", "max_new_tokens", "structured", "body"})
        self.identity = json.dumps(asked, sort_keys=True)

    def check(self) -> None:
        """Raises ValueError if the server does not answer, or says that it serves other models."""
        try:
            listed, _ = self._client.call("/models", None, method="GET")
        except Failed as failed:
            raise ValueError(f"{failed.detail}; start the server, or correct the url or the key") from None
        served = [str(each.get("id")) for each in _dicts(listed.get("data") if isinstance(listed, dict) else None)]
        if served and self._config.model not in served:
            raise ValueError(f"{self.place}.model: the server has no {self._config.model!r}; it serves {', '.join(served)}")

    def ask(self, contents: Sequence[Mapping[str, Any]]) -> Replies:
        (content,) = contents
        code = _code_for(content)
        config = self._config
        body: dict[str, Any] = {
            "model": config.model,
            "messages": judge_messages(content, code),
            "temperature": config.temperature,
            "max_tokens": config.max_new_tokens,
            **config.body,
        }
        if config.structured:
            schema = {"name": "verdict", "strict": True, "schema": verdict_schema(content, code)}
            body["response_format"] = {"type": "json_schema", "json_schema": schema}
        reply, requests = self._client.call("/chat/completions", body)
        return Replies(found=[self._verdict(reply, content, code)], requests=requests, tokens=_tokens(reply))

    def close(self) -> None:
        self._client.close()

    def _verdict(self, reply: Any, content: Mapping[str, Any], code: str) -> str | Failed:
        try:
            choice = reply["choices"][0]
            text, ending = choice["message"]["content"], choice["finish_reason"]
            if not isinstance(text, str):
                raise TypeError
        except (KeyError, IndexError, TypeError):
            return Failed(f"{self.place}: the reply is not a chat completion: {json.dumps(reply)[:200]}")
        if ending != "stop":
            return Failed(f"{self.place}: the judge's reply ended with {ending!r}, not with 'stop'; raise max_new_tokens")
        try:
            return read_verdict(text, content, code)
        except (ValueError, RecursionError) as error:
            return Failed(f"{self.place}: the judge's reply is not a verdict, since {error}: {text[-200:]!r}")


def _code_for(content: Mapping[str, Any]) -> str:
    """A random code that is in none of the question's texts."""
    said = json.dumps(content)
    while (code := secrets.token_hex(_CODE_BYTES)) in said:
        pass
    return code


def _tokens(reply: Any) -> int:
    usage = reply.get("usage") if isinstance(reply, dict) else None
    total = usage.get("total_tokens") if isinstance(usage, dict) else None
    return total if isinstance(total, int) else 0


def _dicts(value: Any) -> list[dict[str, Any]]:
    return [each for each in value if isinstance(each, dict)] if isinstance(value, list) else []
