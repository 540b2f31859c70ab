"""What a family of models has: a side that captures, and a side that trains."""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, Protocol

from softtargets.targets import TargetSchema

if TYPE_CHECKING:
    from softtargets.capture.build_config import CaptureTask
    from softtargets.train.student_task import StudentTask


class Task(Protocol):
    """A family of models.

    A store does not name its task: what its targets are tells it. Each side is imported when it is
    asked for, as those who train need no teacher.
    """

    @property
    @abstractmethod
    def name(self) -> str:
        """Return what builds call it."""

    @abstractmethod
    def owns(self, schema: TargetSchema) -> bool:
        """Return whether stores of such targets are of this task."""

    @abstractmethod
    def capture(self) -> CaptureTask:
        """Return how records become windows and targets."""

    @abstractmethod
    def student(self) -> StudentTask:
        """Return what a student reads, and what it is trained for."""
