"""DistillKit's compression: what its configuration says, ids in bits, values in bytes.

Source: arcee-ai/DistillKit, distillkit/compression (config, bitpack, monotonic_logprobs).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np

from softtargets.errors import CorpusError
from softtargets.store.foreign_yaml import YAML_LIMIT, parse_yaml
from softtargets.targets import Array, Float64, Int32, Int64, UInt8
from softtargets.targets.number_formats import unpack_numbers
from softtargets.texts import shortened

CONFIG_NAME = "compression_config.yaml"
ValueFormat = Literal["float32", "float16"]
_STORED_AS = {"float32": "<f4", "float16": "<f2", "bfloat16": "<u2", "float64": "<f8"}
_ROUNDING = {"float32": 2.0**-24, "float16": 2.0**-11, "bfloat16": 2.0**-8, "float64": 2.0**-24}


@dataclass(frozen=True, slots=True, kw_only=True)
class Compression:
    """What of a `DistributionQuantizationConfig` tells the exact values from the rest."""

    d: int
    """Size of the vocabulary, by which the ids' bits go."""
    k: int
    exact_k: int
    """How many log-probabilities are kept as numbers; of the others there is a fit."""
    exact_dtype: str = "float32"
    delta_encoding: bool = False
    """Whether each number but the first is the difference to the one before."""

    @property
    def id_bits(self) -> int:
        """Return how many bits an id has; DistillKit rounds log2(d) to float32, too."""
        return int(np.ceil(np.log2(np.float32(self.d))))

    @property
    def id_bytes(self) -> int:
        """Return how many bytes the ids of a position have."""
        return (self.k * self.id_bits + 7) // 8

    @property
    def exact_bytes(self) -> int:
        """Return how many bytes the exact values of a position have."""
        return self.exact_k * np.dtype(_STORED_AS[self.exact_dtype]).itemsize

    @property
    def rounding(self) -> float:
        """Return the relative error of the exact values."""
        return _ROUNDING[self.exact_dtype] + self.delta_encoding * self.exact_k * 2.0**-24

    def pack_values(self, logprobs_NK: Float64) -> UInt8:
        """Return log-probabilities as rows of bytes; without deltas, and all of them exact."""
        stored_NK = np.ascontiguousarray(logprobs_NK, _STORED_AS[self.exact_dtype])
        return stored_NK.view(np.uint8)

    def unpack_values(self, bytes_NB: UInt8) -> Float64:
        """Return the exact log-probabilities of rows of bytes."""
        exact_NB = np.ascontiguousarray(bytes_NB[:, : self.exact_bytes])
        stored_NK = exact_NB.view(_STORED_AS[self.exact_dtype])
        is_half = self.exact_dtype == "bfloat16"
        values_NK: Array = unpack_numbers(stored_NK) if is_half else stored_NK
        with np.errstate(invalid="ignore"):  # What is no number is found when entries are checked.
            values_NK = values_NK.astype(np.float64)
            return values_NK.cumsum(axis=1) if self.delta_encoding else values_NK

    def to_dict(self) -> dict[str, Any]:
        """Return the whole configuration, as DistillKit's trainer takes it."""
        return {
            "d": self.d,
            "k": self.k,
            "exact_k": self.exact_k,
            "exact_dtype": self.exact_dtype,
            "polynomial_terms": [],
            "term_dtype": "float32",
            "residual_bins": [],
            "delta_encoding": self.delta_encoding,
            "error_diffusion": False,
        }

    @classmethod
    def read(cls, path: Path) -> Compression:
        """Read a configuration as DistillKit's capture writes it.

        Raises:
            CorpusError: it is none, or one that keeps no log-probability as a number.
            LimitError: it is larger than it is trusted to be.
        """
        try:
            if not path.is_file():
                raise _not_a_config(path, "no such file")
            YAML_LIMIT.check(str(path), path.stat().st_size)
            text = path.read_text("utf-8")
            data = parse_yaml(text, str(path))
        except (OSError, ValueError) as error:
            raise _not_a_config(path, shortened(str(error))) from error
        if not isinstance(data, Mapping):
            raise _not_a_config(path, shortened(text))
        # The defaults are DistillKit's own.
        exact_dtype = data.get("exact_dtype", "float32")
        delta_encoding = data.get("delta_encoding", True)
        numbers = [data.get(name) for name in ("d", "k", "exact_k")]
        d, k, exact_k = (one if type(one) is int else 0 for one in numbers)
        is_known = exact_dtype in list(_STORED_AS) and type(delta_encoding) is bool
        if not is_known or not 0 < exact_k <= k <= d < 2**31 or d < 2:
            raise _not_a_config(path, shortened(text))
        return cls(
            d=d, k=k, exact_k=exact_k, exact_dtype=exact_dtype, delta_encoding=delta_encoding
        )


def _not_a_config(path: Path, found: str) -> CorpusError:
    return CorpusError(
        str(path),
        expected="DistillKit's compression configuration (YAML) with d, k and an exact_k of 1 to k",
        found=found,
        next_step="Pass the file that the capture wrote, or logprob_compressor of the training's "
        "configuration, with --compression-config.",
    )


def pack_bits(values_NK: Int32, num_bits: int) -> UInt8:
    """Return rows of numbers as rows of bytes: highest bit first, the last byte filled with 0."""
    bits = np.empty((*values_NK.shape, num_bits), np.uint8)
    for place in range(num_bits):
        bits[..., num_bits - 1 - place] = values_NK >> place & 1
    return np.packbits(bits.reshape(len(values_NK), -1), axis=1)


def unpack_bits(bytes_NB: UInt8, num_bits: int, num_values: int) -> Int64:
    """Return what `pack_bits` packed."""
    flat = np.unpackbits(bytes_NB, axis=1, count=num_bits * num_values)
    bits = flat.reshape(len(bytes_NB), num_values, num_bits)
    values_NK = np.zeros(bits.shape[:2], np.int64)
    for place in range(num_bits):
        values_NK |= bits[..., num_bits - 1 - place].astype(np.int64) << place
    return values_NK
