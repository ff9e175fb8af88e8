"""Data sets: what is written comes back, also by the webdataset library, and nothing torn is ever read."""

import io
import json
import re

import pytest
import webdataset
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from vlrl.data.images import open_image, read_image_bytes
from vlrl.data.shards import Dataset, NewRow, write_dataset
from vlrl.types import Row


def picture(shade: int, file_format: str = "PNG") -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (8, 6), (shade, 0, 255 - shade)).save(file, format=file_format)
    return file.getvalue()


ROWS = [NewRow(question=f"{n} + {n} = ?", answer=str(2 * n), response=f"\\boxed{{{2 * n}}}") for n in range(5)]
ROWS.append(NewRow(question="Wie viele Äpfel?\n", answer="3", images=(picture(10), picture(20, "JPEG")), meta={"kind": ["a", 1]}))
ROWS.append(NewRow(question="Write f.", meta={"entry_point": "f", "tests": [[[1], 2]]}, images=(picture(30),)))


def write(folder, rows=ROWS, rows_per_shard=3) -> Dataset:
    about = {"source": "made here", "licence": "Apache-2.0", "recipe": "test", "recipe_version": 2}
    return write_dataset(folder, rows, rows_per_shard=rows_per_shard, **about)


def contents(folder) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def test_rows_come_back_in_order_with_their_images_as_references(tmp_path):
    dataset = write(tmp_path / "set")
    assert len(dataset) == 7
    for row, new in zip([dataset[n] for n in range(7)], ROWS, strict=True):
        assert (row.question, row.answer, row.meta, row.response) == (new.question, new.answer, new.meta, new.response)
        assert tuple(read_image_bytes(ref) for ref in row.images) == new.images
    assert len({dataset[n].key for n in range(7)}) == 7
    assert re.fullmatch(r".*/set/shard-000001\.tar#\d+\+\d+", dataset[5].images[1])


@given(st.lists(st.tuples(st.text(), st.text(min_size=1)), max_size=9), st.integers(1, 4))
def test_any_text_survives(tmp_path_factory, texts, rows_per_shard):
    rows = [NewRow(question=question, answer=answer) for question, answer in texts]
    dataset = write(tmp_path_factory.mktemp("any"), rows, rows_per_shard)
    assert [(dataset[n].question, dataset[n].answer) for n in range(len(dataset))] == texts


def test_a_write_that_fails_leaves_the_old_set_as_it_was(tmp_path):
    write(tmp_path / "set")
    before = contents(tmp_path / "set")
    with pytest.raises(ValueError, match="must be PNG or JPEG"):
        write(tmp_path / "set", [*ROWS, NewRow(question="?", answer="1", images=(b"GIF89a",))])
    assert contents(tmp_path / "set") == before
    assert contents(write(tmp_path / "set").folder) == before


def test_webdataset_streams_the_same_rows_and_images(tmp_path):
    dataset = write(tmp_path / "set")
    shards = [str(path) for path in sorted(dataset.folder.glob("*.tar"))]
    streamed = list(webdataset.WebDataset(shards, shardshuffle=False, empty_check=False))
    assert len(streamed) == len(dataset)
    for number, item in enumerate(streamed):
        row = dataset[number]
        fields = json.loads(item["json"])
        assert Row(key=item["__key__"], images=row.images, **fields) == row
        pictures = [item[name] for name in sorted(item) if name.endswith((".png", ".jpg"))]
        assert pictures == [read_image_bytes(ref) for ref in row.images]


def test_webdataset_decodes_the_images(tmp_path):
    write(tmp_path / "set", ROWS[5:6])
    (item,) = webdataset.WebDataset(str(tmp_path / "set/shard-000000.tar"), shardshuffle=False, empty_check=False).decode("pil")
    assert item["0.png"].getpixel((0, 0)) == (10, 0, 245)


def test_equal_rows_give_equal_bytes(tmp_path):
    write(tmp_path / "one" / "set")
    write(tmp_path / "two" / "set")
    assert contents(tmp_path / "one" / "set") == contents(tmp_path / "two" / "set")


def test_a_smaller_rebuild_leaves_nothing_of_the_larger_one(tmp_path):
    write(tmp_path / "set")
    dataset = write(tmp_path / "set", ROWS[:2])
    assert len(dataset) == 2
    assert set(contents(tmp_path / "set")) == {"shard-000000.tar", "index.jsonl", "manifest.json"}


def test_a_set_that_was_built_anew_while_it_was_read_is_a_sentence(tmp_path):
    before = write(tmp_path, [NewRow(question="How many?", answer="1")] * 3)
    write(tmp_path, [NewRow(question="?" * 600 * number, answer="1") for number in (1, 2, 3)])
    with pytest.raises(
        ValueError, match=r"shard-000000.tar: row 0000000\d is not where the index says; the data set was built anew"
    ):
        _ = [before[number] for number in range(3)]


def test_the_manifest_says_what_it_is_and_where_it_came_from(tmp_path):
    write(tmp_path / "set")
    manifest = json.loads((tmp_path / "set/manifest.json").read_text())
    assert manifest["name"] == "set" and manifest["source"] == "made here" and manifest["licence"] == "Apache-2.0"
    assert (manifest["recipe"], manifest["recipe_version"]) == ("test", 2)
    assert (manifest["num_rows"], manifest["num_images"]) == (7, 3)
    assert set(manifest["files"]) == {"index.jsonl", "shard-000000.tar", "shard-000001.tar", "shard-000002.tar"}


def test_a_build_that_stops_half_way_is_no_data_set(tmp_path):
    def broken_source():
        yield ROWS[0]
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write(tmp_path / "set", broken_source())
    with pytest.raises(ValueError, match=r"set is not a complete data set: it has no manifest\.json; build it: vlrl data build"):
        Dataset(tmp_path / "set")


def test_a_torn_shard_is_refused_at_opening(tmp_path):
    write(tmp_path / "set")
    shard = tmp_path / "set/shard-000001.tar"
    shard.write_bytes(shard.read_bytes()[:-512])
    with pytest.raises(ValueError, match=r"shard-000001\.tar has \d+ bytes, but the manifest says \d+; copy or build"):
        Dataset(tmp_path / "set")


def test_a_missing_shard_is_refused_at_opening(tmp_path):
    write(tmp_path / "set")
    (tmp_path / "set/shard-000002.tar").unlink()
    with pytest.raises(ValueError, match=r"shard-000002\.tar is missing"):
        Dataset(tmp_path / "set")


@pytest.mark.parametrize("text", ["{", "[]", '{"name": "x"}', '{"surprise": 1}'])
def test_an_unreadable_manifest_is_refused(tmp_path, text):
    write(tmp_path / "set")
    (tmp_path / "set/manifest.json").write_text(text)
    with pytest.raises(ValueError, match=r"manifest\.json cannot be read"):
        Dataset(tmp_path / "set")


def test_verify_finds_a_changed_byte(tmp_path):
    dataset = write(tmp_path / "set")
    dataset.verify()
    shard = tmp_path / "set/shard-000000.tar"
    content = bytearray(shard.read_bytes())
    content[600] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"shard-000000\.tar: its sha256 is not the manifest's"):
        dataset.verify()


def test_a_row_without_any_truth_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"row 00000000 \('Why\?'\) has no answer and no meta, so it cannot be verified"):
        write(tmp_path / "set", [NewRow(question="Why?")])


def test_a_video_is_refused(tmp_path):
    with pytest.raises(ValueError, match="has a video, which is not supported"):
        write(tmp_path / "set", [NewRow(question="What moves?", answer="a cat", meta={"video": "cat.mp4"})])


def test_bytes_that_are_neither_png_nor_jpeg_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"row 00000000: an image starts with b'GIF89a.*must be PNG or JPEG bytes"):
        write(tmp_path / "set", [NewRow(question="?", answer="1", images=(b"GIF89a....",))])


def test_a_moved_data_set_still_finds_its_images(tmp_path):
    write(tmp_path / "set").folder.rename(tmp_path / "moved")
    assert open_image(Dataset(tmp_path / "moved")[5].images[0], max_side=8).size == (8, 6)
