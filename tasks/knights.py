"""knights: whether A and B are knights or knaves, from what they say; both roles in \\boxed{}. Rows: data_recipes/knights.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed, same_text

RULES = "Knights tell the truth, knaves lie."
INSTRUCTION = "Answer with both roles, A's first, in \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{RULES} {row.question} {INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_text(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


PUZZLE = Row(question="A says: B is a knave. B says: it is false that B is a knave.", answer="knave, knight")
EXAMPLES = [
    ("\\boxed{knave, knight}", PUZZLE, 1.0),
    ("\\boxed{Knave, knight.}", PUZZLE, 1.0),
    ("\\boxed{knight, knave}", PUZZLE, 0.0),
    ("\\boxed{knave, knight or knave}", PUZZLE, 0.0),
    ("\\boxed{knave, knight} or \\boxed{knight, knave}", PUZZLE, 0.0),  # the last box counts
    ("A is a knave, B is a knight.", PUZZLE, 0.0),
]
