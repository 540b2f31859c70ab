"""What is on disk. Opens, checks and copies stores without torch or transformers."""

from softtargets.store.store import Store
from softtargets.store.verify import Problem, VerifyReport, verify

__all__ = ["Problem", "Store", "VerifyReport", "verify"]
