"""Where units run: in this process, in several, or in actors of Ray.

Another way to run them is another `Engine`.
"""

from softtargets.engines.engine import Done, Engine, Event, Failed, Job, Recorded, Scored
from softtargets.engines.in_process import InProcess
from softtargets.engines.on_ray import RayActors
from softtargets.engines.one_machine import local_engine
from softtargets.engines.processes import Processes
from softtargets.engines.run_all import run_all

__all__ = [
    "Done",
    "Engine",
    "Event",
    "Failed",
    "InProcess",
    "Job",
    "Processes",
    "RayActors",
    "Recorded",
    "Scored",
    "local_engine",
    "run_all",
]
