"""The house stands: imports go down only, what workers import stays free of torch, and the loop fits on a screen."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parents[1]
# A room has a floor; what stands higher or lower than its room is named with it.
FLOORS = {
    0: ["types", "common", "authoring.templates", "sandbox.child_stdio", "telemetry.metrics", "telemetry.phase"],
    1: ["telemetry.clock", "telemetry.progress"]
    + ["config", "stats", "tasks", "algorithm", "data", "sandbox", "distributed", "telemetry", "models.families"],
    2: ["run_file", "verifiers", "scoring", "models", "inputs", "trackers", "evaluation.compare"]
    + ["trainer.peak_memory", "trainer.weight_change", "trainer.rollback"],
    3: [
        "data.column_rows",
        "scoring.reward_model_child",
        "memory",
        "rollout",
        "run",
        "trainer",
        "authoring",
        "evaluation.records",
    ]
    + ["telemetry.run_log"]
    + ["preflight.model_settings", "preflight.machine"],
    4: ["rollout.canary", "rollout.start", "rollout.batch", "trainer.token_budget", "trainer.micro_batch"]
    + ["evaluation.sampling", "preflight", "data.build", "cli.plan", "cli.memory", "cli.doctor"],
    5: ["trainer.checkpointing", "trainer.update", "coldstart", "evaluation", "report", "data.check", "prepare"]
    + ["preflight.quick_checks"],
    6: ["trainer.trainer", "study", "cli.shared", "hub"],
    7: ["train", "cli.tasks", "cli.data", "cli.hub"],
    8: ["cli"],
}
FLOOR = {name: floor for floor, names in FLOORS.items() for name in names}
WITHOUT_TORCH = ["types", "config", "inputs", "tasks", "scoring", "scoring.worker", "common.fingerprint"]
WITHOUT_TORCH += [
    "models.config_json",
    *(f"models.families.{path.stem}" for path in (ROOT / "vlrl/models/families").glob("[!_]*.py")),
]
WITHOUT_TORCH += ["data.mixture", "data.shards", "data.images", "data.recipe", "data.build", "data.check"]
WITHOUT_TORCH += [
    "authoring.task_tools",
    "preflight.quick_checks",
    "preflight.verifier_checks",
    "preflight.machine",
    "distributed.checkpoint",
]
WITHOUT_TORCH += ["telemetry.metrics", "hub.folder", "hub.upload"]
WITHOUT_TORCH += ["evaluation.compare", "evaluation.records", "report.read", "cli.main", "cli.plan", "cli.doctor", "prepare"]
WITHOUT_TORCH += [f"verifiers.{path.stem}" for path in (ROOT / "vlrl/verifiers").glob("[!_]*.py")]


def imports(path: Path) -> set[str]:
    """Dotted names of all that a file imports, at its head or inside a function; `from a import b` counts as a.b."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def part_of(name: str) -> str:
    """vlrl.data.shards.Dataset -> data; a module with a floor of its own, such as rollout.canary, is its own part."""
    _, part, *below = name.split(".")
    return ".".join([part, *below[:1]]) if ".".join([part, *below[:1]]) in FLOOR else part


def own(path: Path) -> set[str]:
    """The parts of vlrl that a file imports."""
    return {part_of(name) for name in imports(path) if name.startswith("vlrl.")}


def sources(folder: str) -> list[Path]:
    return sorted(path for path in (ROOT / folder).rglob("*.py") if "__pycache__" not in path.parts)


def named(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", [path for path in sources("vlrl") if path != ROOT / "vlrl/__init__.py"], ids=named)
def test_a_module_imports_only_from_lower_floors(path):
    part = part_of(".".join(path.relative_to(ROOT).with_suffix("").parts))
    assert part in FLOOR, f"{named(path)} stands on no floor; give it one here"
    higher = {name for name in own(path) - {part} if FLOOR[name] >= FLOOR[part]}
    assert not higher, f"{named(path)} is on floor {FLOOR[part]} and imports {higher}"


@pytest.mark.parametrize("path", sources("vlrl"), ids=named)
def test_the_library_imports_neither_tasks_nor_recipes(path):
    assert not {name.split(".")[0] for name in imports(path)} & {"tasks", "data_recipes", "tests"}


@pytest.mark.parametrize("path", sources("tasks"), ids=named)
def test_a_task_imports_from_the_lowest_three_floors(path):
    assert all(FLOOR[name] <= 2 for name in own(path))


@pytest.mark.parametrize("path", sources("data_recipes"), ids=named)
def test_a_recipe_imports_types_and_data_only(path):
    assert own(path) <= {"types", "data"}


def test_what_workers_and_plans_import_is_free_of_torch():
    names = ", ".join(f"vlrl.{name}" for name in WITHOUT_TORCH)
    code = f"import sys, {names}\nfrom vlrl.tasks import load_task\n"
    code += f"[load_task(name, ['tasks']) for name in {[path.stem for path in sources('tasks')]}]\n"
    code += "sys.exit(', '.join(name for name in ('torch', 'transformers', 'vllm') if name in sys.modules) or 0)"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr


def test_the_training_loop_fits_on_one_screen():
    tree = ast.parse((ROOT / "vlrl/train.py").read_text())
    (loop,) = (node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "train")
    assert loop.end_lineno - loop.lineno + 1 <= 45
