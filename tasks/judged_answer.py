"""judged_answer: a question whose answer is free text. A judge says whether it means the same as the reference: docs/judges.md.

The run file names the judge: scoring: {judges: {judge: {url: http://127.0.0.1:8000/v1, model: NAME}}}.
"""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.judges import same_meaning

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question.strip()}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_meaning(answer, row)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [  # those that rules decide; a judge's own belong into a file for `vlrl verify --run`
    ("\\boxed{Light scatters.}", Row(question="Why is the sky blue?", answer="light scatters"), 1.0),
    ("\\boxed{}", Row(question="Why is the sky blue?", answer="light scatters"), 0.0),
    ("Light scatters.", Row(question="Why is the sky blue?", answer="light scatters"), 0.0),
]
