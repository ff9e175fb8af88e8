"""sudoku: 9x9 and 4x4; any grid that satisfies the clues and the rules is right. Rows: data_recipes/reasoning_gym.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.grids import solves_sudoku

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and solves_sudoku(answer, row.meta["puzzle"])
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


PUZZLE = Row(meta={"puzzle": [[3, 0, 1, 0], [0, 1, 0, 0], [4, 2, 0, 0], [1, 0, 2, 4]]})
EXAMPLES = [
    ("\\boxed{3 4 1 2\n2 1 4 3\n4 2 3 1\n1 3 2 4}", PUZZLE, 1.0),
    ("\\boxed{3412 2143 4231 1324}", PUZZLE, 1.0),
    ("\\boxed{4 3 1 2\n2 1 4 3\n3 2 4 1\n1 4 3 2}", PUZZLE, 0.0),  # satisfies the rules but not the clues
    ("\\boxed{3 4 1 2}", PUZZLE, 0.0),
]
