"""The teacher's side: a corpus and a teacher become a store."""

from softtargets.capture.building import BuildResult, RangeResult, build, build_range, commit
from softtargets.capture.corpus import Corpus
from softtargets.capture.datasets import DatasetCorpus
from softtargets.capture.estimate import (
    CorpusSample,
    Estimate,
    estimate,
    estimate_from,
    sample_corpus,
)
from softtargets.capture.identity import BuildConfig
from softtargets.capture.rescore import RescoreReport, rescore
from softtargets.capture.selection import Draws, Hybrid, Pins, Sampled, TopK, TopP
from softtargets.capture.tally import Progress
from softtargets.capture.teacher import TeacherConfig, TransformersTeacher
from softtargets.capture.windows import Windowing

__all__ = [
    "BuildConfig",
    "BuildResult",
    "Corpus",
    "CorpusSample",
    "DatasetCorpus",
    "Draws",
    "Estimate",
    "Hybrid",
    "Pins",
    "Progress",
    "RangeResult",
    "RescoreReport",
    "Sampled",
    "TeacherConfig",
    "TopK",
    "TopP",
    "TransformersTeacher",
    "Windowing",
    "build",
    "build_range",
    "commit",
    "estimate",
    "estimate_from",
    "rescore",
    "sample_corpus",
]
