"""What a teacher writes itself: a corpus of its own translations or answers, to build from."""

from softtargets.generation.generate_config import GenerateConfig
from softtargets.generation.generating import GenerateProgress, GenerateResult, generate
from softtargets.generation.prompting import Prompt, Prompting

__all__ = [
    "GenerateConfig",
    "GenerateProgress",
    "GenerateResult",
    "Prompt",
    "Prompting",
    "generate",
]
