"""The files of a generation: what is to be done, what is done, and the file that comes of it.

    FILE.work/lock                 held by the process that generates
    FILE.work/workers.lock         held by each process that answers for it
    FILE.work/request.json         what decides the content
    FILE.work/plan.json            how many units there are; written last of the plan
    FILE.work/plan/unit-N.jsonl    the prompts of a unit, tokenized, in the order of the corpus
    FILE.work/records/unit-N.json  the answers of a unit, written once
    FILE                           all answers, when every unit is done
    FILE.json                      what decided the content, its hash, and counts; written last

Every file is put as a whole, so that a crash costs the units that were not done.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any

from softtargets.errors import FormatError, StoreError
from softtargets.hashes import hash_file
from softtargets.places.directory import Directory
from softtargets.store.json_object import parse_object
from softtargets.store.same_identity import check_identity

_OTHERS = "Pass another --output, or the options that it was begun with."


class GenerationFiles:
    """The files of one generation.

    Args:
        output: the file that comes of it.
        identity: what decides its content.
    """

    def __init__(self, output: Path, identity: Mapping[str, Any]) -> None:
        self.output, self.identity = output, identity
        self._work = Directory(Path(f"{output}.work"))
        self._beside = Directory(output.parent)

    @property
    def where(self) -> str:
        """Return what messages call it."""
        return str(self.output)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Make the directory of work or go on in it, and keep others out meanwhile.

        Raises:
            IdentityError: it is of something else.
            BusyError: another process is at work in it.
            StoreError: it cannot be written.
        """
        self._work.make_directory("")
        with self._work.lock("lock"):
            with self._work.lock("workers.lock"):
                pass  # A worker of a process that was killed writes its unit yet.
            found = self._work.get("request.json")
            if found is None:
                self._work.put("request.json", json.dumps(self.identity).encode())
            else:
                stored = parse_object(found, self._work.where("request.json"))
                check_identity(stored, self.identity, self.where, _OTHERS)
            yield

    def working(self) -> AbstractContextManager[object]:
        """Keep others from beginning as long as a worker process may write."""
        return self._work.lock("workers.lock", shared=True)

    def finished(self) -> dict[str, int] | None:
        """Return the counts of a file that is complete, or None.

        Raises:
            IdentityError: it is of something else.
            StoreError: a file is there that is none of `generate`, or was changed.
        """
        content = self._beside.get(f"{self.output.name}.json")
        if content is None:
            if self.output.exists():
                raise self._taken("a file that softtargets generate did not finish")
            return None
        about = parse_object(content, f"{self.output}.json")
        if "generation" not in about:
            raise self._taken(f"{self.output.name}.json, which is something else")
        check_identity(about["generation"], self.identity, self.where, _OTHERS)
        if not self.output.exists():
            return None
        if hash_file(self.output) != about["sha256"]:
            raise self._taken("a file that was changed since")
        counts: dict[str, int] = about["counts"]
        return counts

    def _taken(self, found: str) -> StoreError:
        return StoreError(
            self.where,
            expected="no file, or one that softtargets generate wrote",
            found=found,
            next_step="Move it away, or pass another --output.",
        )

    def write_plan(self, units: Iterable[Sequence[Mapping[str, Any]]], counts: Counter[str]) -> int:
        """Write the prompts of each unit; return how many units there are."""
        self._work.make_directory("plan")
        number = 0
        for number, prompts in enumerate(units, 1):
            lines = "".join(json.dumps(one) + "\n" for one in prompts)
            self._work.put(f"plan/unit-{number - 1:06d}.jsonl", lines.encode())
        plan = {"num_units": number, "counts": counts}
        if number:
            self._work.put("plan.json", json.dumps(plan).encode())
        return number

    def read_plan(self) -> tuple[int, Counter[str]] | None:
        """Return how many units are planned and what was counted, or None before that."""
        content = self._work.get("plan.json")
        if content is None:
            return None
        plan = parse_object(content, self._work.where("plan.json"))
        return plan["num_units"], Counter(plan["counts"])

    def prompts(self, unit: int) -> list[dict[str, Any]]:
        """Return the prompts of a unit.

        Raises:
            FormatError: they are gone.
        """
        path = f"plan/unit-{unit:06d}.jsonl"
        content = self._work.get(path)
        if content is None:
            raise self._spoiled(path, "none")
        return [json.loads(line) for line in content.splitlines()]

    def write_record(self, unit: int, record: Mapping[str, Any]) -> None:
        """Write the answers of a unit, unless they are there already."""
        self._work.make_directory("records")
        path = f"records/unit-{unit:06d}.json"
        self._work.put_if_absent(path, json.dumps(record, ensure_ascii=False).encode())

    def read_record(self, unit: int) -> dict[str, Any] | None:
        """Return the answers of a unit and their counts, or None before they are there."""
        path = f"records/unit-{unit:06d}.json"
        content = self._work.get(path)
        return None if content is None else parse_object(content, self._work.where(path))

    def finish(self, num_units: int, counts: Counter[str]) -> Counter[str]:
        """Write the file of all answers in the order of the corpus; return what was counted."""
        lines: list[str] = []
        for unit in range(num_units):
            record = self.read_record(unit)
            if record is None:
                raise self._spoiled(f"records/unit-{unit:06d}.json", "none")
            lines += (json.dumps(one, ensure_ascii=False) + "\n" for one in record["answers"])
            counts.update(record["counts"])
        self._beside.put(self.output.name, "".join(lines).encode())
        about = {
            "generation": self.identity,
            "sha256": hash_file(self.output),
            "counts": counts,
        }
        self._beside.put(f"{self.output.name}.json", json.dumps(about, indent=1).encode())
        self._clear(num_units)
        return counts

    def _clear(self, num_units: int) -> None:
        for unit in range(num_units):
            self._work.delete(f"plan/unit-{unit:06d}.jsonl")
            self._work.delete(f"records/unit-{unit:06d}.json")
        for path in ("plan.json", "request.json", "workers.lock", "lock"):
            self._work.delete(path)
        for path in ("plan", "records", ""):
            self._work.remove_directory(path)

    def _spoiled(self, path: str, found: str) -> FormatError:
        return FormatError(
            self._work.where(path),
            expected="a unit that was planned",
            found=found,
            next_step=f"Remove {self._work} and run the same command again.",
        )
