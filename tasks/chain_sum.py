"""chain_sum: one sum or difference, answered by a number in \\boxed{}. Rows: data_recipes/chain_sum.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed, same_number

INSTRUCTION = "Answer in \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question} {INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_number(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("7+8=15, 4+3+1=8 \\boxed{85}", Row(question="47 + 38 = ?", answer="85"), 1.0),
    ("\\boxed{85.0}", Row(question="47 + 38 = ?", answer="85"), 1.0),
    ("7+8=15, 4+3=7 \\boxed{75}", Row(question="47 + 38 = ?", answer="85"), 0.0),
    ("\\boxed{47 + 38}", Row(question="47 + 38 = ?", answer="85"), 0.0),  # repeats the question
    ("It is 85.", Row(question="47 + 38 = ?", answer="85"), 0.0),  # right number, not boxed
]
