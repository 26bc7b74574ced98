"""Child processes for tests: forked, so that they start at once; they end without running pytest's own exit."""

from __future__ import annotations

import os
import signal
import sys
import traceback
from collections.abc import Callable
from dataclasses import dataclass


@dataclass
class Child:
    """A forked process and the reading end of its pipe."""

    pid: int
    pipe: int

    def read(self) -> bytes:
        """Everything the child wrote, once it has ended or closed the pipe."""
        data = b""
        while chunk := os.read(self.pipe, 65_536):
            data += chunk
        return data

    def kill(self) -> None:
        """kill -9."""
        os.kill(self.pid, signal.SIGKILL)

    def wait(self) -> int:
        """The exit code; minus the signal's number if one ended it."""
        _, status = os.waitpid(self.pid, 0)
        os.close(self.pipe)
        return os.waitstatus_to_exitcode(status)


def fork(work: Callable[[Callable[[bytes], int]], None]) -> Child:
    """Runs ``work(tell)`` in a child; ``tell`` writes to the parent. An exception makes the exit code 1."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid:
        os.close(writing)
        return Child(pid, reading)
    code = 1
    try:
        os.close(reading)
        work(lambda data: os.write(writing, data))
        code = 0
    except BaseException:
        traceback.print_exc(file=sys.__stderr__)
    finally:
        os._exit(code)


def finish(*children: Child) -> list[bytes]:
    """Waits for children that must end well; returns what each told."""
    told = [child.read() for child in children]
    assert [child.wait() for child in children] == [0] * len(children)
    return told
