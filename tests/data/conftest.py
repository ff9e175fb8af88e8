"""A folder with a recipe and its records."""

import pytest

from tests.data.building import write_sums


@pytest.fixture
def made(tmp_path):
    write_sums(tmp_path)
    return tmp_path
