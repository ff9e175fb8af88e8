"""A reward model in its own process: its score, by the stated map, is the reward; a process that dies is an error."""

import os
import signal
import time
from pathlib import Path

import psutil
import pytest
import torch

from tests.conftest import PATIENCE_S
from vlrl.authoring.task_tools import score_all
from vlrl.config import ScoringConfig
from vlrl.scoring import Scorer
from vlrl.scoring.start import open_backends, open_services
from vlrl.types import Row, Status

pytestmark = pytest.mark.slow  # its processes import torch and transformers

PREFERRED = """
from vlrl.types import Row, Score
from vlrl.verifiers.judges import preference

def prompt(row):
    return []

def verify(response, row):
    return Score(reward=preference(row.question, response, low=-2.0, high=2.0))

EXAMPLES = [("a", Row(answer="a"), 1.0)]
"""


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_dense) -> str:
    """A tiny random model with one output, and the tokenizer of a tiny Qwen-VL."""
    from transformers import AutoTokenizer, Qwen3Config, Qwen3ForSequenceClassification

    folder = tmp_path_factory.mktemp("models") / "reward"
    tokenizer = AutoTokenizer.from_pretrained(tiny_dense)
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=2,
        head_dim=16,
        num_labels=1,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(0)
    Qwen3ForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def own_score(model: str, question: str, response: str) -> float:
    """The model's score of one conversation without padding, by transformers alone."""
    from transformers import AutoModelForSequenceClassification, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    turns = [{"role": "user", "content": question}, {"role": "assistant", "content": response}]
    tokens = tokenizer.apply_chat_template(turns, tokenize=True, return_dict=True, return_tensors="pt")
    with torch.inference_mode():
        return AutoModelForSequenceClassification.from_pretrained(model, dtype=torch.float32)(**tokens).logits.item()


def pool(folder: Path, model: str, **settings) -> Scorer:
    (folder / "preferred.py").write_text(PREFERRED)
    services = open_services(ScoringConfig(reward_models={"reward_model": {"model": model} | settings}), None)
    return Scorer([folder], 2, PATIENCE_S, memory_mb=2048, services=services)


PAIRS = [
    ("a short one", Row(question="Say something.")),
    ("a much longer one " * 9, Row(question="Say more.")),
    ("", Row(question="?")),
]


def test_a_reward_is_the_models_score_by_the_stated_map(tmp_path, model):
    with pool(tmp_path, model, batch=3) as scorer:
        found = score_all("preferred", PAIRS, scorer)
    for (response, row), score in zip(PAIRS, found, strict=True):
        mapped = min(1.0, max(0.0, (own_score(model, row.question, response) + 2) / 4))
        assert score.reward == pytest.approx(mapped, abs=1e-5), score
    assert len({score.reward for score in found}) == 3


def test_the_model_is_loaded_once_and_again_after_its_process_died(tmp_path, model):
    with pool(tmp_path, model) as scorer:
        first = score_all("preferred", PAIRS, scorer)
        (process,) = processes()
        assert score_all("preferred", PAIRS, scorer) == first
        assert processes() == [process]
        os.kill(process.pid, signal.SIGKILL)
        while process.status() != psutil.STATUS_ZOMBIE:  # its parent will see its end, and this test must not take that away
            time.sleep(0.01)
        (died,) = score_all("preferred", [("new", Row())], scorer)
        assert died.status is Status.ERROR and "scoring.reward_models.reward_model: its process ended" in died.detail
        service = scorer._services["reward_model"]
        service._rests_until = 0.0  # as if time had passed
        (score,) = score_all("preferred", [("new", Row())], scorer)
        assert score.status is Status.OK
    assert processes() == []


def processes() -> list[psutil.Process]:
    return [each for each in psutil.Process().children() if "vlrl.scoring.reward_model_child" in each.cmdline()]


def test_a_text_that_is_too_long_is_an_error_and_the_others_of_its_batch_are_scored(tmp_path, model):
    with pool(tmp_path, model, max_length=60, batch=3) as scorer:
        short, long, empty = score_all("preferred", PAIRS, scorer)
    assert (short.status, empty.status) == (Status.OK, Status.OK)
    assert long.status is Status.ERROR and "tokens are more than max_length 60" in long.detail


def test_a_model_that_cannot_be_used_is_found_before_the_run_starts(tmp_path, tiny_dense):
    from transformers import Qwen3Config, Qwen3ForSequenceClassification

    for name, model in {"none": tmp_path / "none", "two": tmp_path / "two"}.items():
        if name == "two":
            sizes = {"vocab_size": 8, "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "head_dim": 8}
            config = Qwen3Config(**sizes, num_attention_heads=1, num_key_value_heads=1, num_labels=2)
            Qwen3ForSequenceClassification(config).save_pretrained(model)
            for path in Path(tiny_dense).glob("*token*"):
                (model / path.name).write_bytes(path.read_bytes())
        (backend,) = open_backends(ScoringConfig(reward_models={"reward_model": {"model": str(model)}})).values()
        with pytest.raises(ValueError, match=r"scoring.reward_models.reward_model.model: .* cannot be used"):
            backend.check()
    assert processes() == []
