"""Places in a picture, from the prompt to the reward: the same task asks and scores each model in its own coordinates."""

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import TEXTS
from tests.preflight.bad_input_table import png
from vlrl.cli.main import app
from vlrl.data.shards import NewRow, write_dataset
from vlrl.distributed.ranks import Ranks
from vlrl.evaluation.rescore import rescore
from vlrl.models.families.qwen2_5_vl import QWEN2_5_VL
from vlrl.models.tiny import build_tiny
from vlrl.preflight.full_checks import preflight
from vlrl.rollout.groups import encode_prompts
from vlrl.run import open_run
from vlrl.run_file import load_config
from vlrl.scoring.protocol import Item, dump_item, load_item
from vlrl.tasks import load_task, prompt_of
from vlrl.telemetry.run_log import rollout_lines
from vlrl.types import Draw, Group, Rollout, Row, Sample

ROOT = Path(__file__).parents[2]
WIDTH, HEIGHT = 150, 100  # of the picture, which the tiny model sees with sides that are multiples of 28
THIRD = [WIDTH * 0.6, HEIGHT * 0.6, WIDTH * 0.8, HEIGHT * 0.8]
RUN = """
name: run
model: {model}
steps: 1
prompts_per_step: 2
task_folders: [{tasks}, own]
mixture: {{{task}: {{weight: 1, rows: rows}}}}
sampling: {{group_size: 2, max_new_tokens: 32}}
engine: {{max_model_len: 512}}
policy: {{dtype: float32}}
images: {{min_pixels: 1024, max_pixels: 8192}}
"""


@pytest.fixture(scope="module")
def tiny_pixels(tmp_path_factory) -> str:
    folder = tmp_path_factory.mktemp("models") / "pixels"
    build_tiny(folder, TEXTS, family=QWEN2_5_VL)
    return str(folder)


@pytest.fixture
def config_of(tmp_path, monkeypatch):
    """A function that writes a run of the pointing task and returns its config."""
    monkeypatch.chdir(tmp_path)
    meta = {"width": WIDTH, "height": HEIGHT, "box": THIRD}
    response = '{"point_2d": [700, 700]}'
    row = NewRow(question="Point.", images=(png(WIDTH, HEIGHT),), meta=meta, answer="there", response=response)
    write_dataset(Path("rows"), [row] * 4, source="made here", licence="none", recipe="test", recipe_version=1)

    def write(model: str, *overrides: str, task: str = "pointing"):
        Path("run.yaml").write_text(RUN.format(model=model, tasks=ROOT / "tasks", task=task))
        return load_config(Path("run.yaml"), overrides)

    return write


def prompt_in(config):
    run = open_run(config, Ranks(0, 1, 0))
    prompt = run.prompt(Draw(slot=0, task=next(iter(run.tasks)), index=0, minibatch=0), 2)
    (encoded,) = encode_prompts([prompt], run.encoder, config.engine.max_model_len)
    return encoded


def point(x: float, y: float) -> str:
    return json.dumps({"point_2d": [round(x), round(y)]})


def test_each_model_is_asked_and_scored_in_its_own_coordinates(config_of, tiny_dense, tiny_pixels, pool):
    for model, says, sides in ((tiny_dense, "from 0 to 1000", (1000, 1000)), (tiny_pixels, "in pixels of the picture", None)):
        prompt = prompt_in(config_of(model))
        assert prompt.messages[0]["content"][-1]["text"].endswith(f"coordinates {says}.")
        if sides is None:
            (sides,) = prompt.row.seen
            _, rows, columns = prompt.encoded.grid[0].tolist()
            assert sides == (14 * columns, 14 * rows) and sides != (WIDTH, HEIGHT) and not any(side % 28 for side in sides)
        else:
            assert prompt.row.seen == ()
        answers = [point(0.7 * sides[0], 0.7 * sides[1]), point(0.3 * sides[0], 0.3 * sides[1])]
        for slot, answer in enumerate(answers):
            pool.submit(rollout(answer, slot), "pointing", prompt.row)
        assert [score.reward for score in pool.collect().values()] == [1.0, 0.0]


def rollout(text: str, slot: int = 0) -> Rollout:
    return Rollout(slot=slot, sample=0, tokens=(1,), logprobs=(0.0,), text=text, finish_reason="stop", weight_versions=())


def test_a_recorded_rollout_is_scored_again_in_the_coordinates_of_its_run(config_of, tiny_pixels, pool):
    config = config_of(tiny_pixels)
    prompt = prompt_in(config)
    (across, down) = prompt.row.seen[0]
    pool.submit(rollout(point(0.7 * across, 0.7 * down)), "pointing", prompt.row)
    score = pool.collect()[0, 0]
    group = Group(prompt=prompt, samples=(Sample(rollout=rollout(point(0.7 * across, 0.7 * down)), score=score),))
    lines = [json.loads(json.dumps(line)) for line in rollout_lines(1, group)]
    (again,) = rescore(lines, config.mixture, pool, lambda: None)
    assert score.reward == again.score.reward == 1.0 and not again.differs


def test_a_run_file_s_own_instruction_is_put_in_the_model_s_coordinates_and_a_question_is_left_alone():
    task = load_task("pointing", [ROOT / "tasks"])
    row = Row(question="Which sign says from 0 to 1000?")
    own = "Give x and y from 0 to 1000."
    for instruction, says in ((None, "coordinates in pixels of the picture."), (own, "Give x and y in pixels of the picture.")):
        (message,) = prompt_of(task, row, instruction=instruction, coordinates="pixels")
        question, asked = message["content"][-1]["text"].split("\n")
        assert question == row.question and asked.endswith(says)
    assert prompt_of(task, row) == task.prompt(row)


OWN = '''"""own: points, read as Qwen3-VL gives them."""
from vlrl.types import Score
from vlrl.verifiers.boxes import Frame, point_in_box
from vlrl.types import Row
{instruction}
def prompt(row):
    images = [{{"type": "image", "image": image}} for image in row.images]
    return [{{"role": "user", "content": [*images, {{"type": "text", "text": row.question + INSTRUCTION}}]}}]


def verify(response, row):
    return Score(reward=float(point_in_box(response, row.meta["box"], {frame})))


CASE = Row(meta={{"width": 10, "height": 10, "box": [0, 0, 5, 5]}})
EXAMPLES = [('{{"point_2d": [100, 100]}}', CASE, 1.0)]
'''
ASKS, MUTE = 'INSTRUCTION = "JSON, from 0 to 1000."', 'INSTRUCTION = "JSON."'
OF_ROW, BY_ITSELF = "Frame.of(row)", 'Frame(width=row.meta["width"], height=row.meta["height"])'


@pytest.mark.parametrize(
    ("instruction", "frame", "overrides", "says"),
    [
        (ASKS, BY_ITSELF, (), r"own/own.py: makes a Frame\(...\) of thousandths, but model .* use Frame.of\(row\)$"),
        (MUTE, OF_ROW, (), r"mixture.own: its instruction does not say 'from 0 to 1000', but model '.*' gives places in pixels"),
        (
            ASKS,
            OF_ROW,
            ("coldstart.steps=3",),
            r"own: its rows' responses give places in thousandths, .* coldstart.steps",
        ),
    ],
)
def test_a_task_that_would_ask_score_or_teach_in_thousandths_is_refused_for_a_model_of_pixels(
    config_of, tiny_dense, tiny_pixels, instruction, frame, overrides, says
):
    Path("own").mkdir()
    Path("own/own.py").write_text(OWN.format(instruction=instruction, frame=frame))
    preflight(config_of(tiny_dense, *overrides, task="own"), Ranks(0, 1, 0))
    with pytest.raises(ValueError, match=says):
        preflight(config_of(tiny_pixels, *overrides, task="own"), Ranks(0, 1, 0))


def test_the_shipped_tasks_of_places_are_accepted_for_either_model(config_of, tiny_dense, tiny_pixels):
    for model in (tiny_dense, tiny_pixels):
        assert preflight(config_of(model), Ranks(0, 1, 0)).tasks["pointing"].reads_places
    assert not load_task("digits", [ROOT / "tasks"]).reads_places


def test_try_shows_the_model_s_prompt_and_scores_a_typed_answer_in_its_coordinates(config_of, tiny_pixels):
    (across, down) = prompt_in(config_of(tiny_pixels)).row.seen[0]
    arguments = ["try", "pointing", "--rows", "rows", "--run", "run.yaml", "--num", "1", "--tasks", str(ROOT / "tasks")]
    done = CliRunner().invoke(app, arguments, input=f"{point(0.7 * across, 0.7 * down)}\n{point(700, 700)}\n")
    assert done.exit_code == 0, done.output
    *_, own, sees, right, wrong = done.output.splitlines()
    assert "own answer" in own and ": 1 " in own and f"sees {across} x {down} pixels" in sees
    assert ": 1 {" in right and ": 0 {" in wrong


def test_a_case_of_vlrl_verify_may_say_what_the_model_saw(tmp_path):
    row = {"meta": {"width": 1000, "height": 800, "box": [100, 200, 300, 400]}, "seen": [[280, 224]]}
    cases = tmp_path / "cases.jsonl"
    cases.write_text(json.dumps({"response": point(56, 84), "row": row, "expected": 1}) + "\n")
    arguments = ["verify", "pointing", "--cases", str(cases), "--tasks", str(ROOT / "tasks")]
    assert CliRunner().invoke(app, arguments).exit_code == 0
    cases.write_text(json.dumps({"response": "", "row": row | {"seen": [280, 224]}, "expected": 1}) + "\n")
    assert "seen is [280, 224]; write the width and height of each picture" in CliRunner().invoke(app, arguments).output


def test_what_the_model_saw_reaches_a_worker():
    row = Row(images=("a.png", "b.png"), seen=((28, 56), (84, 28)))
    assert load_item(dump_item(Item(task="t", row=row, response="r"))).row == row
