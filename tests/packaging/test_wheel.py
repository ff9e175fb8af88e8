"""A wheel and an sdist carry tasks, recipes and run files, and `vlrl init` lays them out from an installed wheel."""

import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from zipfile import ZipFile

import pytest

from tests.conftest import PATIENCE_S
from vlrl.cli.init import STARTER

ROOT = Path(__file__).parents[2]
FOLDERS = ("tasks", "data_recipes", "configs")


def files(folder: Path) -> dict[str, bytes]:
    """The contents of tasks, recipes and run files below the folder, by their paths from it."""
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for name in FOLDERS
        for path in (folder / name).rglob("*")
        if path.suffix in (".py", ".yaml")
    }


def build(what: str, source: Path, out: Path) -> Path:
    """Builds a wheel or an sdist with the environment's setuptools, without a network."""
    code = f"import sys, setuptools.build_meta as build; build.build_{what}(sys.argv[1])"
    out.mkdir()
    done = subprocess.run([sys.executable, "-c", code, str(out)], cwd=source, capture_output=True, text=True, timeout=PATIENCE_S)
    assert done.returncode == 0, done.stderr
    (built,) = out.iterdir()
    return built


@pytest.fixture(scope="module")
def sources(tmp_path_factory) -> Path:
    """A copy of what is packed, since setuptools writes beside it."""
    copy = tmp_path_factory.mktemp("sources") / "vlrl"
    copy.mkdir()
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, copy)
    for name in ("vlrl", *FOLDERS):
        shutil.copytree(ROOT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    return copy


@pytest.fixture(scope="module")
def wheel(sources, tmp_path_factory) -> Path:
    return build("wheel", sources, tmp_path_factory.mktemp("wheel") / "out")


@pytest.fixture(scope="module")
def wheel_of_sdist(sources, tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build("sdist", sources, folder / "out")) as packed:
        packed.extractall(folder / "unpacked", filter="data")
    (unpacked,) = (folder / "unpacked").iterdir()
    return build("wheel", unpacked, folder / "wheel")


@pytest.mark.parametrize("built", ["wheel", "wheel_of_sdist"])
def test_a_wheel_holds_every_task_recipe_and_run_file_once(built, request, tmp_path):
    with ZipFile(request.getfixturevalue(built)) as packed:
        packed.extractall(tmp_path)
        names = packed.namelist()
    assert files(tmp_path / "vlrl/starter") == files(ROOT)
    assert not [name for name in names if name.startswith((*FOLDERS, "tests"))]


def test_in_a_clone_the_starter_folder_is_the_clone_s_own():
    assert all((STARTER / name).samefile(ROOT / name) for name in FOLDERS)


def test_an_installed_wheel_lays_out_a_folder_without_torch(wheel, tmp_path):
    pip = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", "site", str(wheel)]
    subprocess.run(pip, cwd=tmp_path, check=True, timeout=PATIENCE_S)
    code = (
        "import sys\nfrom vlrl.cli.main import app\n"
        "try: app(['init', 'my'])\nexcept SystemExit as end: assert not end.code, end.code\n"
        "print(sys.modules['vlrl'].__file__, {'torch', 'transformers'} & set(sys.modules))"
    )
    site = tmp_path / "site"
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=tmp_path,
        env=os.environ | {"PYTHONPATH": str(site)},
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == f"{site}/vlrl/__init__.py set()"
    assert files(tmp_path / "my") == files(ROOT)
    assert sorted(path.name for path in (tmp_path / "my").iterdir()) == sorted([".gitignore", "README.md", *FOLDERS])
