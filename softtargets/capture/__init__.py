"""The teacher's side: a corpus and a teacher become a store."""

from softtargets.capture.build import BuildConfig, BuildResult, build
from softtargets.capture.corpus import Corpus
from softtargets.capture.estimate import Estimate, estimate
from softtargets.capture.progress import Progress
from softtargets.capture.rescore import RescoreReport, rescore
from softtargets.capture.select import TopK
from softtargets.capture.teacher import TeacherConfig, TransformersTeacher
from softtargets.capture.windows import Windowing

__all__ = [
    "BuildConfig",
    "BuildResult",
    "Corpus",
    "Estimate",
    "Progress",
    "RescoreReport",
    "TeacherConfig",
    "TopK",
    "TransformersTeacher",
    "Windowing",
    "build",
    "estimate",
    "rescore",
]
