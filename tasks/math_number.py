"""math_number: a word problem with one number as the answer, in \\boxed{}. Rows: data_recipes/gsm8k.py, dapo_math.py.

What is only dress is ignored, as the table in vlrl/verifiers/dress.py says: x = 7, 13 apples, 13^\\circ, (13), 1.3 \\times 10^1.
Of an equation such as m+n = 256+37 = 293 the last side is the answer. A question that is not worked out (12+1), a sentence, a
range, an approximation and a second number are wrong. 13\\% is 0.13, and 13 dozen is not 13.
"""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed, same_number

INSTRUCTION = "Please reason step by step, and put your final answer within \\boxed{}."


def prompt(row: Row) -> list[Message]:
    return [{"role": "user", "content": [{"type": "text", "text": f"{row.question}\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_number(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [
    ("Half of 1,450 is \\boxed{725}.", Row(answer="725"), 1.0),
    ("\\boxed{\\$1{,}450.00}", Row(answer="1450"), 1.0),
    ("\\boxed{1450 / 2}", Row(answer="725"), 1.0),
    ("\\boxed{\\text{Total} = 725 \\text{ clips}}", Row(answer="725"), 1.0),
    ("\\boxed{700 + 25 = 725}", Row(answer="725"), 1.0),
    ("\\boxed{724 = 725}", Row(answer="725"), 0.0),  # two numbers
    ("\\boxed{2x = 725}", Row(answer="725"), 0.0),  # x is another number
    ("\\boxed{700 + 25}", Row(answer="725"), 0.0),  # a sum is not a number
    ("\\boxed{725} or \\boxed{726}", Row(answer="725"), 0.0),  # the last box counts
    ("<think>\\boxed{725}</think> I am not sure.", Row(answer="725"), 0.0),
]
