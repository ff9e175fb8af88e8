"""Wheels of torchaudio and torchcodec that do not load beside this torch hinder neither transformers nor vLLM."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.conftest import PATIENCE_S

ROOT = Path(__file__).parents[2]
BROKEN = 'raise OSError("Could not load this library: libtorch_cuda.so")\n'


@pytest.fixture
def site(tmp_path) -> Path:
    """A folder of packages with a torchaudio and a torchcodec as pip installs them, which look for CUDA's torch."""
    for name in ("torchaudio", "torchcodec"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(BROKEN)
        (tmp_path / f"{name}-2.11.1.dist-info").mkdir()
        (tmp_path / f"{name}-2.11.1.dist-info/METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: 2.11.1\n")
    return tmp_path


@pytest.mark.parametrize(("first", "loads"), [("import vlrl.models.cuda_wheels", True), ("", False)], ids=["with", "without"])
def test_transformers_loads_beside_wheels_for_cuda_and_vllm_finds_them_absent(site, first, loads):
    code = f"{first}\nimport transformers.audio_utils\n"
    code += "for name in ('torchaudio', 'torchcodec'):\n try: __import__(name)\n except ImportError: pass"  # what vLLM does
    done = subprocess.run(
        [sys.executable, "-c", code],
        env=os.environ | {"PYTHONPATH": f"{site}{os.pathsep}{ROOT}"},
        cwd=site,
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
    )
    assert (done.returncode == 0) == loads, done.stderr
