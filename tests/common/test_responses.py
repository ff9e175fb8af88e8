"""What of a response may hold its answer: nothing of its reasoning, whoever opened it."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from vlrl.common.responses import after_reasoning, opened_reasoning

PIECES = st.lists(st.sampled_from(["<think>", "</think>", "\\boxed{7}", "<|im_end|>", "<", "think>", "\n", " "]), max_size=12)


@pytest.mark.parametrize(
    ("response", "answer"),
    [
        ("7", "7"),
        ("<think>7</think> 8", " 8"),
        ("<think>\n7, or", ""),
        ("7\n</think>\n\n8", "\n\n8"),  # closes what the prompt opened
        ("<think>a</think>7<think>8", "7"),
        ("<think>a</think>7<think>b</think>8", "8"),
        ("7<|endoftext|>", "7"),
        ("7\n<|im_end|>\n", "7\n"),
        ("<|im_end|> is a token", "<|im_end|> is a token"),
    ],
)
def test_the_answer_is_after_the_reasoning_and_before_the_end_token(response, answer):
    assert after_reasoning(response) == answer


@given(PIECES, PIECES)
def test_nothing_of_a_reasoning_that_the_prompt_opened_is_answer_unless_it_is_closed(reasoning, answer):
    said = "".join(reasoning).replace("</think>", "")
    assert after_reasoning(f"<think>\n{said}") == ""
    assert after_reasoning(f"<think>\n{said}</think>{''.join(answer)}") == after_reasoning("".join(answer))


@given(PIECES)
def test_a_prompt_opened_the_reasoning_where_its_last_opening_is_not_closed(pieces):
    prompt = "".join(pieces)
    opened = opened_reasoning(prompt)
    assert bool(opened) == (prompt.rfind("<think>") > prompt.rfind("</think>"))
    assert prompt.endswith(opened) and opened.startswith("<think>" if opened else "")
