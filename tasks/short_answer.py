"""short_answer: one or a few words as the answer, compared exactly except for case. Rows: data_recipes/reasoning_gym.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed, same_text

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_text(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{Arnold.}", Row(answer="arnold"), 1.0),
    ("\\boxed{\\text{No}}", Row(answer="No"), 1.0),
    ("\\boxed{yes and no}", Row(answer="No"), 0.0),
    ("No", Row(answer="No"), 0.0),
]
