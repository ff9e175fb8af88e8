"""What `vlrl doctor` says of hosts that differ."""

from pathlib import Path

import pytest

from vlrl.distributed.hosts import differences

ONE = {"host": "a", "clock": 100.0, "versions": {"torch": "2.13.0"}, "folders": {"data/sums": "12"}, "sees_runs": True}
OTHER = ONE | {"host": "b", "clock": 101.5}


def test_equal_hosts_have_no_differences():
    assert list(differences([ONE, OTHER, ONE])) == []


@pytest.mark.parametrize(
    ("what", "expected"),
    [
        ({"versions": {"torch": "2.12.0"}}, "torch: 2.13.0 on a, 2.12.0 on b; install"),
        ({"folders": {"data/sums": ""}}, "data/sums: not on b; copy it there"),
        ({"folders": {"data/sums": "34"}}, "data/sums: differs between a and b"),
        ({"sees_runs": False}, "runs: b does not see what a writes"),
        ({"clock": 3700.0}, "clocks: a and b are 3600 s apart"),
    ],
)
def test_a_difference_is_named_once_for_all_ranks_of_a_host(what, expected):
    (said,) = differences([ONE, OTHER | what, OTHER | what], Path("runs"))
    assert said.startswith(expected)


def test_a_folder_that_the_first_host_lacks_is_named():
    without = {"folders": {"data/sums": ""}}
    assert "data/sums: not on a" in list(differences([ONE | without, OTHER | without]))
