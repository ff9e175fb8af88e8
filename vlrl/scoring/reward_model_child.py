"""The process of a reward model: python -m vlrl.scoring.reward_model_child SETTINGS, where SETTINGS is RewardModelConfig as JSON.

The first line of input is replied to with "" once the model is loaded, or with what is wrong with it. Each later line is a JSON
list of {"question", "response"}; the reply is the list of their scores, or of texts that say why there is none.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from vlrl.common.service_settings import RewardModelConfig
from vlrl.sandbox.child_stdio import take_pipes


class Model:
    """A sequence classification model with one output. Raises ValueError if it has more, OSError if it cannot be read."""

    def __init__(self, config: RewardModelConfig):
        import torch
        from transformers import AutoModelForSequenceClassification, AutoTokenizer

        self._config = config
        self._tokenizer = AutoTokenizer.from_pretrained(config.model)
        self._model = AutoModelForSequenceClassification.from_pretrained(config.model, dtype=getattr(torch, config.dtype))
        if self._model.config.num_labels != 1:
            raise ValueError(f"has {self._model.config.num_labels} outputs; a reward model has one")
        if self._tokenizer.pad_token is None:
            self._tokenizer.pad_token = self._tokenizer.eos_token
        if self._model.config.get_text_config().pad_token_id is None:
            self._model.config.get_text_config().pad_token_id = self._tokenizer.pad_token_id
        self._tokenizer.padding_side = "right"
        self._model.eval().to(config.device)

    def scores(self, items: Sequence[Mapping[str, str]]) -> list[Any]:
        """The model's output for each item; a text for an item that is too long or whose score is not finite."""
        import torch

        encoded = [self._encode(item["question"], item["response"]) for item in items]
        most = self._config.max_length
        found: list[Any] = [f"{len(ids)} tokens are more than max_length {most}" for ids in encoded]
        fitting = [number for number, ids in enumerate(encoded) if len(ids) <= most]
        if fitting:
            batch = self._tokenizer.pad({"input_ids": [encoded[number] for number in fitting]}, return_tensors="pt")
            with torch.inference_mode():
                logits = self._model(**batch.to(self._config.device)).logits[:, 0].float()
            for number, score in zip(fitting, logits.tolist(), strict=True):
                found[number] = score if abs(score) < float("inf") else f"the score {score} is not finite"
        return found

    def _encode(self, question: str, response: str) -> list[int]:
        """The tokens of a conversation by the model's chat template; without one, of a pair of texts."""
        if not self._tokenizer.chat_template:
            return self._tokenizer(question, response)["input_ids"]
        turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
        encoded: Any = self._tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True)
        return encoded["input_ids"]


def main(settings: str) -> None:
    requests, replies = take_pipes(silent=False)

    def reply(value: Any) -> None:
        replies.write(json.dumps(value).encode() + b"\n")
        replies.flush()

    requests.readline()
    try:
        import vlrl.models.cuda_wheels  # noqa: F401 (before transformers)

        model = Model(RewardModelConfig.model_validate_json(settings))
    except Exception as error:  # of transformers or of torch, whatever is wrong with the model or the device
        reply(" ".join(f"cannot be used: {type(error).__name__}: {error}".split())[:500])
        return
    reply("")
    for line in requests:
        reply(model.scores(json.loads(line)))


if __name__ == "__main__":
    main(sys.argv[1])
