"""The commands of README and the documents, and docs/commands.md, which says of each what runs it."""

import re
from pathlib import Path

from tests.test_docs import ROOT, blocks

PAGE = ROOT / "docs/commands.md"
DOCUMENTS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted(path for path in ROOT.glob("docs/*.md") if path != PAGE)]
TREE = "vlrl/\n"  # how README's tree of the project begins: an indented block that is no shell
PROGRAMS = ("vlrl", "make", "python", "pip", "torchrun", "pytest", "tensorboard", "mlflow", "wandb", "TRACKIO_DIR=runs/trackio")
SECTION = re.compile(r"^## Run by (?:`(.+)`|no test)\n([\s\S]*?)(?=^## |\Z)", re.MULTILINE)
COMMAND = re.compile(r"^- `` (.+) ``(?:<br>(.+))?$", re.MULTILINE)


def shell_commands(script: str) -> list[str]:
    """A script's commands without their comments; a continued line is one, and of a heredoc the first line."""
    script = re.sub(r"<<'(\w+)'\n[\s\S]*?\n\1$", r"<<'\1'", script, flags=re.MULTILINE)
    lines = re.sub(r"\s*\\\n\s*", " ", script).splitlines()
    return [found for line in lines if (found := re.sub(r"(^|\s+)# .*", "", line).strip())]


def inline_commands(text: str) -> list[str]:
    """What a text has in backticks that begins with a program's name, patterns and mentions too."""
    spans = re.findall(r"(?<!`)`([^`]+)`(?!`)", re.sub(r"^```[\s\S]*?^```$", "", text, flags=re.MULTILINE))
    return [" ".join(span.split()) for span in spans if span.split()[0] in PROGRAMS and len(span.split()) > 1]


def is_whole(command: str) -> bool:
    """Whether somebody could type it: it has arguments, and no word in capitals or dots for what to fill in."""
    program, *words = command.split()
    arguments = [word for word in words if re.search(r"[./=:]", word)] if program in ("vlrl", "python", "torchrun") else words
    return bool(arguments) and not re.search(r"\b[A-Z]{2,}\b|\.\.\.", command.removeprefix("TRACKIO_DIR="))


def documented() -> list[str]:
    """Every command of the documents, once, in their order."""
    found = []
    for document in DOCUMENTS:
        text = document.read_text()
        for block in blocks(text):
            if block.kind == "sh" and not block.text.startswith(TREE):
                found += shell_commands(block.text)
        found += filter(is_whole, inline_commands(text))
    return list(dict.fromkeys(found))


def listed() -> dict[str, list[tuple[str, str]]]:
    """What docs/commands.md says: by test, or "" for none, its commands with the reasons why no test runs them."""
    return {test: COMMAND.findall(text) for test, text in SECTION.findall(PAGE.read_text())}


def attributed(test: str) -> list[str]:
    """The commands that the page gives to a test, in its order."""
    return [command for command, _ in listed()[test]]


def written(path: Path) -> str:
    """A document's commands and mentions of commands, patterns too, for what can be checked of all of them."""
    text = path.read_text()
    scripts = [block.text for block in blocks(text) if block.kind == "sh" and not block.text.startswith(TREE)]
    return "\n".join([*(command for script in scripts for command in shell_commands(script)), *inline_commands(text)])
