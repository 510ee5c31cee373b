"""Signals as a flag."""

import os
import signal

import pytest

from hpo.search.interrupt import SIGNALS, interruptible


def sent(*numbers):
    """The flag after these signals."""
    with interruptible() as interrupt:
        for number in numbers:
            os.kill(os.getpid(), number)
    return interrupt


def test_without_a_signal_nothing_is_wanted():
    found = sent()
    assert (found.signalled, found.impatient, found.wants_requeue) == (False, False, False)


@pytest.fixture(autouse=True)
def hangup():
    """SIGHUP as a terminal leaves it: under nohup it is ignored, here and in what is tested."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.parametrize("number", SIGNALS)
def test_every_signal_is_noted_and_raises_nothing(number):
    found = sent(number)
    assert found.signalled
    assert not found.impatient
    assert found.wants_requeue == (number == signal.SIGUSR1)


def test_a_second_ctrl_c_waits_for_nothing_more():
    assert sent(signal.SIGINT, signal.SIGINT).impatient
    assert not sent(signal.SIGINT, signal.SIGTERM).impatient
    assert not sent(signal.SIGTERM, signal.SIGTERM).impatient


def test_a_job_that_is_cancelled_is_not_requeued():
    assert not sent(signal.SIGUSR1, signal.SIGTERM).wants_requeue
    assert not sent(signal.SIGTERM, signal.SIGUSR1).wants_requeue


def test_what_handled_signals_before_handles_them_again():
    before = {number: signal.getsignal(number) for number in SIGNALS}
    with pytest.raises(ValueError, match="inside"), interruptible():
        assert signal.getsignal(signal.SIGTERM) != before[signal.SIGTERM]
        raise ValueError("inside")
    assert {number: signal.getsignal(number) for number in SIGNALS} == before
