"""A served page of a run that grows: what it reads, what it answers, and whom."""

import http.client
import json
import re
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from typer.testing import CliRunner

from tests.conftest import PATIENCE_S
from tests.report.test_report import browsed, go_back, group, write_run
from vlrl.cli.main import app
from vlrl.distributed.status import STATUS, own_news
from vlrl.report import live
from vlrl.report.read import RunReader, read_run
from vlrl.report.serve import LiveServer, is_loopback
from vlrl.telemetry.metrics import step_metrics
from vlrl.telemetry.run_log import RunLog, rollout_lines


def add_step(folder: Path, step: int) -> None:
    log = RunLog(folder)
    log.step(step, step_metrics({"reward/mean": step / 10, "time/step": 2.0}))
    log.rollouts(step, [line for slot in range(4) for line in rollout_lines(step, group(folder, slot, step))])


def content(data) -> dict:
    names = ("metrics", "histograms", "rewards", "groups", "traces", "summary", "num_rollouts")
    return {name: getattr(data, name) for name in names}


def test_a_run_that_is_read_as_it_grows_is_the_same_as_one_read_at_once(tmp_path, monkeypatch):
    monkeypatch.setattr("vlrl.report.read.MOST_ROLLOUTS", 30)
    run = write_run(tmp_path / "run", steps=1, ended=False)
    reader = RunReader(run)
    for step in range(2, 13):
        assert content(reader.read()) == content(read_run(run))
        add_step(run, step)
    assert content(reader.read()) == content(read_run(run))


def test_each_rollout_line_is_parsed_once(tmp_path, monkeypatch):
    run = write_run(tmp_path / "run", steps=3, ended=False)
    reader, parsed = RunReader(run), []
    monkeypatch.setattr("vlrl.report.read.RunReader._add", lambda self, line: parsed.append(line["step"]))
    reader.read()
    add_step(run, 4)
    reader.read()
    assert parsed == [step for step in (1, 2, 3, 4) for _ in range(8)]


def test_a_group_whose_lines_come_in_two_parts_is_one_group(tmp_path):
    run = write_run(tmp_path / "run", steps=1, ended=False)
    reader = RunReader(run)
    lines = list(rollout_lines(2, group(run, 1, 2)))
    for line in lines:
        RunLog(run).rollouts(2, [line])
        data = reader.read()
    assert len(data.groups[-1]) == len(lines) == 2
    assert data.rewards["sums"][2].mean == 0.5


def test_a_run_that_goes_back_is_read_anew(tmp_path):
    run = write_run(tmp_path / "run", steps=6, ended=False)
    reader = RunReader(run)
    reader.read()
    go_back(run, 4)
    add_step(run, 5)
    data = reader.read()
    assert reader.life == 1 and [line["step"] for line in data.metrics] == [1, 2, 3, 4, 5]
    assert content(data) == content(read_run(run)) and len(data.left_behind) == 1


def test_the_lasting_groups_are_still_there_after_the_next_step(tmp_path, monkeypatch):
    monkeypatch.setattr("vlrl.report.read.MOST_ROLLOUTS", 30)
    run = write_run(tmp_path / "run", steps=1, ended=False)
    reader, lasted = RunReader(run), 0
    for step in range(2, 30):
        before, life, lasting = list(reader.read().groups), reader.life, reader.num_lasting
        add_step(run, step)
        now = reader.read().groups
        if reader.life == life:
            assert now[:lasting] == before[:lasting]
            lasted += lasting < len(before)
    assert lasted, "some step's groups were not to last"


class Reader:
    """Asks a server, over one connection, and remembers versions as a browser does."""

    def __init__(self, server: LiveServer) -> None:
        self._connection = http.client.HTTPConnection("127.0.0.1", server.server_port, timeout=PATIENCE_S)
        self._tags: dict[str, str] = {}

    def ask(self, path: str, *, method: str = "GET", host: str = "127.0.0.1") -> tuple[int, bytes]:
        headers = {"Host": host} | ({"If-None-Match": self._tags[path]} if path in self._tags else {})
        self._connection.request(method, path, headers=headers)
        reply = self._connection.getresponse()
        if tag := reply.headers.get("ETag"):
            self._tags[path] = tag
        return reply.status, reply.read()

    def json(self, path: str):
        status, text = self.ask(path)
        return json.loads(text) if status == 200 else None


@pytest.fixture
def serving(monkeypatch) -> Iterator:
    """Serves runs to readers; each request looks into the folders, and draws."""
    monkeypatch.setattr(live, "_LOOK_S", 0.0)
    monkeypatch.setattr(live, "_SHARE", 0)
    servers: list[tuple[LiveServer, threading.Thread]] = []

    def serve(*folders: Path) -> LiveServer:
        server = LiveServer(folders, "127.0.0.1", 0)
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        servers.append((server, thread))
        return server

    yield serve
    for server, thread in servers:
        server.shutdown()
        thread.join()
        server.server_close()


def test_several_readers_follow_a_growing_run_and_get_only_what_is_new(tmp_path, serving):
    run = write_run(tmp_path / "run", steps=2, ended=False)
    server = serving(run)
    readers = [Reader(server), Reader(server)]
    pages = [reader.ask("/")[1].decode() for reader in readers]
    for reader, page in zip(readers, pages, strict=True):
        (shown,) = browsed(page)["runs"]
        assert [each["step"] for each in shown["groups"]] == [1] * 4 + [2] * 4
        assert reader.json("/figures")["version"] == browsed(page)["drawn"]
        assert reader.ask("/figures")[0] == 304
    add_step(run, 3)
    for reader in readers:
        version = reader.json("/now")["version"]
        found = reader.json("/rollouts?run=0&life=0&from=7")
        assert [each["step"] for each in found["groups"]] == [2] + [3] * 4 and (found["from"], found["of"]) == (7, 24)
        assert reader.json("/figures")["version"] == version
        assert reader.ask("/rollouts?run=0&life=0&from=7")[0] == 304


def test_a_reader_of_an_earlier_life_gets_all_rollouts(tmp_path, serving):
    run = write_run(tmp_path / "run", steps=6, ended=False)
    reader = Reader(serving(run))
    reader.ask("/")
    go_back(run, 4)
    found = reader.json("/rollouts?run=0&life=0&from=23")
    assert (found["life"], found["from"], len(found["groups"])) == (1, 0, 16)


def test_a_run_is_waited_for_and_the_page_is_loaded_again_when_it_begins(tmp_path, serving):
    reader = Reader(serving(tmp_path / "run"))
    page = browsed(reader.ask("/")[1].decode())
    now = reader.json("/now")
    assert now["page"] == page["page"] and not page["runs"]
    assert now["runs"][0]["sentence"] == f"{tmp_path}/run does not exist yet; this page waits for it."
    write_run(tmp_path / "run", steps=1, ended=False)
    assert reader.json("/now")["page"] != page["page"]
    assert len(browsed(reader.ask("/")[1].decode())["runs"]) == 1


def test_a_name_that_is_nearly_a_run_s_gets_a_suggestion(tmp_path, serving):
    write_run(tmp_path / "counting", steps=1)
    reader = Reader(serving(tmp_path / "countnig"))
    assert f"did you mean {tmp_path}/counting?" in reader.json("/now")["runs"][0]["sentence"]


def test_what_replicas_do_is_below_what_their_rank_does(tmp_path, serving):
    run = write_run(tmp_path / "run", steps=2, ended=False)
    rank = own_news(0, "a") | {"pid": 5, "phase": "Training 2/4, generate", "others": ["engine replica 0: waiting for work"]}
    (run / STATUS).write_text(json.dumps({"count": 1, "ended": "", "checkpoint": 0, "ranks": [rank]}))
    (shown,) = Reader(serving(run)).json("/now")["runs"]
    assert [cells[:4] for cells in shown["ranks"]] == [
        ["0", "a", "5", "Training 2/4, generate"],
        ["", "", "", "engine replica 0: waiting for work"],
    ]


def test_a_figure_is_not_drawn_again_before_that_is_cheap(tmp_path, serving, monkeypatch):
    run = write_run(tmp_path / "run", steps=2, ended=False)
    reader = Reader(serving(run))
    monkeypatch.setattr(live, "_SHARE", 1e6)
    first = reader.json("/figures")["version"]
    add_step(run, 3)
    assert reader.json("/now")["version"] != first and reader.ask("/figures")[0] == 304


@pytest.mark.parametrize("host", ["evil.example", "evil.example:8000", "127.0.0.1.evil.example", ""])
def test_a_request_for_another_name_is_refused_as_in_dns_rebinding(tmp_path, serving, host):
    status, text = Reader(serving(write_run(tmp_path / "run"))).ask("/now", host=host)
    assert status == 403 and b"open http://127.0.0.1" in text


@pytest.mark.parametrize("host", ["localhost:8000", "127.0.0.1", "[::1]:80"])
def test_a_request_by_an_own_name_or_an_address_is_answered(tmp_path, serving, host):
    assert Reader(serving(write_run(tmp_path / "run"))).ask("/now", host=host)[0] == 200


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "HEAD", "OPTIONS"])
def test_only_get_is_answered(tmp_path, serving, method):
    assert Reader(serving(write_run(tmp_path / "run"))).ask("/now", method=method)[0] == 501


WRONG = ["/config.yaml", "/..", "/../../etc/passwd", "//etc/passwd", "/%2e%2e/", "/rollouts", "/rollouts?run=7&life=0&from=0"]
WRONG += ["/rollouts?run=0&life=x&from=0", "/picture?run=0"]
WRONG += [f"/picture?run={run}&place={place}" for run, place in ((0, 99), (0, -1), (-1, 0), (1, 0))]


@pytest.mark.parametrize("path", WRONG)
def test_no_file_is_read_by_a_name_in_a_request(tmp_path, serving, path):
    reader = Reader(serving(write_run(tmp_path / "run")))
    reader.ask("/rollouts?run=0&life=0&from=0")
    assert reader.ask(path)[0] == 404


def test_a_picture_is_served_by_its_number(tmp_path, serving):
    reader = Reader(serving(write_run(tmp_path / "run")))
    (shown,) = browsed(reader.ask("/")[1].decode())["runs"]
    (place,) = shown["groups"][3]["images"]
    status, found = reader.ask(f"/picture?run=0&place={place}")
    assert status == 200 and found.startswith(b"\x89PNG")


def test_the_page_loads_nothing_from_elsewhere(tmp_path, serving):
    reader = Reader(serving(write_run(tmp_path / "run")))
    text = reader.ask("/")[1].decode()
    assert "default-src 'none'; script-src 'self' 'unsafe-inline'" in text and 'src="plotly.js"' in text
    assert reader.ask("/plotly.js")[0] == 200
    assert not re.findall(r'(?:src|href)="(?!data:|#|plotly.js)', text.partition("<script type=")[0])


def test_only_loopback_is_this_machine_alone():
    assert all(is_loopback(host) for host in ("127.0.0.1", "localhost", "::1"))
    assert not any(is_loopback(host) for host in ("0.0.0.0", "::", "10.1.2.3", "gpu7"))


def test_a_port_that_is_taken_is_one_sentence(tmp_path, serving):
    port = serving(write_run(tmp_path / "run")).server_port
    result = CliRunner().invoke(app, ["report", "--serve", str(tmp_path / "run"), "--port", str(port)])
    assert result.exit_code == 2 and f"can't serve at 127.0.0.1, port {port}" in result.output and "--port" in result.output


def test_serving_and_writing_a_file_are_not_asked_for_at_once(tmp_path):
    result = CliRunner().invoke(app, ["report", "--serve", str(tmp_path), "--out", "x.html"])
    assert result.exit_code == 2 and "--serve writes no file" in result.output
