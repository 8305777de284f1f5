"""Child processes, their deadlines and their ends. `children.py` alone starts processes."""

from pytest_kernelvm.process.children import Spawned, piped, run, run_attached, spawn
from pytest_kernelvm.process.completed import TAIL_LINES, Completed, failure, status_words, tail
from pytest_kernelvm.process.deadline import Deadline
from pytest_kernelvm.process.programs import (
    ADMIN_DIRECTORIES,
    environment,
    find_program,
    quoted,
)
from pytest_kernelvm.process.signals import end_with_parent, signals_interrupt

__all__ = [
    "ADMIN_DIRECTORIES",
    "TAIL_LINES",
    "Completed",
    "Deadline",
    "Spawned",
    "end_with_parent",
    "environment",
    "failure",
    "find_program",
    "piped",
    "quoted",
    "run",
    "run_attached",
    "signals_interrupt",
    "spawn",
    "status_words",
    "tail",
]
