"""math_expression: a problem with an expression as the answer, compared symbolically. Rows: competition_math, math500, hmmt25."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.symbolic import same_expression

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_expression(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("\\boxed{\\left( 3, \\frac{\\pi}{2} \\right)}", Row(answer="(3, \\frac{\\pi}{2})"), 1.0),
    ("\\boxed{\\frac{\\sqrt{3}}{3}}", Row(answer="\\frac{1}{\\sqrt{3}}"), 1.0),
    ("\\boxed{x > 2}", Row(answer="(2, \\infty)"), 1.0),
    ("\\boxed{\\sum_{k=1}^{10} k^2}", Row(answer="385"), 0.0),  # repeats the question
    ("\\boxed{5 \\text{ cm}}", Row(answer="5 \\text{ m}"), 0.0),
    ("\\frac{1}{\\sqrt{3}}", Row(answer="\\frac{1}{\\sqrt{3}}"), 0.0),
]
