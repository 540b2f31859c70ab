"""Where units run: in this process or in several. Another way to run them is another `Engine`."""

from softtargets.engines.engine import Done, Engine, Event, Failed, Job, Recorded, Scored
from softtargets.engines.in_process import InProcess
from softtargets.engines.processes import Processes

__all__ = [
    "Done",
    "Engine",
    "Event",
    "Failed",
    "InProcess",
    "Job",
    "Processes",
    "Recorded",
    "Scored",
]
