"""Samples of the sources that recipes read, made up in their published form: files of records, with pictures beside them."""

import json
import random
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from PIL import Image, ImageDraw

from tests.verifiers.made_golds import golds
from tests.verifiers.made_problems import problems
from tests.verifiers.made_programs import outputs

COUNT = 60
PEOPLE = ("Ana", "Ben", "Cleo", "Dan", "Eva", "Finn")
CELLS = {"RBC": ("crimson", 70), "WBC": ("purple", 90), "Platelets": ("navy", 24)}

Records = Iterator[dict[str, Any]]


def gsm8k(folder: Path) -> Records:
    for n in range(COUNT):
        packs, each, given = 3 + n, 12 + n % 5, 5 * n + 1
        total, left = packs * each, packs * each + 1000 - given
        yield {
            "question": f"A shop has 1,000 pens and buys {packs} packs of {each}. It sells {given} pens. How many are left?",
            "answer": f"The packs hold {packs}*{each}=<<{packs}*{each}={total}>>{total} pens.\n"
            f"So 1000+{total}-{given}=<<1000+{total}-{given}={left}>>{left} are left.\n#### {left:,}",
        }


def math(folder: Path) -> Records:
    yield {"problem": "What is its area? [asy]draw((0,0)--(1,1));[/asy]", "answer": "1", "subject": "Geometry", "level": 1}
    for number, gold in enumerate(golds(COUNT)):
        problem = f"Problem {number}: what is another way to write ${gold.renderings[1]}$?"
        yield {"problem": problem, "answer": gold.renderings[0], "subject": "Algebra", "level": 1 + number % 5}


def humaneval(folder: Path) -> Records:
    for number, made in enumerate(problems()[:COUNT]):
        yield {
            "task_id": f"Made/{number}",
            "prompt": made.prompt,
            "entry_point": made.entry_point,
            "canonical_solution": made.body,
            "test": made.test.removesuffix("\n\ncheck(candidate)"),
        }


def mbpp(folder: Path) -> Records:
    for number, made in enumerate(problems()[:COUNT]):
        tests = [f"assert {made.entry_point}({argument}) == {result}" for argument, result in made.calls[:3]]
        code = f"def {made.entry_point}(x): \r\n{made.body}".replace("\n", "\r\n")
        yield {"text": f"{made.text} Of x.", "code": code, "task_id": number, "test_setup_code": "", "test_list": tests}


def cruxeval(folder: Path) -> Records:
    for number, made in enumerate(outputs(COUNT)):
        yield {"code": made.code, "input": made.input, "output": made.output, "id": f"made_{number}"}


def bbh(folder: Path) -> Records:
    rng = random.Random(0)
    yield {"task": "boolean_expressions", "input": "True and not True is", "target": "False"}
    for number in range(COUNT):
        order = rng.sample(PEOPLE, 4)
        said = ". ".join(f"{one} is taller than {other}" for one, other in zip(order, order[1:], strict=False))
        names = sorted(order)
        options = "\n".join(f"({letter}) {name}" for letter, name in zip("ABCD", names, strict=True))
        target = f"({'ABCD'[names.index(order[number % 4])]})"
        place = ("the tallest", "the second tallest", "the third tallest", "the shortest")[number % 4]
        yield {"task": "logical_deduction", "input": f"{said}. Who is {place}? ({number})\nOptions:\n{options}", "target": target}


def nlvr(folder: Path) -> Records:
    rng = random.Random(0)
    for number in range(COUNT):
        image, black = Image.new("RGB", (400, 100), "lightgrey"), 0
        draw = ImageDraw.Draw(image)
        for place in range(12):
            colour = rng.choice(["black", "yellow", "blue"])
            black += colour == "black"
            draw.rectangle((place * 32 + 5, 40, place * 32 + 25, 60), fill=colour)
        asked = black + number % 2
        yield {
            "image": saved(image, folder, f"boxes-{number}.png"),
            "statement": f"There are exactly {asked} black blocks in the picture (number {number}).",
            "label": str(asked == black).lower(),
        }


def puzzlevqa(folder: Path) -> Records:
    for number in range(COUNT):
        first, step = 1 + number % 7, 1 + number // 7
        values = [first + step * k for k in range(5)]
        image = Image.new("RGB", (260, 60), "white")
        draw = ImageDraw.Draw(image)
        for place, value in enumerate(values):
            draw.ellipse((place * 50 + 5, 5, place * 50 + 50, 50), outline="black")
            draw.text((place * 50 + 20, 20), "?" if place == 3 else str(value), fill="black")
        options = sorted([values[3], values[3] + 1, values[3] - step - 1, values[3] + 2 * step])
        yield {
            "image": saved(image, folder, f"circles-{number}.png"),
            "question": "What is the missing number of the part denoted with a question mark?",
            "options": sorted(set(options)),
            "answer": str(values[3]),
        }


def bccd(folder: Path) -> Records:
    rng = random.Random(0)
    for number in range(COUNT // 2):
        image = Image.new("RGB", (640, 480), "mistyrose")
        draw, objects = ImageDraw.Draw(image), []
        for x, y in rng.sample([(x, y) for x in range(6) for y in range(4)], 16):
            label = rng.choice(list(CELLS))
            colour, size = CELLS[label]
            box = [x * 104 + 4, y * 118 + 4, x * 104 + 4 + size, y * 118 + 4 + size + rng.randint(0, 20)]
            draw.ellipse(box, fill=colour)
            objects.append({"label": label, "bbox": box})
        yield {"image": saved(image, folder, f"cells-{number}.png"), "width": 640, "height": 480, "objects": objects}


def saved(image: Image.Image, folder: Path, name: str) -> str:
    image.save(folder / name)
    return name


MADE: dict[str, Callable[[Path], Records]] = {
    "gsm8k": gsm8k,
    "competition_math": math,
    "math500": math,
    "humaneval": humaneval,
    "mbpp": mbpp,
    "cruxeval": cruxeval,
    "bbh": bbh,
    "nlvr": nlvr,
    "puzzlevqa": puzzlevqa,
    "bccd_counting": bccd,
    "bccd_grounding": bccd,
}


def made_sample(name: str, folder: Path) -> Path:
    """The file of a recipe's records, written into the folder."""
    path = folder / f"{name}.jsonl"
    path.write_text("".join(json.dumps(record) + "\n" for record in MADE[name](folder)))
    return path
