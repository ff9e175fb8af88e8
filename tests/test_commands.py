"""Every command of the documents is on docs/commands.md with what runs it, and names what is there."""

import re
import shutil

import pytest
import typer.core
import typer.main

from tests.doc_commands import DOCUMENTS, PAGE, attributed, documented, is_whole, listed, shell_commands, written
from tests.test_docs import LONG, OWN_TASK, ROOT, SHORT_RUN, clone, run  # noqa: F401 (clone is a fixture)
from vlrl.cli.main import app

OF_THE_DOCUMENTS = "tests/test_commands.py::test_the_commands_of_the_documents_run"
OF_OWN_TASK = "tests/test_docs.py::test_every_command_of_own_task_runs_in_order"
OF_ITS_RUN = "tests/test_docs.py::test_the_run_of_own_task_trains_and_reports"
BEFORE = {  # what a command needs that others leave under other names
    "vlrl report runs/one": "ln -s cpu runs/one && ln -s twice runs/two",
    "vlrl compare": "cp -r runs/cpu/eval runs/twice/eval",
}


def test_every_command_of_the_documents_is_on_the_page_of_commands_and_no_other():
    found, page = set(documented()), {command for commands in listed().values() for command, _ in commands}
    assert not found - page, f"add to {PAGE.name}, with the test that runs it or the reason why none does"
    assert not page - found, f"remove from {PAGE.name}: no document has it"


def test_a_command_is_given_only_to_a_test_that_runs_it_and_the_others_have_a_reason():
    assert set(listed()) == {OF_THE_DOCUMENTS, OF_OWN_TASK, OF_ITS_RUN, ""}
    assert all(bool(reason) == (test == "") for test, commands in listed().items() for _, reason in commands)
    own = [command for block in OWN_TASK if block.kind == "sh" for command in shell_commands(block.text)]
    assert attributed(OF_OWN_TASK) == [command for command in own if not command.startswith(LONG)]
    assert attributed(OF_ITS_RUN) == [command for command in own if command.startswith(LONG)]


def test_commands_patterns_and_comments_are_distinguished():
    script = "cat > x <<'END'\na: 1\nEND\nvlrl try x \\\n  --rows y   # shows it\n# nothing\n"
    assert shell_commands(script) == ["cat > x <<'END'", "vlrl try x --rows y"]
    assert is_whole("vlrl train configs/cpu.yaml") and is_whole("make test")
    assert not any(map(is_whole, ["vlrl data build", "vlrl plan --memory", "vlrl verify TASK", "vlrl eval ..."]))


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_commands_and_mentions_of_them_name_subcommands_options_modules_and_targets_that_are_there(document):
    text, faults = written(document), []
    for words in re.findall(r"(?<![\w/.-])vlrl ((?:[a-z]+ ?)+[^\n]*)", text):
        faults += unknown(words.split())
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    faults += [
        f"make {target}" for target in re.findall(r"(?:^|&& |do )make ([a-z-]+)", text, re.MULTILINE) if target not in targets
    ]
    for module in re.findall(r"python -m ((?:bench|tests)[\w.]*)", text):
        path = ROOT / module.replace(".", "/")
        faults += [] if path.with_suffix(".py").exists() or (path / "__main__.py").exists() else [f"python -m {module}"]
    assert not faults


def unknown(words: list[str]) -> list[str]:
    """What of a vlrl command's words is not there: its subcommand, or options."""
    command = typer.main.get_command(app)
    while isinstance(command, typer.core.TyperGroup) and words:
        if words[0] not in command.commands:
            return [f"vlrl has no command {words[0]}"]
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in (*parameter.opts, *parameter.secondary_opts)}
    return [f"{command.name} has no option {word}" for word in words if word.startswith("--") and word not in options]


def test_a_command_that_is_not_there_and_an_option_that_is_not_are_named():
    assert unknown(["data", "bild", "x.py"]) == ["vlrl has no command bild"]
    assert unknown(["plan", "RUN.yaml", "--memry", "--hosts", "2"]) == ["plan has no option --memry"]


@pytest.mark.slow
@pytest.mark.timeout(3600)
def test_the_commands_of_the_documents_run(clone, monkeypatch):  # noqa: F811 (the fixture)
    shutil.rmtree(clone / "runs")
    monkeypatch.setenv("HOME", str(clone / "home"))
    for command in attributed(OF_THE_DOCUMENTS):
        for start, needed in BEFORE.items():
            if command.startswith(start):
                run(clone, needed)
        run(clone, shortened(command))
    assert (clone / "both.html").exists() and (clone / "home/my/configs/cpu.yaml").exists()


def shortened(command: str) -> str:
    """The command, with settings for a short run if it trains or evaluates."""
    if command.startswith("vlrl eval"):
        return f"{command} evaluation.rows=2"
    if not command.startswith("vlrl train"):
        return command
    words = [word for word in command.split() if not word.startswith("steps=")]
    named = {word.partition("=")[0] for word in words}
    return " ".join([*words, *(setting for setting in SHORT_RUN.split() if setting.partition("=")[0] not in named)])
