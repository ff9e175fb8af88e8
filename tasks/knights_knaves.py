"""knights_knaves: the roles of up to eight people, with any two words for the roles. Rows: data_recipes/reasoning_gym.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.logic import solves_knights

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and solves_knights(answer, row.meta)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


PUZZLE = Row(
    meta={
        "names": ["Ava", "Noah"],
        "knight_knave_terms": {"knight": "sage", "knave": "fool"},
        "statements": [["lying", 1], ["and", ["telling-truth", 0], ["telling-truth", 1]]],
        "solution": [True, False],
    }
)
EXAMPLES = [
    ("\\boxed{Ava is a sage, and Noah is a fool.}", PUZZLE, 1.0),
    ("\\boxed{Noah: fool; Ava: sage}", PUZZLE, 1.0),
    ("\\boxed{Ava is a fool, and Noah is a fool.}", PUZZLE, 0.0),
    ("\\boxed{Ava is a sage}", PUZZLE, 0.0),
    ("Ava is a sage, and Noah is a fool.", PUZZLE, 0.0),
]
