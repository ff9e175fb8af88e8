"""Only the chat template writes control tokens: what the data quotes stays text, in every place where data can be."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.conftest import SMALL_IMAGES
from tests.models.helpers import message
from tests.models.thinking import SWITCHES, write_thinking
from vlrl.common.responses import after_reasoning
from vlrl.models.checkpoint_io import load_encoder
from vlrl.models.families.qwen_vl import SPECIAL_TOKENS
from vlrl.rollout.groups import encode_demonstration
from vlrl.types import Prompt, Row

CONTROL = SPECIAL_TOKENS
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)
PIECES = st.lists(st.one_of(st.sampled_from([*CONTROL, "<|im_", "end|>", "<", "\ufdd0", "<thi", "nk>"]), TEXT), max_size=6)


@pytest.fixture(scope="module")
def encoder(tiny_dense):
    return load_encoder(tiny_dense, SMALL_IMAGES)


@pytest.fixture(scope="module")
def thinking(tiny_dense, tmp_path_factory):
    return load_encoder(write_thinking(tiny_dense, tmp_path_factory.mktemp("models") / "thinking"), SMALL_IMAGES)


def template_tokens(encoder, turns):
    """The control tokens of a chat without anything in its turns."""
    ids = encoder.encode([{"role": role, "content": ""} for role in turns]).tokens.tolist()
    return [token for token in ids if token < len(CONTROL)]


def control_tokens(encoder, messages):
    return [token for token in encoder.encode(messages).tokens.tolist() if token < len(CONTROL)]


@given(pieces=PIECES)
def test_no_text_of_a_question_becomes_a_control_token_and_all_of_it_arrives(encoder, pieces):
    text = "".join(pieces)
    assert control_tokens(encoder, message(text)) == template_tokens(encoder, ["user"])
    tokenizer = encoder.tokenizer
    start, end = "<|im_start|>user\n", "<|im_end|>\n<|im_start|>assistant\n"
    assert tokenizer.decode(encoder.encode(message(text)).tokens.tolist()) == f"{start}{text}{end}"


@given(text=TEXT)
def test_a_text_without_control_tokens_has_the_tokenizer_s_own_tokens(encoder, text):
    tokenizer = encoder.tokenizer
    rendered = tokenizer.apply_chat_template(message(text), tokenize=False, add_generation_prompt=True)
    assert encoder.encode(message(text)).tokens.tolist() == tokenizer.encode(rendered, add_special_tokens=False)


@pytest.mark.parametrize("name", CONTROL)
def test_a_control_token_is_text_in_a_system_message_and_in_an_example_s_turns(encoder, name):
    turns = ["system", "user", "assistant", "user"]
    messages = [{"role": role, "content": f"Say {name} now"} for role in turns]
    assert control_tokens(encoder, messages) == template_tokens(encoder, turns)


def test_two_parts_of_a_message_make_no_control_token_together(encoder):
    parts = [{"type": "text", "text": "Write <|im_"}, {"type": "text", "text": "end|>"}]
    assert control_tokens(encoder, [{"role": "user", "content": parts}]) == template_tokens(encoder, ["user"])


def test_a_quoted_placeholder_leaves_the_images_where_they_are(encoder, pictures):
    quoted, plain = (encoder.encode(message(text, *pictures)) for text in ("<|image_pad|><|vision_start|>", "Compare."))
    assert quoted.image_spans == plain.image_spans
    assert quoted.tokens.tolist().count(encoder.image_token) == plain.tokens.tolist().count(encoder.image_token)


@given(pieces=PIECES)
def test_a_demonstration_has_the_model_s_reasoning_tags_and_no_other_control_token_but_its_end(encoder, pieces):
    text = "".join(pieces)
    *ids, end = encoder.encode_response(text)
    tags = [encoder.tokenizer.convert_tokens_to_ids(tag) for tag in ("<think>", "</think>")]
    assert end == encoder.end_tokens[0] and {token for token in ids if token < len(CONTROL)} <= set(tags)
    assert encoder.tokenizer.decode(ids) == text
    assert [ids.count(tag) for tag in tags] == [text.count("<think>"), text.count("</think>")]


def test_a_prompt_knows_the_reasoning_that_its_template_opened(encoder, thinking):
    assert encoder.encode(message("What is 1 + 2?")).opened == ""
    assert encoder.encode(message("Why <think>?")).opened == ""
    prompt = thinking.encode(message("What </think> is 1 + 2?"))
    assert prompt.opened == "<think>\n"
    assert thinking.tokenizer.decode(prompt.tokens).endswith("<|im_start|>assistant\n<think>\n")


@pytest.fixture(scope="module")
def switching(tiny_dense, tmp_path_factory):
    return write_thinking(tiny_dense, tmp_path_factory.mktemp("models") / "switching", SWITCHES)


NOTHING = "<think>\n\n</think>\n\n"


@pytest.mark.parametrize(
    ("variables", "written", "opened", "sampled"),
    [
        ({}, "<think>\n", "<think>\n", "4 is 2 + 2</think>\n\n7"),
        ({"enable_thinking": True}, "<think>\n", "<think>\n", "4 is 2 + 2</think>\n\n7"),
        ({"enable_thinking": False}, NOTHING, "", "7"),
    ],
)
def test_a_template_that_can_leave_out_the_reasoning_does_as_the_run_says(switching, variables, written, opened, sampled):
    encoder = load_encoder(switching, SMALL_IMAGES, variables)
    prompt = encoder.encode(message("What is 3 + 4? <think>"))
    assert encoder.tokenizer.decode(prompt.tokens).endswith(f"<|im_start|>assistant\n{written}") and prompt.opened == opened
    assert after_reasoning(prompt.opened + encoder.decode(encoder.encode_response(sampled, prompt.opened))).strip() == "7"


def test_a_reasoning_that_was_cut_off_leaves_a_verifier_nothing_and_an_answer_without_one_all(switching):
    texts = []
    for thinks in (True, False):
        prompt = load_encoder(switching, SMALL_IMAGES, {"enable_thinking": thinks}).encode(message("3 + 4?"))
        texts.append(after_reasoning(f"{prompt.opened}\\boxed{{7}}"))
    assert texts == ["", "\\boxed{7}"]


@pytest.mark.parametrize("name", ["enable_thinkin", "add_generation_prompt", "messages", "tokenize"])
def test_a_variable_that_the_template_does_not_use_is_refused_with_those_that_it_does(switching, name):
    with pytest.raises(ValueError, match=rf"^model '.*': template_kwargs.{name}: .*; it uses enable_thinking; correct the name"):
        load_encoder(switching, SMALL_IMAGES, {name: False})


def test_a_template_without_variables_is_named_as_such(tiny_dense):
    with pytest.raises(ValueError, match="template_kwargs.enable_thinking: .*; it uses none; correct the name or remove"):
        load_encoder(tiny_dense, SMALL_IMAGES, {"enable_thinking": False})


@pytest.mark.parametrize("response", ["a</think>\n\n7", "<think>\na</think>\n\n7", "<think>a</think>\n\n7"])
def test_a_demonstration_opens_the_reasoning_once_though_the_prompt_did(thinking, response):
    assert thinking.decode(thinking.encode_response(response, "<think>\n")) == "a</think>\n\n7"


def test_a_demonstration_that_never_closes_the_reasoning_is_refused_by_row(thinking):
    prompt = Prompt(slot=0, task="sums", row=Row(key="4", response="\\boxed{7}"), messages=tuple(message("3 + 4?")))
    with pytest.raises(ValueError, match="^task sums, row '4': its response has no </think>, but .* opens"):
        encode_demonstration(prompt, thinking)
