"""What a family of models has: a side that captures, and a side that trains."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from softtargets.task_registry import FoundTask

if TYPE_CHECKING:
    from softtargets.capture.build_config import CaptureTask
    from softtargets.train.student_task import StudentTask


class Task(FoundTask, Protocol):
    """A family of models: its name, which stores it owns, and two sides.

    A store does not name its task: what its targets are tells it. Each side is imported when it is
    asked for, as those who train need no teacher.
    """

    @abstractmethod
    def capture(self) -> CaptureTask:
        """Return how records become windows and targets."""

    @abstractmethod
    def student(self) -> StudentTask:
        """Return what a student reads, and what it is trained for."""
