"""queens: a completed board on which no queen attacks another. Rows: data_recipes/reasoning_gym.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.grids import solves_queens

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and solves_queens(answer, row.meta["puzzle"])
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


PUZZLE = Row(meta={"puzzle": [["_", "Q", "_", "_"], ["_", "_", "_", "_"], ["_", "_", "_", "_"], ["_", "_", "_", "_"]]})
EXAMPLES = [
    ("\\boxed{_ Q _ _\n_ _ _ Q\nQ _ _ _\n_ _ Q _}", PUZZLE, 1.0),
    ("\\boxed{_ Q _ _\n_ _ _ Q\n_ _ Q _\nQ _ _ _}", PUZZLE, 0.0),
    ("\\boxed{_ _ Q _\nQ _ _ _\n_ _ _ Q\n_ Q _ _}", PUZZLE, 0.0),  # moves a given queen
]
