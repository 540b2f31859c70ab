"""The families of models: how records become windows, what is kept, what a student reads.

Nothing else knows which family a store is of. `Task` is what each of them has.
"""

from softtargets.task_registry import DEFAULT_TASK, find_task, register_task, task_of
from softtargets.tasks.task import Task

__all__ = ["DEFAULT_TASK", "Task", "find_task", "register_task", "task_of"]
