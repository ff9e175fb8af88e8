"""Docstrings, help texts and documents are in plain English: they avoid the phrases below, which a newcomer has to decode."""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
REASONS = {  # why a phrase is hard to read: the phrase -> what to write instead
    "a program passes, returns or prints; it does not talk": {
        "is told": "gets, is called with",
        "are told": "are printed, are listed",
        "may be told": "may get a signal",
        "told of": "known about",
        "told them": "returned them",
        "told one by one": "listed one by one",
        "told apart": "distinguished",
        "to be told": "to get",
        "asked to tell": "should return",
        "tells no": "returns no",
        "tells none": "returns none",
        "lets one tell": "can be compared",
        "is said": "is printed, is reported",
        "are said": "are printed, are reported",
    },
    "the field does not deal cards or hand things over": {
        "dealt": "distributed over, assigned to",
        "handed over": "sent, passed",
        "hands over": "sends, passes",
    },
    "a run or a command resumes or continues": {
        "goes on": "continues, resumes, is still running",
        "go on from": "resume from",
        "gone on with": "resumed",
    },
    "a value is somewhere; it does not stand": {
        "stands at": "is at",
        "stands in": "is in",
        "stands where": "stays if",
        "stood at": "was at",
    },
    "a condition is if or when; where is a place": {
        "valueerror where": "raises ValueError if",
        "runtimeerror where": "raises RuntimeError if",
        "typeerror where": "raises TypeError if",
        "badrow where": "raises BadRow if",
        "none where": "None if",
        "empty where": "empty if",
        "where any": "if any",
        "there is where": "there is if",
    },
    "the negation belongs to the verb": {
        "is no run": "is not a run",
        "is no row": "is not a row",
        "is no complete": "is not a complete",
    },
    "a mixture is one of data; a model is dense or MoE": {
        "mixture of experts": "MoE",
        "mixture's experts": "the experts of an MoE model",
        "mixture's tokens": "the tokens of an MoE model",
    },
    "it leaves the reader to guess": {
        "another than": "a different one from",
        "so many": "the number itself, such as: at most N steps",
        "measured otherwise": "measured with other settings",
        "goes with zero_stage": "requires zero_stage",
        "held to": "compared with",
        "a line each": "one line each",
    },
}
SAY_INSTEAD = {phrase: (instead, reason) for reason, phrases in REASONS.items() for phrase, instead in phrases.items()}
DOCUMENTS = [
    "README.md",
    "CONTRIBUTING.md",
    "CHANGELOG.md",
    "SECURITY.md",
    *(path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "docs").rglob("*.md"))),
]
MODULES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "vlrl").rglob("*.py"))]
DOCUMENTED = (ast.Module, ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)


def texts(path: Path) -> list[tuple[int, str]]:
    """A document's paragraphs and rows of tables, or a module's docstrings and help texts, with their lines."""
    source = path.read_text()
    if path.suffix == ".md":
        return [(source.count("\n", 0, found.start()) + 1, found[0]) for found in re.finditer(r"\|.*\n|(?:[^|\n].*\n)+", source)]
    nodes = list(ast.walk(ast.parse(source)))
    docstrings = [
        (node.body[0].lineno, ast.get_docstring(node) or "") for node in nodes if isinstance(node, DOCUMENTED) and node.body
    ]
    helps = [node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "help"]
    return docstrings + [
        (text.lineno, text.value) for text in helps if isinstance(text, ast.Constant) and isinstance(text.value, str)
    ]


def faults(text: str) -> list[str]:
    """What to write instead of each phrase of the text that is not plain English."""
    words = " ".join(re.sub(r"`[^`\s]+`", "", text.lower()).split())  # without names in backticks
    found = [phrase for phrase in SAY_INSTEAD if re.search(rf"\b{phrase}\b", words)]
    return ["{!r}: write {!r}, since {}".format(phrase, *SAY_INSTEAD[phrase]) for phrase in found]


@pytest.mark.parametrize("name", [*MODULES, *DOCUMENTS])
def test_a_file_is_in_plain_english(name):
    found = [f"{name}:{line}: {fault}" for line, text in texts(ROOT / name) for fault in faults(text)]
    assert not found, "\n".join(found)


@pytest.mark.parametrize("phrase", SAY_INSTEAD)
def test_every_phrase_is_found_across_a_line_break_and_not_in_a_name(phrase):
    assert len(faults("A text: " + phrase.replace(" ", "\n"))) >= 1
    assert not faults(f"the file `{phrase.replace(' ', '_')}.py`")


def test_docstrings_and_help_texts_are_both_read(tmp_path):
    (tmp_path / "command.py").write_text('def f(x=Option(help="A number.")):\n    """Adds."""\n')
    assert [text for _, text in texts(tmp_path / "command.py")] == ["", "Adds.", "A number."]
