"""A command that a signal stops ends with 128 + the signal's number and one sentence."""

import signal

import pytest
import typer

from vlrl.cli.shared import sentences
from vlrl.common.signals import Interrupted, interruptible


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_a_sentence_and_an_exit_code(number, code, capsys):
    with pytest.raises(typer.Exit) as end, sentences(resumes=True):
        signal.raise_signal(number)
    assert end.value.exit_code == code
    assert capsys.readouterr().err == f"vlrl: stopped by {number.name}; the same command continues with what was kept\n"


def test_a_command_that_keeps_nothing_promises_nothing(capsys):
    with pytest.raises(typer.Exit), sentences():
        signal.raise_signal(signal.SIGTERM)
    assert capsys.readouterr().err == "vlrl: stopped by SIGTERM\n"


def test_who_knows_more_says_more(capsys):
    with pytest.raises(typer.Exit), sentences(resumes=True):
        raise Interrupted(signal.SIGTERM, "the same command begins the cold start again")
    assert capsys.readouterr().err == "vlrl: stopped by SIGTERM; the same command begins the cold start again\n"


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
