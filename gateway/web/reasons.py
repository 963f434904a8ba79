"""Refusals in plain words: what each one means, what the device does by itself, what the operator can do.

One table: the dashboard, the API and docs/refusals.md say the same, and a test holds the page to it.
"""

from dataclasses import dataclass

from channels.refusals import Refusal


@dataclass(frozen=True, slots=True)
class Words:
    """A refusal explained. `cause` and `device` are sentences of docs/refusals.md; `operator` is for this gateway's."""

    cause: str
    device: str
    operator: str


def cause_of(name: str) -> str:
    """Return the first sentence of a refusal's cause, by its wire name; the name itself for an unknown one."""
    words = BY_NAME.get(name)
    return name if words is None else words.cause.split(". ")[0].rstrip(".") + "."


_FIRMWARE = "Its firmware is wrong: update it, and look at its log for what it sent."
_RESYNC = "Usually nothing: the device puts itself right. If it goes on, see whether two devices share one id or key."
_OFFER = "Usually nothing: it reads the current offer. If it goes on, see whether it may read the offer's topic."

REASONS: dict[Refusal, Words] = {
    Refusal.TOO_LARGE: Words(
        "The payload has more than 4,096 bytes and was not read.",
        "A fault of the firmware: do not resend.",
        _FIRMWARE,
    ),
    Refusal.MALFORMED: Words(
        "The payload is no valid JSON or CBOR of this message: a missing or mistyped field, a value out "
        "of range, a repeated key, bytes left over.",
        "A fault of the firmware: do not resend.",
        _FIRMWARE,
    ),
    Refusal.UNKNOWN_CHANNEL: Words(
        "The gateway knows no such channel or account.",
        "Send `open` again: a deposit that was used already is found on chain. With `register` from the last "
        "receipt nothing is counted twice or left out.",
        "Usually nothing: it opens the channel again. If it goes on, it was set up for another gateway or chain.",
    ),
    Refusal.WRONG_DEVICE: Words(
        "The channel or account belongs to a device with another id than the one in the topic.",
        "Stop; the device id or the keys are provisioned wrongly.",
        "Give the device the id that its channel was opened under, or a channel and keys of its own.",
    ),
    Refusal.BAD_SIGNATURE: Words(
        "A required signature is missing, by another key, over other values, or in a form that the "
        "contract refuses (high s, v other than 27 or 28). Of an `open`: its `binding`, or the payee's "
        "signature. Of a `close`: the device's.",
        "Check domain (chain id, contract), key and form; do not resend as it is.",
        "See that the device has the right keys, chain id and contract; a copied key file is the usual reason.",
    ),
    Refusal.SEQ_CONFLICT: Words(
        "Another reading, or a `close`, was accepted under this `seq`.",
        "Resync; the device has lost state or there are two of it.",
        _RESYNC,
    ),
    Refusal.SEQ_OLD: Words(
        "`seq` is below the last accepted one and no longer remembered.",
        "Resync; usually the reading is paid for already.",
        _RESYNC,
    ),
    Refusal.SEQ_JUMP: Words(
        "`seq` is more than 2²⁰ above the last accepted one.",
        "Resync, and number on from there.",
        _RESYNC,
    ),
    Refusal.NOT_OPEN: Words(
        "The channel waits for its deposit, is closing or is closed. An `open` of a closing channel is "
        "refused so, too.",
        "Wait for the answer to `open` or `close`, then open the channel again if it is wanted.",
        "Wait for the deposit or the closing to end; a closed channel is opened again by the device.",
    ),
    Refusal.OFFER_UNKNOWN: Words(
        "The gateway never issued this offer, or it does not sell this service.",
        "Read the retained offer, resync under it.",
        _OFFER,
    ),
    Refusal.OFFER_EXPIRED: Words(
        "The offer was superseded longer ago than its `grace`, or is past `validUntil`.",
        "Read the retained offer, resync under it.",
        _OFFER,
    ),
    Refusal.OFFER_REGRESSED: Words(
        "A reading under a newer offer was accepted before.",
        "Price with the newer offer, resync.",
        _OFFER,
    ),
    Refusal.REGISTER_LOWER: Words(
        "The register is below the last accepted one.",
        "Resync; if the meter was changed, open a new channel from its register.",
        "If the meter was changed or reset, let the device open a new channel from the new register.",
    ),
    Refusal.REGISTER_JUMP: Words(
        "The register rose by more than the service's `maxStep`.",
        "Send the way there in steps of at most `maxStep`; if it was a misreading, discard it.",
        "If the meter is right, raise `max_step` of the service in the configuration.",
    ),
    Refusal.OVERFLOW: Words(
        "The cumulative amount would not fit 128 bits.",
        "Open a new channel.",
        "Let the device open a new channel.",
    ),
    Refusal.CEILING_TOO_LOW: Words(
        "The voucher is below what is owed after this reading; `requiredCeiling` says how much that is.",
        "Compute it again; sign that amount if the own price for the own register agrees, else stop.",
        "Prices of device and gateway differ: see that it has read the current offer, and compare its register.",
    ),
    Refusal.CEILING_ABOVE_BALANCE: Words(
        "The voucher is above what the channel holds, less a pending withdrawal.",
        "Top up with another `open`, then resend.",
        "The deposit is used up: let the payer top the channel up.",
    ),
    Refusal.CEILING_TOO_FAR: Words(
        "The voucher is more than `maxAhead` above what is owed.",
        "Sign the amount that is owed.",
        "Raise `offer.max_ahead`, or let the device sign no more than it owes.",
    ),
    Refusal.CHAIN_STALE: Words(
        "The gateway has read no block for so long that it cannot vouch for balances.",
        "Wait and resend.",
        "The chain has been silent for too long: see Repairs.",
    ),
    Refusal.DEPOSIT_PENDING: Words(
        "A deposit of this device is on its way to the chain: it can neither make another one nor close that channel.",
        "Wait for its answer, then ask again.",
        "Nothing: a deposit takes a block or two.",
    ),
    Refusal.DEPOSIT_INVALID: Words(
        "The deposit's authorization is not signed by the payer, is outside its times, was used, or the "
        "token refuses it (too little money); or it takes far more gas than a plain one (the payer's key has "
        "code that wastes it).",
        "Check the payer's balance, sign a new authorization with another salt.",
        "See that the payer has enough tokens, and that the device's clock is right.",
    ),
    Refusal.CONFIG_MISMATCH: Words(
        "Token, delay, authorizer or lane are not those of the offer; or payer, meter key or payee is an "
        "address that cannot be one here.",
        "Build the configuration from the current offer.",
        "The device was set up for another token, gateway or delay: set it up anew from the current offer.",
    ),
    Refusal.SERVICE_UNKNOWN: Words(
        "The offer has no such service, or not in this direction.",
        "Choose a service of the offer.",
        "Add the service to the configuration, or choose another one on the device.",
    ),
    Refusal.DEPOSIT_TOO_SMALL: Words(
        "The first deposit is below the offer's `minDeposit`; a top-up must be above 0.",
        "Deposit more.",
        "Let the payer deposit more, or lower `offer.min_deposit`.",
    ),
    Refusal.NOT_ENROLLED: Words(
        "The operator has not enrolled the device, or not with this payer and there is no `binding`.",
        "Ask the operator (`metergate device add`); try again once in a while.",
        "Enrol the device, or open the enrolment window while it asks.",
    ),
    Refusal.BUSY: Words(
        "Too many deposits are under way.",
        "Wait and resend.",
        "Nothing: it asks again by itself. A device that waits at the enrolment window wants your word.",
    ),
    Refusal.LIMIT: Words(
        "A bound is reached: channels or accounts of this device, or devices of this gateway.",
        "Use what is open, or ask the operator.",
        "Close channels that are not used any more, or run another gateway.",
    ),
    Refusal.CHANNEL_TAKEN: Words(
        "The channel is bound to another device or service.",
        "Choose another salt: a channel is for one device and one service.",
        "Two devices want one channel: give one of them a salt of its own.",
    ),
}

BY_NAME = {refusal.wire_name: words for refusal, words in REASONS.items()}
