"""A small good run in the current folder, and the ways in which tests spoil it."""

import hashlib
import json
import shutil
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

from safetensors.torch import load_file, save_file
from torch import Tensor

from vlrl.data.shards import NewRow, write_dataset, write_datasets
from vlrl.inputs import Inputs, train_rows
from vlrl.run_file import load_config
from vlrl.tasks import load_task

TASK = """
from vlrl.types import Row, Score
from vlrl.verifiers.answers import last_boxed, same_number

def prompt(row):
    images = [{"type": "image", "image": ref} for ref in row.images]
    return [{"role": "user", "content": [*images, {"type": "text", "text": row.question}]}]

def verify(response, row):
    answer = last_boxed(response)
    return Score(reward=float(answer is not None and same_number(answer, row.answer)))

EXAMPLES = [("\\\\boxed{3}", Row(answer="3"), 1.0), ("three", Row(answer="3"), 0.0)]
"""

RUN_FILE = """
name: run
model: models/tiny
steps: 4
prompts_per_step: 4
mixture:
  sums: {weight: 1, rows: data/sums}
  shapes: {weight: 1, rows: data/shapes}
sampling: {group_size: 2, max_new_tokens: 16}
policy: {dtype: float32, zero_stage: 1}
engine: {max_model_len: 256}
images: {min_pixels: 1024, max_pixels: 16384}
"""

_MORE_THAN_ANY_DISK = 10**10  # the feed-forward's width


def write_good_run(model: Path) -> None:
    """run.yaml, two tasks, their data and the model, in the current folder."""
    for folder in ("tasks", "models"):
        Path(folder).mkdir()
    Path("models/tiny").symlink_to(model)
    Path("run.yaml").write_text(RUN_FILE)
    for name in ("sums", "shapes"):
        Path(f"tasks/{name}.py").write_text(TASK)
    write_rows("sums", *(NewRow(question=f"What is {n} + 2?", answer=str(n + 2), meta={"level": 1}) for n in range(8)))
    write_rows("shapes", *(NewRow(question=f"Side {n}?", answer="4", images=(png(32 + n, 32),)) for n in range(8)))


def write_rows(name: str, *rows: NewRow) -> None:
    write_dataset(Path("data") / name, rows, source="test", licence="none", recipe=name, recipe_version=1)


def write_pair(first: int) -> None:
    """data/pair/train and data/pair/eval, of one build."""
    folder, sums = Path("data/pair"), [NewRow(question=f"{n} + {n}?", answer=str(2 * n)) for n in range(first, first + 12)]
    about = {"source": "test", "licence": "none", "recipe": "sums", "recipe_version": 1}
    write_datasets({folder / "train": sums[4:], folder / "eval": sums[:4]}, **about)


def write_mixed_pair() -> None:
    write_pair(0)
    shutil.copytree("data/pair/train", "data/old")
    write_pair(1)
    shutil.rmtree("data/pair/train")
    Path("data/old").rename("data/pair/train")


def png(width: int, height: int, *, pixels: bool = True) -> bytes:
    """A grey image; without pixels the header alone, which can claim any size."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))

    lines = zlib.compress(bytes((width + 1) * height)) if pixels else b""
    header = struct.pack(">IIBBBBB", width, height, 8, 0, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def write_colours() -> None:
    write_rows("colours", *(NewRow(question=f"Colour {n}?", answer="4", response="blue") for n in range(8)))


def write_colours_for_a_verifier_that_fails() -> None:
    write_rows("colours", *(NewRow(question=f"Colour {n}?", answer="blue") for n in range(8)))
    spoil_task("answer = last_boxed(response)", "answer = float(row.answer) and last_boxed(response)")


def forge(old: bytes, new: bytes) -> None:
    """Changes the sums as a program of someone else's might have written them: a shard that agrees with its manifest."""
    shard, manifest = Path("data/sums/shard-000000.tar"), Path("data/sums/manifest.json")
    assert old in shard.read_bytes()
    assert len(old) == len(new)
    shard.write_bytes(shard.read_bytes().replace(old, new))
    facts = json.loads(manifest.read_text())
    facts["files"][shard.name]["sha256"] = hashlib.sha256(shard.read_bytes()).hexdigest()
    manifest.write_text(json.dumps(facts))


def spoil_task(old: str, new: str) -> None:
    assert old in TASK
    Path("tasks/sums.py").write_text(TASK.replace(old, new))


def spoil_shape(image: bytes) -> None:
    write_rows("shapes", *[NewRow(question="Side?", answer="4", images=(image,))] * 4)


def write_model_config(**settings: object) -> None:
    """models/other: the tiny model with another config.json."""
    shutil.copytree("models/tiny", "models/other")
    Path("models/other/config.json").write_text(json.dumps(settings))


def write_huge_model() -> None:
    config = json.loads(Path("models/tiny/config.json").read_text())
    write_model_config(**config | {"text_config": config["text_config"] | {"intermediate_size": _MORE_THAN_ANY_DISK}})


def write_model_without(name: str) -> None:
    shutil.copytree("models/tiny", "models/other")
    change_tensors(Path("models/other"), lambda tensors: tensors.pop(name))


def write_untied_model_without_a_head() -> None:
    write_model_config(**json.loads(Path("models/tiny/config.json").read_text()) | {"tie_word_embeddings": False})


def change_tensors(model: Path, change: Callable[[dict[str, Tensor]], object]) -> None:
    """Changes what a checkpoint of one shard holds; its index keeps the names that it had."""
    shard = model / "model-00001.safetensors"
    tensors = load_file(shard)
    change(tensors)
    save_file(tensors, shard, metadata={"format": "pt"})


def write_checkpoint(*overrides: str) -> None:
    """One that a run of run.yaml would have left after step 2."""
    state = Path("runs/run/checkpoints/step-000002/state.json")
    state.parent.mkdir(parents=True)
    config = load_config(Path("run.yaml"), overrides)
    tasks = {name: load_task(name, ["tasks"]) for name in config.mixture}
    rows = {name: train_rows(name, mix) for name, mix in config.mixture.items()}
    state.write_text(json.dumps(Inputs(config=config, tasks=tasks, rows=rows).resume_identity(1)))


def write_unfinished_run() -> None:
    Path("runs/first").mkdir(parents=True)
    Path("runs/first/config.yaml").touch()


def write_checkpoint_of_other_data() -> None:
    write_checkpoint()
    write_rows("sums", *(NewRow(question=f"What is {n} + 3?", answer=str(n + 3)) for n in range(8)))


def write_checkpoint_of_another_verifier() -> None:
    write_checkpoint()
    spoil_task('"three"', '"drei"')


def shard(name: str) -> Path:
    return Path(f"data/{name}/shard-000000.tar")
