"""Holds the starter files that `vlrl new` writes. They work unchanged; the new name replaces NAME."""

TASK = r'''"""NAME: a question about a picture, its answer in \\boxed{}. Rows: data_recipes/NAME.py."""

from vlrl.types import Message, Row, Score
from vlrl.verifiers.answers import last_boxed, same_text

INSTRUCTION = "Put the final answer in \\boxed{}."


def prompt(row: Row) -> list[Message]:
    images = [{"type": "image", "image": ref} for ref in row.images]  # none for a question without a picture
    return [{"role": "user", "content": [*images, {"type": "text", "text": f"{row.question}\n\n{INSTRUCTION}"}]}]


def verify(response: str, row: Row) -> Score:
    answer = last_boxed(response)
    correct = answer is not None and same_text(answer, row.answer)
    return Score(reward=float(correct), parts={"boxed": float(answer is not None)})


EXAMPLES = [  # (response, row, reward): checked before every training run
    ("It is \\boxed{blue}.", Row(question="What colour is the circle?", answer="blue"), 1.0),
    ("\\boxed{\\text{Blue}}", Row(question="What colour is the circle?", answer="blue"), 1.0),
    ("\\boxed{blue or red}", Row(question="What colour is the circle?", answer="blue"), 0.0),
    ("It is blue.", Row(question="What colour is the circle?", answer="blue"), 0.0),
]
'''

RECIPE = r'''"""NAME: questions about pictures, from a CSV file with the columns picture, question and answer."""

from vlrl.data.recipe import Drop, records
from vlrl.data.shards import NewRow

SOURCE = "NAME/NAME.csv"  # or a .tsv, .jsonl, .json or .parquet file, or a data set on the Hugging Face hub
LICENCE = "unknown"
VERSION = 1
TRAIN, EVAL = None, 40  # rows of each data set; None: all the others


def raws(source, seed):
    return records(source, SOURCE, split="train")


def to_row(raw):
    answer = raw["answer"]
    if answer in ("", None):
        raise Drop("no answer")  # leaves the record out; the build counts the reasons
    return NewRow(
        question=raw["question"],
        answer=answer,
        images=(raw["picture"],),  # paths, relative to the CSV file; leave it out for questions without pictures
        response=f"\\boxed{{{answer}}}",  # a demonstration for the cold start; leave it out if you have none
    )
'''
