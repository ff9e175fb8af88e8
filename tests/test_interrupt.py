"""A command that a signal stops ends with 128 + the signal's number and one sentence."""

import signal

import pytest
import typer

from vlrl.cli_shared import sentences
from vlrl.interrupt import Interrupted, interruptible


@pytest.mark.parametrize(("number", "code"), [(signal.SIGTERM, 143), (signal.SIGINT, 130)])
def test_a_signal_is_a_sentence_and_an_exit_code(number, code, capsys):
    with pytest.raises(typer.Exit) as end, sentences():
        signal.raise_signal(number)
    assert end.value.exit_code == code
    assert capsys.readouterr().err == f"vlrl: stopped by {number.name}; the same command goes on with what was kept\n"


def test_who_knows_more_says_more(capsys):
    with pytest.raises(typer.Exit), sentences():
        raise Interrupted(signal.SIGTERM, "the same command begins the cold start again")
    assert "SIGTERM; the same command begins the cold start again" in capsys.readouterr().err


def test_handlers_are_given_back():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) is not before
    assert signal.getsignal(signal.SIGTERM) is before
