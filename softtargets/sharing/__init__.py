"""Sharing stores over the Hugging Face Hub: cards, push and pull. Needs no torch."""

from softtargets.sharing.dataset_card import (
    renew_card,
    unstated_in,
    unstated_licences,
    write_card,
)
from softtargets.sharing.pulling import PullResult, pull
from softtargets.sharing.pushing import PushResult, push
from softtargets.sharing.repository import hide_client_progress

__all__ = [
    "PullResult",
    "PushResult",
    "hide_client_progress",
    "pull",
    "push",
    "renew_card",
    "unstated_in",
    "unstated_licences",
    "write_card",
]
