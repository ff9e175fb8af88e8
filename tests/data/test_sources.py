"""Files of records: what a CSV file's cells become, and the one sentence that a file gets which cannot be read."""

import csv
import io
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.data.recipe import records
from vlrl.data.sources import SourceError

CELL = st.text(st.characters(codec="utf-8", exclude_characters="\r\0"), min_size=1).filter(lambda text: text == text.strip())


def read(path) -> list[dict]:
    return list(records(str(path), "nobody/nothing", split="train"))


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_the_first_line_tells_the_delimiter_and_cells_are_text(tmp_path, delimiter):
    lines = [["picture", "question, or prompt", "answer"], ["a.png", "How many; or few?", "007"], ["b.png", "", "1.0"]]
    with (tmp_path / "rows.csv").open("w", newline="") as file:
        csv.writer(file, delimiter=delimiter).writerows(lines)
    assert read(tmp_path / "rows.csv") == [dict(zip(lines[0], cells, strict=True)) for cells in lines[1:]]


@settings(deadline=None)
@given(st.lists(st.tuples(CELL, CELL), max_size=5), st.sampled_from(",;\t"))
def test_any_cells_come_back(tmp_path_factory, rows, delimiter):
    path = tmp_path_factory.mktemp("any") / "rows.csv"
    text = io.StringIO(newline="")
    csv.writer(text, delimiter=delimiter).writerows([("a", "b"), *rows])
    path.write_text(text.getvalue(), newline="")
    assert read(path) == [{"a": first, "b": second} for first, second in rows]


def test_a_spreadsheet_s_byte_order_mark_and_blanks_after_commas_are_no_part_of_names(tmp_path):
    (tmp_path / "rows.csv").write_bytes(b"\xef\xbb\xbfquestion, answer\r\nWhat?, 4\r\n\r\n")
    assert read(tmp_path / "rows.csv") == [{"question": "What?", "answer": "4"}]


def test_a_line_of_json_may_hold_other_line_separators(tmp_path):
    raws = [{"question": "one\u2028two\x85three"}, {"question": "four"}]
    (tmp_path / "rows.jsonl").write_text("\n".join(json.dumps(raw, ensure_ascii=False) for raw in raws) + "\n\n")
    assert read(tmp_path / "rows.jsonl") == raws


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "rows.csv",
            b"a,b\n1,2\n1,2,3\n",
            r"rows.csv:3 has 3 cells, but the first line names 2 columns \(a, b\); put double",
        ),
        ("rows.csv", b"\n1,2\n", "rows.csv: the first line is empty; it must name the columns"),
        ("rows.csv", b"a,a\n1,2\n", "rows.csv: the first line names the column 'a' twice; rename one"),
        (
            "rows.csv",
            b'a,b\n1,"2\n',
            r"rows.csv:2 is not CSV \(unexpected end of data\); put a cell that contains a double quote",
        ),
        ("rows.csv", b"a,b\n1,caf\xe9\n", "rows.csv is not UTF-8 text .it has the byte 0xe9.; save it as UTF-8"),
        ("rows.jsonl", b'{"a": 1}\n{"a"', r"rows.jsonl:2 is not JSON .*; each line must be one object"),
        ("rows.json", b'{"a": 1}\n{"a": 2}', r"rows.json:2 is not JSON .*; name a file with one object per line .jsonl"),
        ("rows.json", b'{"a": 1}', "rows.json is a JSON dict; it must be a list of records"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_its_line(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(SourceError, match=says):
        read(tmp_path / name)


def test_a_folder_in_place_of_a_file_is_told_what_it_holds(tmp_path):
    (tmp_path / "dots.csv").touch()
    with pytest.raises(SourceError, match="is a folder; --from needs the file with the records; it has .*dots.csv"):
        read(tmp_path)


def test_images_of_a_parquet_file_stay_encoded_and_a_broken_one_reaches_the_build(tmp_path):
    datasets = pytest.importorskip("datasets")
    content = [{"bytes": b"\x89PNG broken", "path": None}, {"bytes": b"\xff\xd8\xff broken", "path": None}]
    columns = {"image": content, "images": [content, []]}
    kinds = datasets.Features({"image": datasets.Image(), "images": datasets.List(datasets.Image())})
    datasets.Dataset.from_dict(columns, features=kinds).to_parquet(tmp_path / "rows.parquet")
    assert read(tmp_path / "rows.parquet") == [{"image": content[0], "images": content}, {"image": content[1], "images": []}]


def test_a_source_that_cannot_be_read_is_a_sentence(monkeypatch):
    monkeypatch.setattr(
        "huggingface_hub.constants.HF_HUB_OFFLINE", True
    )  # as HF_HUB_OFFLINE=1 says before the library is imported
    monkeypatch.setattr("datasets.config.HF_HUB_OFFLINE", True)
    with pytest.raises(SourceError, match="cannot be read .*; name a file with --from"):
        list(records(None, "nobody/nothing", split="train"))
