"""Proving statements offline: their signatures, their sums, and that they follow from each other.

Nothing here asks a gateway or a chain. What a statement says of the chain (claimed, paid, balance) anybody can
look up at its block; the rest is signed, so a gateway that says something else later has said both.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise

from channels.pricing import BASIS_POINTS, NANO
from channels.signatures import recover
from channels.types import Address, Digest
from settlement.statement_json import read
from settlement.statements import TYPES, AccountLine, ChannelLine, Signed, Statement, add_up, statement_digest


@dataclass(frozen=True, slots=True)
class Proof:
    """What was found: the statements in order, each once, and every fault in words. No faults: all is proved."""

    statements: tuple[Signed, ...]
    faults: tuple[str, ...]


def prove(documents: Iterable[Signed], signer: Address | None = None) -> Proof:
    """Check statements, in any order, each alone and all of one party as a chain.

    `signer` is the receiverAuthorizer that the gateway is known by; without it the signature only shows that
    nothing was altered since whoever signed it.
    """
    unique = {(statement_digest(each.statement), each.signature): each for each in documents}
    ordered = sorted(unique.values(), key=lambda each: (_series(each.statement), each.statement.cycle))
    digests = [statement_digest(each.statement) for each in ordered]
    faults: list[str] = []
    for each, digest in zip(ordered, digests, strict=True):
        name = name_of(each.statement)
        faults += [f"{name}: {text}" for text in (*_signature_faults(each, digest, signer), *_sums(each.statement))]
    numbered = zip(ordered, digests, strict=True)
    for _, series in groupby(numbered, key=lambda pair: _series(pair[0].statement)):
        for (before, digest), (after, own) in pairwise(series):
            if digest != own:  # the same statement signed twice is one
                name = name_of(after.statement)
                faults += [f"{name}: {text}" for text in _steps(before.statement, digest, after.statement)]
    return Proof(tuple(ordered), tuple(faults))


def verify(document: object, signer: Address | None = None) -> list[str]:
    """Return every fault of a statement, or of a list of them, given as JSON values; none means valid.

    Raises NotAStatement for anything else.
    """
    return list(prove(read(document), signer).faults)


def name_of(statement: Statement) -> str:
    """Return how a person names it."""
    return f"0x{statement.party.hex()} cycle {statement.cycle}"


def _series(statement: Statement) -> tuple[object, ...]:
    return statement.party, statement.gateway, statement.chain_id, statement.settlement, statement.token


# -- one statement --


def _signature_faults(signed: Signed, digest: Digest, signer: Address | None) -> Iterator[str]:
    named = signed.statement.receiver_authorizer
    found = recover(digest, signed.signature)
    if found is None:
        yield "the signature is none that the contract would take"
    elif found != named:
        yield f"it was altered or forged: the signature is not by the receiverAuthorizer 0x{named.hex()} that it names"
    if signer is not None and named != signer:
        yield f"the receiverAuthorizer that it names is 0x{named.hex()}, not 0x{signer.hex()} as expected"


def _sums(statement: Statement) -> Iterator[str]:
    for line in statement.channels:
        for text in _channel_faults(line):
            yield f"channel 0x{line.channel_id.hex()}: {text}"
    for earner in statement.accounts:
        for text in _account_faults(earner):
            yield f"account 0x{earner.account_id.hex()}: {text}"
    ids = [line.channel_id for line in statement.channels]
    accounts = [line.account_id for line in statement.accounts]
    for kind, rows in (("channels", ids), ("accounts", accounts)):
        if any(after <= before for before, after in pairwise(rows)):
            yield f"its {kind} are not in order, each once"
    yield from _total_faults(statement)
    if statement.from_commit > statement.commit:
        yield f"it begins at commit {statement.from_commit}, after its end {statement.commit}"
    if statement.from_commit == 0 and (any(statement.previous) or statement.from_block or statement.from_time):
        yield "it names a statement before it, but not that one's commit"
    if statement.from_commit and not any(statement.previous):
        yield f"it begins at commit {statement.from_commit} and names no statement before it"


def _channel_faults(line: ChannelLine) -> Iterator[str]:
    parts = line.claimed + line.offset + line.forgiven + line.unclaimed
    yield from _differ("charged", line.charged, "claimed + offset + forgiven + unclaimed", parts)
    if line.register_to < line.register_from:
        yield f"the register runs from {line.register_from} to {line.register_to}"
    if line.claimed > line.balance:
        yield f"claimed is {line.claimed}, more than the balance {line.balance}"
    owed = line.claimed + line.unclaimed
    if not line.claimed <= line.committed <= owed:
        yield f"claimed {line.claimed} ≤ committed {line.committed} ≤ owed {owed} does not hold"
    if owed > max(line.ceiling, line.committed):
        yield f"{owed} is owed, and the highest voucher held is over {line.ceiling}"
    if line.remainder >= NANO:
        yield f"the remainder {line.remainder} is a whole base unit or more"


def _account_faults(line: AccountLine) -> Iterator[str]:
    yield from _differ("earned", line.earned, "fee + offset + net", line.fee + line.offset + line.net)
    if line.register_to < line.register_from:
        yield f"the register runs from {line.register_from} to {line.register_to}"
    if line.remainder >= NANO or line.fee_remainder >= BASIS_POINTS:
        yield f"a remainder ({line.remainder}, {line.fee_remainder}) is a whole base unit or more"


def _total_faults(statement: Statement) -> Iterator[str]:
    totals = statement.totals
    added = add_up(statement.channels, statement.accounts, totals.signed, totals.paid)
    for member, _ in TYPES["Totals"]:
        yield from _differ(f"the total {member}", getattr(totals, member), "by its lines", getattr(added, member))
    earned = sum(line.offset for line in statement.accounts)
    yield from _differ("offset on channels", added.offset, "on accounts", earned)
    if not totals.paid <= totals.signed <= added.net:
        yield f"paid {totals.paid} ≤ signed {totals.signed} ≤ net {added.net} does not hold"


def _differ(left_name: str, left: int, right_name: str, right: int) -> Iterator[str]:
    if left != right:
        yield f"{left_name} is {left}, {right_name} {right}: they differ by {left - right}"


# -- one after another --

# What a reorganisation of the chain may take back; without one nothing here falls.
_OF_THE_CHAIN = frozenset({"claimed", "withdrawn", "refunded", "deposited"})
_CHANNEL_RISES = ("register_to", "charged", "offset", "forgiven", "committed", "ceiling", *sorted(_OF_THE_CHAIN))
_ACCOUNT_RISES = ("register_to", "earned", "fee", "offset")
_CHANNEL_STAYS = ("device", "service", "unit", "register_from")


def _steps(before: Statement, digest: Digest, after: Statement) -> Iterator[str]:
    """Yield what contradicts that `after` follows `before`, whose digest is given."""
    if after.cycle == before.cycle:
        yield f"the gateway signed two different statements of cycle {after.cycle}"
        return
    if after.receiver_authorizer != before.receiver_authorizer:
        yield f"it names another receiverAuthorizer than that of cycle {before.cycle}"
    if after.previous != digest:
        missing = after.from_commit > before.commit
        yield (
            f"it does not follow that of cycle {before.cycle}: "
            + ("statements between them are missing" if missing else "it names another one as the one before it")
        )
    elif (after.from_commit, after.from_block, after.from_time) != (before.commit, before.block, before.time):
        yield f"it does not begin where that of cycle {before.cycle} ends"
    if after.commit < before.commit:
        yield f"its commit {after.commit} is before {before.commit} of cycle {before.cycle}"
    reorganised = after.reorgs > before.reorgs
    if after.reorgs < before.reorgs:
        yield f"it counts {after.reorgs} reorganisations after {before.reorgs}"
    if after.block < before.block and not reorganised:
        yield f"its block {after.block} is below {before.block} of cycle {before.cycle}"
    yield from _lines("channel", before.channels, after.channels, reorganised)
    yield from _lines("account", before.accounts, after.accounts, reorganised)
    for member in ("signed",) if reorganised else ("signed", "paid"):
        yield from _fell("", before.totals, after.totals, member)


def _lines(
    kind: str,
    before: Sequence[ChannelLine] | Sequence[AccountLine],
    after: Sequence[ChannelLine] | Sequence[AccountLine],
    reorganised: bool,
) -> Iterator[str]:
    rises = _CHANNEL_RISES if kind == "channel" else _ACCOUNT_RISES
    money = "charged" if kind == "channel" else "earned"
    known = {_id(line): line for line in after}
    for line in before:
        name = f"{kind} 0x{_id(line).hex()}: "
        then = known.get(_id(line))
        if then is None:
            yield f"{name}it is missing"
            continue
        for member in _CHANNEL_STAYS:
            if getattr(then, member) != getattr(line, member):
                yield f"{name}{_words(member)} became {getattr(then, member)!r}, it was {getattr(line, member)!r}"
        for member in rises:
            if not (reorganised and member in _OF_THE_CHAIN):
                yield from _fell(name, line, then, member)
        # What is metered and what it comes to move together: no charge without a reading.
        same = ("remainder", money)
        if then.register_to == line.register_to and any(getattr(then, each) != getattr(line, each) for each in same):
            moved = f"went from {getattr(line, money)} to {getattr(then, money)}"
            yield f"{name}{money} {moved} (or its remainder did) and the register stood still"


def _fell(name: str, before: object, after: object, member: str) -> Iterator[str]:
    was, became = getattr(before, member), getattr(after, member)
    if became < was:
        yield f"{name}{_words(member)} fell from {was} to {became}"


def _words(member: str) -> str:
    return {"register_to": "the register", "register_from": "the first register"}.get(member, member)


def _id(line: ChannelLine | AccountLine) -> bytes:
    return line.channel_id if isinstance(line, ChannelLine) else line.account_id
