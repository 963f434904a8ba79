"""How patiently a sender watches the chain, and how much it believes."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Waiting:
    """How patiently the chain is watched and believed.

    Polls come `poll_seconds_min` apart after something was sent, each later by half, up to `poll_seconds_max`.
    What waits is sent again every `resend_seconds`, and soon while the chain is not known to have it.
    `refusals_max` refusals in a row are told to whoever waits; it stays outstanding. That a nonce was used and none
    of our transactions has a receipt must hold for `taken_polls` polls and `taken_seconds` before it is
    believed, because nodes behind a balancer lag; after `gap_seconds` without a nonce that was booked it is
    sent again, and after `fill_seconds` without one that nobody knows it is filled. `timeout_seconds` bounds a wait;
    None does not.
    """

    poll_seconds_min: float = 0.05
    poll_seconds_max: float = 2.0
    resend_seconds: float = 15.0
    refusals_max: int = 4
    taken_polls: int = 5
    taken_seconds: float = 30.0
    gap_seconds: float = 10.0
    fill_seconds: float = 60.0
    timeout_seconds: float | None = 120.0
