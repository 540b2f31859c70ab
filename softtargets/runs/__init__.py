"""A training in a directory: what `softtargets train` does, from a store to a student."""

from softtargets.runs.prepared import PreparedRun, prepare
from softtargets.runs.run_trainer import TrainProgress
from softtargets.runs.settings import TrainSettings
from softtargets.runs.training import TrainResult, train

__all__ = ["PreparedRun", "TrainProgress", "TrainResult", "TrainSettings", "prepare", "train"]
