"""The ids of the windows that a dataset delivers."""

from __future__ import annotations

from torch.utils.data import DataLoader

from softtargets import SoftTargetDataset, collate


def ids(dataset: SoftTargetDataset) -> list[str]:
    return [window.window_id for window in dataset]


def loaded_ids(dataset: SoftTargetDataset, num_workers: int, batch_size: int = 3) -> list[str]:
    loader = DataLoader(dataset, batch_size=batch_size, num_workers=num_workers, collate_fn=collate)
    return [window_id for batch in loader for window_id in batch["window_id"]]
