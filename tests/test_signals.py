"""What signals do to work that is under way."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time

import pytest
import torch

from t2x_core.cache.store import Store, Writer, key_of
from t2x_core.errors import UserError
from t2x_core.signals import ECHO, STOPPING, stopping
from t2x_core.training.callbacks.interruption import Interruption

WORK = """
import os, sys, time
from t2x_core.signals import exit_code, stopping
with stopping():
    child = os.fork()
    if child == 0:
        time.sleep(60)
    try:
        print(child, flush=True)
        time.sleep(60)
    except KeyboardInterrupt as error:
        time.sleep(0.2)  # a signal once more would end this
        print("kept", flush=True)
        code = exit_code(error)
os.kill(child, int(sys.argv[1]))
print(os.waitpid(child, 0)[1], flush=True)
sys.exit(code)
"""


@pytest.mark.parametrize("number", STOPPING)
def test_what_is_done_is_kept_also_when_the_signal_comes_twice_and_forked_processes_end(number):
    process = subprocess.Popen([sys.executable, "-c", WORK, str(int(number))], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    for _ in range(2):  # as `timeout` does: to the process, and to its group
        process.send_signal(number)
        time.sleep(0.05)
    out, _ = process.communicate(timeout=20)
    assert out.split() == ["kept", str(int(number))]
    assert process.returncode == 128 + number


def test_an_ignored_signal_stays_ignored_and_what_was_before_comes_back():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping():
            os.kill(os.getpid(), signal.SIGHUP)
            assert signal.getsignal(signal.SIGTERM) not in (signal.SIG_DFL, signal.SIG_IGN)
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGHUP, before)


def test_training_is_ended_at_once_by_a_second_signal_and_not_by_an_echo(monkeypatch):
    sent, clock = [], [100.0]
    monkeypatch.setattr(os, "kill", lambda process, number: sent.append(number))
    monkeypatch.setattr(time, "monotonic", lambda: clock[0])
    before = signal.getsignal(signal.SIGTERM)
    try:
        interruption = Interruption()
        interruption._note(signal.SIGTERM, None)
        clock[0] += ECHO / 2
        interruption._note(signal.SIGTERM, None)
        assert sent == []
        clock[0] += ECHO
        interruption._note(signal.SIGUSR1, None)
        assert sent == []
        interruption._note(signal.SIGTERM, None)
        assert sent == [signal.SIGTERM]
    finally:
        signal.signal(signal.SIGTERM, before)


@pytest.mark.parametrize("error", [UserError("a sample"), KeyboardInterrupt(), RuntimeError()])
def test_entries_of_a_cache_are_kept_whatever_ends_the_work(error, tmp_path):
    writer = Writer(tmp_path)
    writer.add(key_of(1), {"x": torch.ones(3)})
    with pytest.raises(type(error)), writer:
        raise error
    assert Store(tmp_path).keys() == {key_of(1)}


def test_a_signal_while_a_shard_is_written_costs_no_entry(tmp_path, monkeypatch):
    from t2x_core.cache import store

    write, calls = store.write_shard, []

    def interrupted(*arguments):
        calls.append(arguments)
        if len(calls) == 1:
            raise KeyboardInterrupt
        return write(*arguments)

    monkeypatch.setattr(store, "write_shard", interrupted)
    with pytest.raises(KeyboardInterrupt), Writer(tmp_path) as writer:
        writer.add(key_of(1), {"x": torch.ones(3)})
    assert Store(tmp_path).keys() == {key_of(1)}
