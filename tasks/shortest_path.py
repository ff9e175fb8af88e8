"""shortest_path: the fewest steps from * to # on a grid; any shortest path is right. Rows: data_recipes/reasoning_gym.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.grids import is_shortest_path

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and is_shortest_path(answer, row.meta["matrix"])
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


PUZZLE = Row(meta={"matrix": [["*", "O"], ["X", "#"]]})
EXAMPLES = [
    ("\\boxed{right down}", PUZZLE, 1.0),
    ("\\boxed{down right}", PUZZLE, 0.0),  # into a wall
    ("\\boxed{right down up down}", PUZZLE, 0.0),  # too long
    ("\\boxed{infeasible}", PUZZLE, 0.0),
]
