"""The teacher's side: a corpus and a teacher become a store."""

from softtargets.capture.abilities import ALL_LOGITS, LISTS, Abilities
from softtargets.capture.build_config import BuildConfig, CaptureTask
from softtargets.capture.building import BuildResult, RangeResult, build, build_range, commit
from softtargets.capture.corpus import Corpus
from softtargets.capture.corpus_sample import CorpusSample, sample_corpus
from softtargets.capture.dataset_corpus import DatasetCorpus
from softtargets.capture.estimate import Estimate, estimate, estimate_from
from softtargets.capture.keep.listed import check_listed, select_listed
from softtargets.capture.keep.selected import Selected
from softtargets.capture.keep.selection import (
    Draws,
    Hybrid,
    Keep,
    Pins,
    Sampled,
    Threshold,
    TopK,
    TopP,
    check_selection,
)
from softtargets.capture.rescore import RescoreReport, rescore
from softtargets.capture.segments import Segment, check_ids
from softtargets.capture.tally import Progress
from softtargets.capture.teacher import Teacher
from softtargets.capture.teacher_registry import check_used, open_teacher, register_teacher
from softtargets.capture.teacher_tokenizer import TransformersTokenizer
from softtargets.capture.teachers.causal import TransformersTeacher
from softtargets.capture.teachers.local import LocalTeacher
from softtargets.capture.teachers.model_files import TeacherConfig
from softtargets.capture.windows import Windowing

__all__ = [
    "ALL_LOGITS",
    "LISTS",
    "Abilities",
    "BuildConfig",
    "BuildResult",
    "CaptureTask",
    "Corpus",
    "CorpusSample",
    "DatasetCorpus",
    "Draws",
    "Estimate",
    "Hybrid",
    "Keep",
    "LocalTeacher",
    "Pins",
    "Progress",
    "RangeResult",
    "RescoreReport",
    "Sampled",
    "Segment",
    "Selected",
    "Teacher",
    "TeacherConfig",
    "Threshold",
    "TopK",
    "TopP",
    "TransformersTeacher",
    "TransformersTokenizer",
    "Windowing",
    "build",
    "build_range",
    "check_ids",
    "check_listed",
    "check_selection",
    "check_used",
    "commit",
    "estimate",
    "estimate_from",
    "open_teacher",
    "register_teacher",
    "rescore",
    "sample_corpus",
    "select_listed",
]
