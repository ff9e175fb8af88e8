"""Knights and knaves, and propositional logic: the parser, the truth tables, and what is never given away."""

import doctest
import random
from itertools import combinations, product

import pytest
import reasoning_gym
from hypothesis import given, settings
from hypothesis import strategies as st

from vlrl.common.responses import after_reasoning
from vlrl.tasks import BadRow
from vlrl.verifiers import logic
from vlrl.verifiers.answers import last_boxed
from vlrl.verifiers.logic import concludes, equivalent, follows, roles, solves_knights

NAMES = ["Joseph", "Samuel", "Ava"]
META = {
    "names": NAMES,
    "knight_knave_terms": {"knight": "altruist", "knave": "egoist"},
    "statements": [["lying", 1], ["and", ["telling-truth", 0], ["lying", 2]], ["<=>", ["telling-truth", 0], ["lying", 1]]],
    "solution": [True, False, True],
}
GOLD = "Joseph is an altruist, Samuel is an egoist, and Ava is an altruist."
SPELLINGS = {
    "and": ["∧", "&", "&&", "and", "AND", r"\land"],
    "or": ["∨", "|", "||", "or", "Or", r"\lor"],
    "xor": ["xor", "⊕", "XOR"],
    "implies": ["→", "->", "=>", "⇒", "implies", r"\to", r"\Rightarrow"],
    "iff": ["↔", "<->", "<=>", "⇔", "iff"],
    "not": ["¬", "~", "!", "not ", r"\neg "],
}
MEANING = {
    "and": lambda one, other: one and other,
    "or": lambda one, other: one or other,
    "xor": lambda one, other: one is not other,
    "implies": lambda one, other: other if one else True,
    "iff": lambda one, other: one is other,
}
VARIABLES = ["P", "Q", "R"]
CASES = [dict(zip(VARIABLES, values, strict=True)) for values in product([True, False], repeat=len(VARIABLES))]


def trees_over(variables):
    return st.recursive(
        st.sampled_from(variables),
        lambda part: st.tuples(st.just("not"), part) | st.tuples(st.sampled_from(list(MEANING)), part, part),
        max_leaves=10,
    )


trees = trees_over(VARIABLES)


def true_in(case, tree):
    match tree:
        case str(name):
            return case[name]
        case ("not", part):
            return not true_in(case, part)
        case (operator, one, other):
            return MEANING[operator](true_in(case, one), true_in(case, other))


def written(draw, tree):
    """The tree as text, fully bracketed, in spellings that hypothesis draws."""
    match tree:
        case str(name):
            return name
        case ("not", part):
            return draw(st.sampled_from(SPELLINGS["not"])) + written(draw, part)
        case (operator, one, other):
            left, right = draw(st.sampled_from(["()", "[]"]))
            sign = draw(st.sampled_from(SPELLINGS[operator]))
            return f"{left}{written(draw, one)} {sign} {written(draw, other)}{right}"


def generated(family, **config):
    return list(reasoning_gym.create_dataset(family, size=50, seed=20, **config))


def changed(**entries):
    return META | entries


def test_the_examples_in_the_docstrings_hold():
    assert doctest.testmod(logic).failed == 0


@pytest.mark.parametrize("people", [2, 3, 5])
def test_every_generated_row_of_knights_passes_with_its_own_answer(people):
    rows = generated("knights_knaves", n_people=people, depth_constraint=3, width_constraint=3)
    assert [solves_knights(row["answer"], row["metadata"]) for row in rows] == [True] * 50


@pytest.mark.parametrize("people", [2, 3, 5])
def test_a_generated_row_passes_with_no_other_roles(people):
    for row in generated("knights_knaves", n_people=people, depth_constraint=3, width_constraint=3):
        meta = row["metadata"]
        words = [meta["knight_knave_terms"]["knave"], meta["knight_knave_terms"]["knight"]]
        for told in product([False, True], repeat=people):
            answer = ", ".join(f"{name}: {words[role]}" for name, role in zip(meta["names"], told, strict=True))
            assert solves_knights(answer, meta) == (told == tuple(meta["solution"]))


@settings(max_examples=100)
@given(
    st.permutations(list(zip(NAMES, ["altruist", "egoist", "altruist"], strict=True))),
    st.sampled_from([" is a ", " is an ", " is ", ": ", "=", " : a "]),
    st.sampled_from([", ", ", and ", " and ", "; ", "\n", ".\n", "\n- "]),
    st.sampled_from([str.lower, str.upper, str.title]),
    st.sampled_from(["{}", "{}.", "  {}\n", "```\n{}\n```", "**{}**", r"\text{{{}}}", "- {}"]),
)
def test_the_right_roles_pass_however_they_are_phrased(told, being, between, case, dress):
    assert solves_knights(dress.format(between.join(case(f"{name}{being}{role}") for name, role in told)), META)


@settings(max_examples=200)
@given(st.lists(st.tuples(st.sampled_from([*NAMES, "Noah"]), st.sampled_from(["altruist", "egoist", "knight"])), max_size=5))
def test_only_every_name_once_with_its_role_passes(told):
    right = sorted(told) == sorted(zip(NAMES, ["altruist", "egoist", "altruist"], strict=True))
    assert solves_knights(", ".join(f"{name} is an {role}" for name, role in told), META) == right


@settings(max_examples=200)
@given(st.integers(0, len(GOLD)), st.integers(0, 3), st.text(st.characters(categories=["L", "N"]), max_size=3))
def test_an_edit_of_letters_never_passes(start, length, put_in):
    edited = GOLD[:start] + put_in + GOLD[start + length :]
    articles = {"a", "an", "and", "is"}
    words = [word for word in "".join(c if c.isalnum() else " " for c in edited.casefold()).split() if word not in articles]
    if words != ["joseph", "altruist", "samuel", "egoist", "ava", "altruist"]:
        assert not solves_knights(edited, META)


@pytest.mark.parametrize(
    "answer",
    [
        "",
        ".",
        "altruist",
        "Joseph, Samuel, Ava",
        GOLD + " " + GOLD,
        GOLD + " Noah is an egoist.",
        GOLD + " Or not.",
        "It is true that " + GOLD,
        GOLD.replace("an egoist", "an egoist and an altruist"),
        GOLD.replace("an egoist", "an egoist/altruist"),
        GOLD.replace("an egoist", "not an altruist"),
        GOLD.replace("an egoist", "an egoist or an altruist"),
        GOLD.replace("an egoist", "an altruist. Samuel is an egoist"),
        GOLD.replace("an egoist", "a knave"),
        GOLD.replace(", and", " or"),
        GOLD.replace("Ava", "Eva"),
        GOLD.replace("Ava", "Ａva"),
        f"<think>{GOLD}</think>",
        GOLD + " " * 5000,
    ],
)
def test_all_else_is_not_an_answer_about_knights(answer):
    assert not solves_knights(answer, META)


def test_roles_in_the_reasoning_alone_are_no_answer():
    response = f"<think>\\boxed{{{GOLD}}}</think> I know who is who."
    assert last_boxed(response) is None
    assert not solves_knights(after_reasoning(response), META)


def test_a_name_may_look_like_an_article():
    assert roles("A is a knight, and B is a knave.", ["A", "B"], "knight", "knave") == {"A": True, "B": False}
    assert roles("A: knight, B: knave", ["A", "B"], "knight", "knave") == {"A": True, "B": False}


@pytest.mark.parametrize(
    ("meta", "message"),
    [
        ({}, "no 'names'"),
        (changed(knight_knave_terms={"knight": "altruist"}), "no 'knave'"),
        (changed(names=["Joseph", "joseph", "Ava"]), "different names"),
        (changed(names=["Joseph", "Samuel"]), "different names"),
        (changed(names=[], statements=[], solution=[]), "different names"),
        (changed(solution=[True, False, False]), "is not the only solution"),
        (changed(solution=[True, True, True]), "is not the only solution"),
        (changed(statements=[["telling-truth", 0], ["telling-truth", 1], ["telling-truth", 2]]), "is not the only solution"),
        (changed(statements=[["lying", 0], ["lying", 1], ["lying", 2]]), "is not the only solution"),
        (changed(statements=[["lying", 3], ["lying", 0], ["lying", 0]]), "is not a statement"),
        (changed(statements=[["maybe", 1], ["lying", 0], ["lying", 0]]), "is not a statement"),
        (changed(statements=[["not"], ["lying", 0], ["lying", 0]]), "is not a statement"),
    ],
)
def test_a_row_whose_solution_is_not_the_solution_is_the_rows_fault(meta, message):
    with pytest.raises(BadRow, match=message):
        solves_knights(GOLD, meta)


@settings(max_examples=150)
@given(trees, st.data())
def test_the_parser_agrees_with_the_meaning_of_the_tree_in_every_case(tree, data):
    formula = written(data.draw, tree)
    for case in CASES:
        facts = [name if case[name] else f"¬{name}" for name in VARIABLES]
        assert follows(facts, formula) == true_in(case, tree)
        assert follows(facts, f"¬({formula})") != true_in(case, tree)


@settings(max_examples=150)
@given(trees, trees, trees, st.data())
def test_formulas_follow_and_are_equivalent_as_brute_force_says(one, other, third, data):
    texts = [written(data.draw, tree) for tree in (one, other, third)]
    assert equivalent(texts[0], texts[1]) == all(true_in(case, one) == true_in(case, other) for case in CASES)
    brute = all(true_in(case, third) for case in CASES if true_in(case, one) and true_in(case, other))
    assert follows(texts[:2], texts[2]) == brute


@settings(max_examples=150)
@given(
    st.lists(
        st.tuples(st.sampled_from(["", "not ", "not not "]), st.sampled_from(VARIABLES), st.sampled_from([" and ", " or "])),
        min_size=1,
        max_size=8,
    )
)
def test_without_brackets_not_and_or_bind_as_in_python(parts):
    text = "".join(f"{sign}{name}{operator}" for sign, name, operator in parts).rpartition(parts[-1][2])[0]
    for case in CASES:
        facts = [name if case[name] else f"not {name}" for name in VARIABLES]
        assert follows(facts, text) == eval(text, {}, case)


def boolean_expression(rng, depth):
    """An expression of True and False as a person writes it, without a bracket more than Python needs or with a few."""
    if depth == 0:
        return rng.choice(["True", "False", "not True", "not False", "not not True"])
    parts = f" {rng.choice(['and', 'or'])} ".join(boolean_expression(rng, depth - 1) for _ in range(2))
    return rng.choice(["{}", "({})", "not ({})", "( {} )"]).format(parts)


def test_boolean_expressions_have_the_value_that_python_gives_them():
    rng, facts = random.Random(0), ["True", "not False"]  # two variables like any other
    expressions = [boolean_expression(rng, depth) for depth in (1, 2, 3) for _ in range(60)]
    assert [text for text in expressions if follows(facts, text) != eval(text)] == []
    assert {eval(text) for text in expressions} == {True, False}


@pytest.mark.parametrize(
    ("formula", "bracketed"),
    [
        ("P → Q → R", "P → (Q → R)"),
        ("P ∨ Q → R", "(P ∨ Q) → R"),
        ("P → Q ↔ R", "(P → Q) ↔ R"),
        ("P xor Q ∨ R", "(P xor Q) ∨ R"),
        ("P ∧ Q xor R", "(P ∧ Q) xor R"),
        ("¬P → Q", "(¬P) → Q"),
        ("¬P ∧ Q", "(¬P) ∧ Q"),
        ("[(P)]", "P"),
        (r"$P \to Q$.", "P -> Q"),
        ("rain_1 IMPLIES wet", "rain_1 → wet"),
    ],
)
def test_operators_bind_from_not_to_iff(formula, bracketed):
    assert equivalent(formula, bracketed)


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "()",
        "P Q",
        "P ∧",
        "∧ P",
        "P ∧ ∧ Q",
        "(P",
        "P)",
        "(P]",
        "¬",
        "P¬",
        "P^Q",
        "P, Q",
        "P or maybe Q",
        "Ｐ",
        "п",
        "1",
        "P = Q",
        "P\\frac",
        "<think>P</think>",
        "(" * 65 + "P" + ")" * 65,
        "¬" * 66 + "P",
        "P" + "→P" * 70,
        "a∨b∨c∨d∨e∨f∨g∨h∨i",
        "P" + " " * 5000,
        "__import__('os')",
    ],
)
def test_all_else_is_not_a_formula(text):
    assert not equivalent(text, "P")
    assert not follows(["P"], text)
    assert not concludes(["P → Q", "P"], text)
    with pytest.raises(BadRow, match="is not a formula"):
        equivalent("P", text)


def test_eight_variables_and_long_chains_are_read():
    assert equivalent("a∨b∨c∨d∨e∨f∨g∨h", "h∨g∨f∨e∨d∨c∨b∨a")
    assert equivalent("P" + "∧P" * 2000, "P")
    assert equivalent("(" * 60 + "P" + ")" * 60, "P")


def test_variables_are_told_apart_by_case():
    assert not equivalent("p", "P")


@pytest.mark.parametrize(
    ("conclusion", "real"),
    [
        ("R", True),
        ("R ∧ P", True),
        ("P → R", True),
        ("P ∨ ¬P", False),
        ("P", False),
        ("¬¬P", False),
        ("(P ∧ P)", False),
        ("¬Q → ¬P", False),
        ("¬P", False),
        ("R ∨ S", False),
        ("R ∧ (S ∨ ¬S)", False),
        ("S ∨ ¬S", False),
        ("P → Q, so R", False),
    ],
)
def test_a_conclusion_says_more_than_a_premise_or_nothing(conclusion, real):
    assert concludes(["P → Q", "Q → R", "P"], conclusion) == real


@pytest.mark.parametrize(
    ("premises", "message"),
    [
        (["P", "¬P"], "contradict each other"),
        (["P"], "only tautologies"),
        (["P ∨ ¬P"], "only tautologies"),
        ([], "only tautologies"),
        (["P", "so Q"], "is not a formula"),
        (["a∨b∨c∨d∨e", "f∨g∨h∨i"], "is not a formula"),
    ],
)
def test_premises_without_a_conclusion_are_the_rows_fault(premises, message):
    with pytest.raises(BadRow, match=message):
        concludes(premises, "P")


@settings(max_examples=100)
@given(st.lists(trees_over(["P", "Q"]), min_size=1, max_size=3), st.data())
def test_every_real_conclusion_counts_and_a_row_without_one_is_at_fault(premises, data):
    texts = [written(data.draw, tree) for tree in premises]
    known = [name for name in ["P", "Q"] if any(name in str(tree) for tree in premises)]
    cases = [" ∧ ".join(signed) for signed in product(*([name, f"¬{name}"] for name in known))]
    formulas = [" ∨ ".join(f"({case})" for case in some) for n in range(1, len(cases)) for some in combinations(cases, n)]
    real = [f for f in formulas if follows(texts, f) and not any(equivalent(f, text) for text in texts)]
    if follows(texts, "P ∧ ¬P") or not real:
        with pytest.raises(BadRow):
            concludes(texts, "P")
    else:
        assert [f for f in formulas if concludes(texts, f)] == real


def test_generated_propositional_rows_take_their_example_if_it_is_a_real_conclusion():
    for row in generated("propositional_logic"):
        premises, example = row["metadata"]["premises"], row["metadata"]["example_answer"]
        says_nothing = follows([], example) or any(equivalent(example, premise) for premise in premises)
        is_foreign = not set(filter(str.isalpha, example)) <= set(filter(str.isalpha, "".join(premises)))
        try:
            assert concludes(premises, example) == (follows(premises, example) and not says_nothing and not is_foreign)
        except BadRow as error:
            assert "contradict" in str(error) or "only tautologies" in str(error)


def judge_all(text):
    return [solves_knights(text, META), equivalent(text, "P ∧ Q"), follows(["P"], text), concludes(["P → Q", "P"], text)]


@settings(max_examples=200)
@given(st.text(max_size=200) | st.text(st.sampled_from("PQRS()[]¬~∧∨→↔<->=&|! .$"), max_size=60))
def test_no_text_upsets_the_checks(text):
    judge_all(text)


@pytest.mark.parametrize("text", ["P ", "(", "¬", "P→", "->", ",", "\n- ", "Ava is ", ": ", "```", "Ｐ", "\\boxed{"])
@pytest.mark.parametrize("size", [4000, 2**20])
def test_no_length_of_text_passes_or_hangs(text, size):
    assert not any(judge_all(text * (size // len(text))))
