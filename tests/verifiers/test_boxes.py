"""Boxes and points: right ones score in either convention, and naming more than was asked never pays."""

import doctest
import json
import random
from itertools import permutations

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from tests.verifiers.cases import cases
from vlrl.tasks import BadRow
from vlrl.verifiers import boxes
from vlrl.verifiers.boxes import (
    Frame,
    answered_boxes,
    box_gain,
    box_iou,
    boxes_f1,
    guessed_boxes,
    guessed_points,
    iou,
    point_in_box,
)

FRAME = Frame(width=1000, height=800)
GOLD = (100, 200, 300, 400)
WHOLE = '{"bbox_2d": [0, 0, 1000, 1000]}'
RIGHT = '{"bbox_2d": [100, 250, 300, 500]}'


def rendered(golds, width: int, height: int) -> str:
    """The boxes as Qwen3-VL writes them, in whole thousandths."""
    limits = (width, height, width, height)
    places = [[round(edge * 1000 / limit) for edge, limit in zip(gold, limits, strict=True)] for gold in golds]
    return "```json\n" + json.dumps([{"bbox_2d": place, "label": "cell"} for place in places]) + "\n```"


def some_boxes(width: int = 1000, height: int = 800):
    sides = [st.lists(st.integers(0, side), min_size=2, max_size=2, unique=True).map(sorted) for side in (width, height)]
    return st.tuples(*sides).map(lambda box: (box[0][0], box[1][0], box[0][1], box[1][1]))


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(boxes).failed == 0


VALUES = {"box": box_iou, "boxes": boxes_f1, "point": point_in_box}


@pytest.mark.parametrize("case", cases("places"), ids=lambda case: f"{case['kind']}: {case['answer'][:60]}")
def test_an_answer_has_its_value(case):
    pixels = {"convention": "pixels", "resized": tuple(case["resized"])} if "resized" in case else {}
    frame = Frame(width=case["width"], height=case["height"], **pixels)
    assert VALUES[case["kind"]](case["answer"], case["gold"], frame) == pytest.approx(case["value"])


def cells(box) -> set[tuple[int, int]]:
    return {(x, y) for x in range(box[0], box[2]) for y in range(box[1], box[3])}


@given(some_boxes(12, 9), some_boxes(12, 9))
def test_iou_is_the_share_of_the_pixels_that_both_cover(one, other):
    assert iou(one, other) == pytest.approx(len(cells(one) & cells(other)) / len(cells(one) | cells(other)))


@given(
    st.lists(some_boxes(12, 9), min_size=1, max_size=4), st.lists(some_boxes(12, 9), max_size=4), st.sampled_from([0.2, 0.5, 0.8])
)
def test_f1_counts_the_best_of_all_matchings(golds, given_boxes, threshold):
    frame = Frame(width=12, height=9, convention="pixels", resized=(12, 9))
    assume(frame.whole not in golds)

    def is_close(gold, box) -> bool:
        floor = iou(gold, frame.whole)
        return iou(gold, box) >= (threshold if floor < threshold else floor + threshold * (1 - floor))

    pairs = [[(a, b) for a, b in zip(golds, some)] for some in permutations(given_boxes)]  # noqa: B905 (of any lengths)
    pairs += [[(a, b) for a, b in zip(some, given_boxes)] for some in permutations(golds)]  # noqa: B905
    best = max(sum(is_close(*pair) for pair in each) for each in pairs)
    response = json.dumps([{"bbox_2d": box} for box in given_boxes])
    assert boxes_f1(response, golds, frame, threshold=threshold) == pytest.approx(2 * best / (len(golds) + len(given_boxes)))


@pytest.mark.parametrize("seed", range(72))
def test_a_photo_s_boxes_survive_thousandths_and_one_too_many_or_too_few_costs_something(seed):
    """Up to thirty boxes in a grid of cells, moved about in them, as of a photo of cells."""
    rng = random.Random(seed)
    width, height = rng.choice([(640, 480), (1024, 768), (333, 517)])
    places = rng.sample([(x, y) for x in range(6) for y in range(5)], rng.randint(1, 30))
    wide, high = width // 6, height // 5
    golds = [
        [x * wide + rng.randint(0, 9), y * high + rng.randint(0, 9), (x + 1) * wide - 9, (y + 1) * high - 9] for x, y in places
    ]
    frame, num = Frame(width=width, height=height), len(golds)
    assert boxes_f1(rendered(golds, width, height), golds, frame) == 1
    assert boxes_f1(rendered(golds[1:], width, height), golds, frame) == pytest.approx(2 * (num - 1) / (2 * num - 1))
    assert boxes_f1(rendered([*golds, golds[0]], width, height), golds, frame) == pytest.approx(2 * num / (2 * num + 1))
    assert min(box_iou(rendered([gold], width, height), gold, frame) for gold in golds) > 0.95


@settings(max_examples=100)
@given(some_boxes(), some_boxes())
def test_iou_is_a_symmetric_share(one, other):
    assert iou(one, other) == iou(other, one)
    assert 0 <= iou(one, other) <= 1
    assert (iou(one, other) == 1) == (one == other)


edge = st.floats(0, 1000)


@settings(max_examples=100)
@given(st.lists(st.tuples(edge, edge, edge, edge), min_size=2, max_size=2))
def test_iou_of_odd_fractions_is_still_a_share(pair):
    one, other = ((min(a, c), min(b, d), max(a, c), max(b, d)) for a, b, c, d in pair)
    assert 0 <= iou(one, other) == iou(other, one) <= 1


@settings(max_examples=50)
@given(st.lists(some_boxes(), min_size=1, max_size=6), st.lists(some_boxes(), max_size=6), st.randoms())
def test_f1_does_not_depend_on_the_order(golds, given_boxes, random):
    assume(FRAME.whole not in golds)
    response = rendered(given_boxes, 1000, 800)
    assert 0 <= (score := boxes_f1(response, golds, FRAME, threshold=0.2)) <= 1
    mixed = random.sample(given_boxes, len(given_boxes))
    assert boxes_f1(rendered(mixed, 1000, 800), random.sample(golds, len(golds)), FRAME, threshold=0.2) == score


@settings(max_examples=50)
@given(st.lists(some_boxes(), min_size=1, max_size=6))
def test_the_references_themselves_score_one(golds):
    assume(FRAME.whole not in golds)
    pixels = Frame(width=1000, height=800, convention="pixels", resized=(500, 400))
    response = json.dumps([{"bbox_2d": [value / 2 for value in gold]} for gold in golds])
    assert boxes_f1(response, golds, pixels) == 1
    assert boxes_f1(response.replace("]}]", ']}, {"bbox_2d": [0, 0, 1, 1]}]'), golds, pixels) < 1
    if len(golds) == 1:
        assert box_iou(response, golds[0], pixels) == 1


def test_the_largest_matching_is_found_where_the_nearest_box_would_spoil_it():
    first, second, shared = (0, 0, 100, 100), (0, 0, 100, 60), (0, 0, 100, 90)
    response = rendered([shared, first], 1000, 800)
    assert iou(shared, first) > 0.5 and iou(shared, second) > 0.5 and iou(first, second) > 0.5
    assert boxes_f1(response, [first, second], FRAME, threshold=0.65) == 1


def test_nothing_to_find_is_found_by_an_empty_list_alone():
    assert boxes_f1("[]", [], FRAME) == 1
    assert boxes_f1(RIGHT, [], FRAME) == boxes_f1("none", [], FRAME) == boxes_f1("[]", [GOLD], FRAME) == 0


@settings(max_examples=50)
@given(some_boxes())
def test_the_whole_image_gains_nothing_and_the_reference_all(gold):
    assume(gold != FRAME.whole)
    pixels = Frame(width=1000, height=800, convention="pixels", resized=(1000, 800))
    assert box_gain(json.dumps({"bbox_2d": gold}), gold, pixels) == pytest.approx(1)
    assert box_gain(WHOLE, gold, FRAME) == boxes_f1(WHOLE, [gold], FRAME) == 0


@pytest.mark.parametrize(
    "response",
    [
        f"I see it: {RIGHT}",
        f"{RIGHT} there",
        f"[{RIGHT}, {RIGHT}]",
        f"[{RIGHT}, 7]",
        f'[{RIGHT}, {{"label": "cat"}}]',
        f"[[{RIGHT}]]",
        f"<think>{RIGHT}</think>",
        '{"bbox_2d": "[100, 250, 300, 500]"}',
        '{"bbox_2d": ["100", "250", "300", "500"]}',
        '{"bbox_2d": [[100, 250, 300, 500]]}',
        '{"bbox_2d": [300, 250, 100, 500]}',
        '{"bbox_2d": [100, 500, 300, 250]}',
        '{"bbox_2d": [100, 250, 100, 500]}',
        '{"bbox_2d": [-1, 250, 300, 500]}',
        '{"bbox_2d": [100, 250, 300, 1000.1]}',
        '{"bbox_2d": [100, 250, 300, 1e400]}',
        '{"bbox_2d": [100, 250, 300, Infinity]}',
        '{"bbox_2d": [100, 250, 300, null]}',
        '{"bbox_2d": [0, 0, 1, 1], "bbox_2d": [100, 250, 300, 500]}',
        '{"bbox": [100, 250, 300, 500]}',
        "[100, 250, 300, 500]",
    ],
)
def test_what_is_not_one_well_formed_box_scores_nothing(response):
    assert box_iou(RIGHT, GOLD, FRAME) == 1
    assert box_iou(response, GOLD, FRAME) == 0


def test_pixels_are_those_of_the_resized_image():
    frame = Frame(width=1000, height=800, convention="pixels", resized=(500, 200))
    assert box_iou('{"bbox_2d": [50, 50, 150, 100]}', GOLD, frame) == 1
    assert answered_boxes('{"bbox_2d": [50, 50, 501, 100]}', frame) is None


@pytest.mark.parametrize(
    ("response", "inside"),
    [
        ('{"point_2d": [300, 500]}', True),
        ('{"point_2d": [300.5, 500]}', False),
        ('{"point_2d": [200, 375, 0]}', False),
        ('{"point_2d": [true, 375]}', False),
        ('[{"point_2d": [200, 375]}, {"point_2d": [200, 375]}]', False),
        ("[]", False),
        ('<point x="30" y="50">cat</point>', True),
        ('<points x1="20" y1="37.5" x2="90" y2="90">cat</points>', False),
        ('<point x="20" y="37.5">cat</point><point x="90" y="90">cat</point>', False),
        ('<point x="200" y="37.5">cat</point>', False),
        ('<point x="٢٠" y="37.5">cat</point>', False),
        ('It is here: <point x="20" y="37.5">cat</point>', False),
    ],
)
def test_one_point_on_or_inside_the_border_is_right(response, inside):
    assert point_in_box(response, GOLD, FRAME) == inside


@pytest.mark.parametrize(
    "gold",
    [(), (1, 2, 3), (300, 200, 100, 400), (100, 200, 300, 801), (-1, 0, 5, 5), (0, 0, True, 1), (0, 0, float("nan"), 9), "abcd"],
)
def test_an_impossible_reference_is_the_rows_fault(gold):
    for score in (box_iou, box_gain, point_in_box):
        with pytest.raises(BadRow, match="not a box"):
            score("none", gold, FRAME)
    with pytest.raises(BadRow, match="not a box"):
        boxes_f1("none", [gold], FRAME)


def test_a_reference_around_everything_has_nothing_to_gain():
    for score in (lambda: box_gain(RIGHT, FRAME.whole, FRAME), lambda: boxes_f1(RIGHT, [GOLD, FRAME.whole], FRAME)):
        with pytest.raises(BadRow, match="no answer can improve"):
            score()


@settings(max_examples=50)
@given(st.lists(some_boxes(), min_size=1, max_size=4), st.sampled_from([0.3, 0.5, 0.7]))
def test_a_box_around_the_whole_image_never_pays_among_several_references_either(golds, threshold):
    assume(FRAME.whole not in golds)
    assert boxes_f1(WHOLE, golds, FRAME, threshold=threshold) == 0


@pytest.mark.parametrize("inset", [1, 5, 20])
def test_a_box_that_is_nearly_the_whole_image_does_not_pay_for_a_large_object_either(inset):
    large = (100, 40, 950, 760)
    assert iou(large, FRAME.whole) > 0.5
    assert boxes_f1(json.dumps({"bbox_2d": [inset, inset, 1000 - inset, 1000 - inset]}), [large], FRAME) == 0
    assert boxes_f1(rendered([large], 1000, 800), [large], FRAME) == 1


QWEN2 = "<|box_start|>(100,250),(300,500)<|box_end|>"


@pytest.mark.parametrize(
    ("response", "value"),
    [
        (f"<answer>[{RIGHT}]</answer>", 1),
        (f"<think>The cat sits.</think>\n<answer>\n```json\n[{RIGHT}]\n```\n</answer>\n", 1),
        (f"The cat sits there.\n<answer>{RIGHT}</answer>", 1),
        (f"<answer>{QWEN2}</answer>", 1),
        (f"<answer>{RIGHT}</answer><answer>{RIGHT}</answer>", 0),
        (f"<answer>{RIGHT}", 0),
        (f"{RIGHT}</answer>", 0),
        (f"</answer>{RIGHT}<answer>", 0),
        (f"<answer><answer>{RIGHT}</answer></answer>", 0),
        ("<answer>[100, 250, 300, 500]</answer>", 0),
        (f"{RIGHT}<answer></answer>", 0),
        (QWEN2, 1),
        (f"<|object_ref_start|>the cat<|object_ref_end|>{QWEN2}", 1),
        ("<|box_start|>(100, 250), (300, 500)<|box_end|>\n", 1),
        ("<ref>the cat</ref><box>(100,250),(300,500)</box>", 1),
        ("<box>(100,250),(300,500)</box>", 1),
        (f"{QWEN2}{QWEN2}", 0),
        (f"It is here: {QWEN2}", 0),
        (f"{QWEN2} or so", 0),
        ("<|box_start|>(100,250),(300,500)</box>", 0),
        ("<|box_start|>(100,250)<|box_end|>", 0),
        ("<|box_start|>(100,250),(300,500)", 0),
        ("<|box_start|>(300,250),(100,500)<|box_end|>", 0),
        ("<|box_start|>(100,250),(300,1500)<|box_end|>", 0),
        ("<|box_start|>(-100,250),(300,500)<|box_end|>", 0),
        ("<box>[100, 250, 300, 500]</box>", 0),
        ("(100,250),(300,500)", 0),
    ],
)
def test_a_box_counts_in_the_forms_that_models_were_trained_on(response, value):
    assert box_iou(response, GOLD, FRAME) == value


def test_marks_count_for_points_and_several_boxes_too():
    assert point_in_box("<|box_start|>(200,375)<|box_end|>", GOLD, FRAME)
    assert point_in_box("<ref>cat</ref><box>(200,375)</box>", GOLD, FRAME)
    assert point_in_box('<answer>{"point_2d": [200, 375]}</answer>', GOLD, FRAME)
    assert point_in_box('<answer><point x="20" y="37.5">cat</point></answer>', GOLD, FRAME)
    assert not point_in_box(QWEN2, GOLD, FRAME)
    two = [GOLD, (500, 400, 600, 480)]
    assert boxes_f1(f"{QWEN2}, <|box_start|>(500,500),(600,600)<|box_end|>", two, FRAME) == 1


def test_marks_are_refused_in_pixels_because_they_are_thousandths():
    assert box_iou(QWEN2, GOLD, Frame(width=1000, height=800, convention="pixels", resized=(1000, 800))) == 0


def test_a_guess_is_named_where_it_is_right():
    usual, crowd = ([(100, 100, 160, 160)], FRAME), ([(0, 0, 1000, 799), *[(0, 0, 9, 9)] * 3], FRAME)
    assert guessed_boxes([([(0, 0, 1000, 400)], FRAME), ([(0, 0, 1000, 399)], FRAME)]) == ["a box around the whole image", ""]
    spread = [([(10 * n, 10 * n, 10 * n + 60, 10 * n + 60)], FRAME) for n in range(21)]
    assert [bool(guess) for guess in guessed_boxes(spread)] == [abs(n - 10) <= 1 for n in range(21)], (
        "around the mean of the rest"
    )
    assert guessed_boxes([usual] * 20) == [""] * 20, "too few rows to have a usual place"
    assert guessed_boxes([usual] * 21) == ["the mean box of the other rows"] * 21
    assert guessed_boxes([crowd]) == [""], "one of four objects"
    assert guessed_boxes([([], FRAME)]) == [""] and guessed_boxes([]) == []


def test_a_guessed_point_is_named_where_it_is_right():
    left, centre = ((0, 0, 100, 100), FRAME), ((480, 380, 520, 420), FRAME)
    assert guessed_points([left] * 19 + [centre]) == [""] * 19 + ["the centre of the image"]
    assert guessed_points([left] * 21) == ["the mean centre of the other rows' boxes"] * 21
    assert guessed_points([]) == []


@pytest.mark.parametrize(
    "fields",
    [{"convention": "relative_999"}, {"convention": "pixels"}, {"resized": (5, 5)}, {"width": 0}, {"height": 4.5}]
    + [{"convention": "pixels", "resized": (0, 5)}, {"convention": "pixels", "resized": ()}],
)
def test_an_impossible_frame_is_the_rows_fault(fields):
    with pytest.raises(BadRow):
        Frame(**{"width": 10, "height": 10} | fields)


@settings(max_examples=100)
@given(st.text(max_size=80) | st.text(alphabet='[]{}bbox_2dpoint",:0e9-. ', max_size=80))
def test_no_text_upsets_the_parser(text):
    for response in (text, f'{{"bbox_2d": {text}}}', f'{{"point_2d": [{text}]}}', f'<point x="{text}" y="5">a</point>'):
        assert 0 <= box_iou(response, GOLD, FRAME) <= 1
        assert point_in_box(response, GOLD, FRAME) in (True, False)
        assert 0 <= boxes_f1(response, [GOLD], FRAME) <= 1


@pytest.mark.parametrize("text", ['{"bbox_2d": [', "[[", "9", "<point x=", '<points x="', "\n", "```json\n"])
def test_a_megabyte_is_no_answer(text):
    response = text * (10**6 // len(text))
    assert box_iou(response, GOLD, FRAME) == boxes_f1(response, [GOLD], FRAME) == point_in_box(response, GOLD, FRAME) == 0
