"""futoshiki: a square of digits that satisfies the clues and the inequalities. Rows: data_recipes/reasoning_gym.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.grids import solves_futoshiki

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and solves_futoshiki(answer, row.meta["puzzle"], row.meta["constraints"])
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


PUZZLE = Row(
    meta={
        "puzzle": [[4, 0, 0, 0], [0, 0, 0, 0], [0, 0, 3, 0], [0, 0, 0, 0]],
        "constraints": [[0, 1, 0, 2, ">"], [1, 0, 1, 1, ">"]],
    }
)
EXAMPLES = [
    ("\\boxed{4 3 2 1\n3 2 1 4\n1 4 3 2\n2 1 4 3}", PUZZLE, 1.0),
    ("\\boxed{4 3 1 2\n3 2 4 1\n1 4 2 3\n2 1 3 4}", PUZZLE, 0.0),  # breaks an inequality
    ("\\boxed{4}", PUZZLE, 0.0),
]
