"""Builds with pictures: what is kept as it is, what is left out for which reason, and under which number."""

import io
import json
import random
from pathlib import Path

import pytest
from PIL import Image

from tests.data.test_build import data
from tests.preflight.good_run import png
from vlrl.authoring.task_tools import new_recipe, new_task
from vlrl.data.images import decode_image, read_image_bytes
from vlrl.data.shards import Dataset, NewRow, write_dataset

GOOD = ["0.png", "1.png", "2.png", "3.png"]


def encoded(kind: str) -> bytes:
    file = io.BytesIO()
    Image.frombytes("RGB", (40, 32), random.Random(0).randbytes(40 * 32 * 3)).save(file, format=kind)
    return file.getvalue()


def cut(kind: str) -> bytes:
    """The first half of a file."""
    return encoded(kind)[: len(encoded(kind)) // 2]


@pytest.fixture
def dots(tmp_path, monkeypatch):
    """A folder with the files that `vlrl new` writes, four pictures, and a function that builds from lines of CSV."""
    monkeypatch.chdir(tmp_path)
    new_task("dots", tmp_path / "tasks")
    new_recipe("dots", tmp_path / "data_recipes")
    (tmp_path / "dots").mkdir()
    for place, name in enumerate(GOOD):
        (tmp_path / "dots" / name).write_bytes(png(32 + place, 32))

    def build(*lines: str, options=("--train", "-1", "--eval", "0")) -> str:
        (tmp_path / "dots/dots.csv").write_text("\n".join(["picture,question,answer", *lines]))
        code, printed = data("build", "data_recipes/dots.py", "--out", "data/dots", *options)
        assert code == 0, printed
        return printed

    return build


def left_out() -> list[tuple[int, str, str]]:
    lines = Path("data/dots/left_out.jsonl").read_text().splitlines()
    return [(left["record"], left["reason"], left["detail"]) for left in map(json.loads, lines)]


CANNOT = "a picture that cannot be used"
UNUSABLE = {
    "missing": (None, "a picture file that is missing", "dots/bad.png"),
    "text": (b"hello", CANNOT, "bad.png: it is not an image"),
    "empty": (b"", CANNOT, "bad.png: it is not an image"),
    "half a PNG": (cut("PNG"), CANNOT, "bad.png: its pixels are broken"),
    "half a JPEG": (cut("JPEG"), CANNOT, "bad.png: its pixels are broken"),
    "half a JPEG with an end": (cut("JPEG") + b"\xff\xd9", CANNOT, "bad.png: its pixels are broken (the JPEG ends before"),
    "a bomb": (png(60_000, 60_000, pixels=False), CANNOT, "bad.png: the image cannot be opened"),
    "a long side": (png(20_000, 200), CANNOT, "bad.png: it has 20000 x 200 pixels; each side must be 1 to 16384"),
    "a thin one": (png(8000, 32), CANNOT, "bad.png: it has 8000 x 32 pixels; the longer side must be at most 200 times"),
}


@pytest.mark.parametrize(("content", "reason", "detail"), UNUSABLE.values(), ids=UNUSABLE)
def test_a_picture_that_training_could_not_use_costs_its_record_alone(dots, tmp_path, content, reason, detail):
    if content is not None:
        (tmp_path / "dots/bad.png").write_bytes(content)
    printed = dots("0.png,How many?,1", "bad.png,How many?,2", "1.png,How many?,3")
    ((record, why, how),) = left_out()
    assert (record, why) == (2, reason) and how.startswith(detail)
    assert f"1 {reason} (the first: record 2, " in printed
    assert len(Dataset(tmp_path / "data/dots/train")) == 2


def test_a_record_that_names_no_picture_is_left_out(dots):
    dots("0.png,How many?,1", ",How many?,2")
    assert left_out() == [(2, "no picture is named", "")]


def test_the_same_question_about_the_same_picture_is_left_out_by_whether_its_answer_is_the_same(dots):
    dots("0.png,How many?,1", "1.png,How many?,1", "0.png,How many?,1", "1.png,How many?,2")
    assert left_out() == [
        (3, "asked before", "the same as record 1"),
        (4, "asked before, with another answer", "'2', in record 2 '1'"),
    ]


@pytest.mark.parametrize(
    ("picture", "reason"),
    [
        ("None", "no picture is named"),
        ('{"bytes": None, "path": None}', "no picture is named"),
        ("{}", "no picture is named"),
        ('{"bytes": b"", "path": "nowhere.png"}', "a picture file that is missing"),
        ('{"bytes": b"GIF89a", "path": None}', CANNOT),
        ('"a\\ud800.png"', "a picture file that cannot be read"),
        ('"a\\0.png"', "a picture file that cannot be read"),
        ('"x" * 5000', "a picture file that cannot be read"),
        ('"."', "a picture file that cannot be read"),
        ('Image.open("dots/half.jpg")', CANNOT),
        ('png(Image.open("dots/half.jpg"))', CANNOT),
        ("closed()", CANNOT),
    ],
)
def test_a_picture_that_is_not_there_in_any_other_form_costs_its_record_alone(dots, tmp_path, picture, reason):
    (tmp_path / "dots/half.jpg").write_bytes(cut("JPEG"))
    path = tmp_path / "data_recipes/dots.py"
    imports = "from PIL import Image\nfrom vlrl.data.recipe import png\n"
    closed = "\n\ndef closed():\n    with Image.open('dots/0.png') as image:\n        return image\n"
    given = f"({picture} if raw['answer'] == '2' else raw['picture'],)"
    path.write_text(imports + path.read_text().replace('(raw["picture"],)', given) + closed)
    printed = dots("0.png,How many?,1", "1.png,How many?,2", "1.png,How many?,3")
    assert [(record, why) for record, why, _ in left_out()] == [(2, reason)]
    assert f"1 {reason}" in printed and len(Dataset(tmp_path / "data/dots/train")) == 2


def test_a_column_of_pictures_that_is_null_costs_its_record_alone(dots, tmp_path):
    path = tmp_path / "data_recipes/dots.py"
    path.write_text(path.read_text().replace('(raw["picture"],)', 'None if raw["answer"] == "2" else iter([raw["picture"]])'))
    dots("0.png,How many?,1", "1.png,How many?,2", "2.png,How many?,3")
    assert left_out() == [(2, "no picture is named", "")]
    assert Dataset(tmp_path / "data/dots/train").manifest.num_images == 2, "an iterator's pictures are kept"


@pytest.mark.parametrize("kind", ["PNG", "JPEG"])
def test_pictures_that_shards_hold_are_kept_byte_by_byte(dots, tmp_path, kind):
    (tmp_path / "dots/0.png").write_bytes(encoded(kind))
    dots("0.png,How many?,1")
    (ref,) = Dataset(tmp_path / "data/dots/train")[0].images
    assert read_image_bytes(ref) == encoded(kind)


@pytest.mark.parametrize("kind", ["WEBP", "GIF", "BMP", "TIFF"])
def test_other_pictures_become_png(dots, tmp_path, kind):
    (tmp_path / "dots/0.png").write_bytes(encoded(kind))
    dots("0.png,How many?,1")
    content = read_image_bytes(Dataset(tmp_path / "data/dots/train")[0].images[0])
    assert content.startswith(b"\x89PNG") and decode_image(content).size == (40, 32)


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ('(raw["picture"],)', '(png(Image.open("dots/" + raw["picture"])),)'),
        ('(raw["picture"],)', '(Image.open("dots/" + raw["picture"]),)'),
        ('(raw["picture"],)', '({"bytes": None, "path": raw["picture"]},)'),
        ('(raw["picture"],)', '[Path("dots").absolute() / raw["picture"]]'),
    ],
)
def test_a_recipe_may_give_pictures_in_other_forms(dots, tmp_path, old, new):
    path = tmp_path / "data_recipes/dots.py"
    imports = "from pathlib import Path\nfrom PIL import Image\nfrom vlrl.data.recipe import png\n"
    path.write_text(imports + path.read_text().replace(old, new))
    dots("0.png,How many?,1", "1.png,How many?,2")
    assert Dataset(tmp_path / "data/dots/train").manifest.num_images == 2


def test_a_check_names_the_rows_with_a_broken_picture(dots, tmp_path):
    closed = cut("JPEG") + b"\xff\xd9"
    rows = [NewRow(question="How many?", answer="1", images=(content,)) for content in (png(32, 32), cut("PNG"), closed)]
    write_dataset(tmp_path / "rows", rows, source="", licence="", recipe="dots", recipe_version=1)
    code, printed = data("check", "rows", "--task", "dots")
    assert code == 1
    assert "row 00000001: picture 1 of 1 cannot be used: its pixels are broken" in printed.replace("\n", " ")
    assert "3 rows, 2 with a picture that cannot be used, 0 with an answer that is not accepted" in printed.replace("\n", " ")


def test_a_picture_looks_the_same_in_the_set_whether_a_file_its_bytes_or_the_opened_picture_was_given(dots, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    Image.radial_gradient("L").convert("RGB").resize((40, 32)).save(tmp_path / "dots/0.png", format="JPEG", exif=exif)
    path = tmp_path / "data_recipes/dots.py"
    forms = '[raw["picture"], open("dots/0.png", "rb").read(), Image.open("dots/0.png"), png(Image.open("dots/0.png"))]'
    imports = "from PIL import Image\nfrom vlrl.data.recipe import png\n"
    path.write_text(imports + path.read_text().replace('(raw["picture"],)', forms))
    dots("0.png,How many?,1")
    row = Dataset(tmp_path / "data/dots/train")[0]
    seen = [decode_image(read_image_bytes(ref)) for ref in row.images]
    assert seen[0].size == (32, 40)
    assert all(image.tobytes() == seen[0].tobytes() for image in seen)
