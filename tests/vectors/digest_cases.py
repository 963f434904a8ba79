"""Digests, ids and signatures."""

from typing import Any

from channels import digests, signatures
from channels.types import COLLECTOR_ADDRESS, U64_MAX, U128_MAX, ChannelConfig, Network
from tests.vectors.setting import (
    ACCOUNT,
    ADDRESS,
    CHAIN_TIME,
    CHANNEL,
    CONFIG,
    DEVICE,
    EARNER_SALT,
    GATEWAY,
    LANES,
    NETWORK,
    OFFER,
    TOKEN,
    Case,
    config_json,
    hexed,
    key,
)


def _signed(name: str, kind: str, role: str, digest: bytes, **given: Any) -> Case:
    return {
        "name": name,
        "kind": kind,
        "input": given,
        "digest": hexed(digest),
        "signer": role,
        "signature": hexed(signatures.sign(digest, key(role))),
    }


def _channel_ids() -> list[Case]:
    other = ChannelConfig(
        ADDRESS["stranger"], bytes(20), LANES[0], ADDRESS["payee"], TOKEN.address, 2**40 - 1, b"\xff" * 32
    )
    base = Network(8453)
    return [
        {
            "name": name,
            "kind": "channelId",
            "input": {"chainId": network.chain_id, "config": config_json(config)},
            "id": hexed(digests.channel_id(config, network)),
        }
        for name, config, network in (
            ("the channel of all other vectors", CONFIG, NETWORK),
            ("the same configuration on another chain", CONFIG, base),
            ("zero payerAuthorizer, greatest delay", other, NETWORK),
        )
    ]


def digest_cases() -> list[Case]:
    """Return every digest, id and signature."""
    cases = _channel_ids()
    for amount in (0, 1, 5_000_000, U64_MAX + 1, U128_MAX):
        digest = digests.voucher_digest(CHANNEL, amount, NETWORK)
        given = {"channelId": hexed(CHANNEL), "maxClaimableAmount": str(amount)}
        cases.append(_signed(f"voucher for {amount}", "voucher", "payerAuthorizer", digest, **given))
    for register in (0, 123_456, U64_MAX):
        digest = digests.open_digest(CHANNEL, GATEWAY, DEVICE, "grid-power", register, NETWORK)
        given = {
            "channelId": hexed(CHANNEL),
            "gateway": GATEWAY,
            "device": DEVICE,
            "service": "grid-power",
            "register": str(register),
        }
        cases.append(_signed(f"open at register {register}", "open", "payerAuthorizer", digest, **given))
    for seq, register, time, ceiling in (
        (1, 0, 0, 0),
        (7, 1234, 1_760_000_000_123, 185_100),
        (U64_MAX,) * 3 + (U128_MAX,),
    ):
        offer = OFFER.id
        digest = digests.reading_digest(CHANNEL, seq, register, time, offer, ceiling, NETWORK)
        given = {
            "id": hexed(CHANNEL),
            "seq": str(seq),
            "register": str(register),
            "time": str(time),
            "offer": hexed(offer),
            "maxClaimableAmount": str(ceiling),
        }
        cases.append(_signed(f"paying reading {seq}", "reading", "payerAuthorizer", digest, **given))
    for seq in (8, U64_MAX):
        digest = digests.close_digest(CHANNEL, GATEWAY, DEVICE, seq, NETWORK)
        given = {"channelId": hexed(CHANNEL), "gateway": GATEWAY, "device": DEVICE, "seq": str(seq)}
        cases.append(_signed(f"close with seq {seq}", "close", "payerAuthorizer", digest, **given))
    digest = digests.reading_digest(ACCOUNT, 3, 900, 1_760_000_000_456, OFFER.id, 0, NETWORK)
    given = {
        "id": hexed(ACCOUNT),
        "seq": "3",
        "register": "900",
        "time": "1760000000456",
        "offer": hexed(OFFER.id),
        "maxClaimableAmount": "0",
    }
    cases.append(_signed("earning reading", "reading", "meterKey", digest, **given))
    earner = {
        "gateway": GATEWAY,
        "device": DEVICE,
        "service": "solar-export",
        "payee": hexed(ADDRESS["payee"]),
        "meterKey": hexed(ADDRESS["meterKey"]),
        "salt": hexed(EARNER_SALT),
    }
    cases.append({**_signed("earner account", "earner", "payee", ACCOUNT, **earner), "id": hexed(ACCOUNT)})
    return cases + _money_digests()


def _money_digests() -> list[Case]:
    cases = []
    for salt, amount in ((1, 5_000_000), (2**256 - 1, 1)):
        digest = digests.deposit_digest(
            CHANNEL, ADDRESS["payer"], amount, 0, CHAIN_TIME + 3600, salt, TOKEN, NETWORK.chain_id
        )
        given = {
            "channelId": hexed(CHANNEL),
            "payer": hexed(ADDRESS["payer"]),
            "collector": hexed(COLLECTOR_ADDRESS),
            "amount": str(amount),
            "validAfter": "0",
            "validBefore": str(CHAIN_TIME + 3600),
            "salt": hexed(salt.to_bytes(32, "big")),
            "token": {"address": hexed(TOKEN.address), "name": TOKEN.name, "version": TOKEN.version},
        }
        case = _signed(f"ERC-3009 deposit of {amount}", "deposit", "payer", digest, **given)
        cases.append({**case, "nonce": hexed(digests.deposit_nonce(CHANNEL, salt))})
    other = digests.channel_id(CONFIG, Network(8453))
    for rows in ([(CHANNEL, 200_000, 185_100)], [(CHANNEL, 200_000, 185_100), (other, U128_MAX, 0)]):
        digest = digests.claim_batch_digest(rows, NETWORK)
        listed = [{"channelId": hexed(c), "maxClaimableAmount": str(m), "totalClaimed": str(t)} for c, m, t in rows]
        name = f"claim batch of {len(rows)}"
        cases.append(_signed(name, "claimBatch", "receiverAuthorizer", digest, claims=listed))
    digest = digests.refund_digest(CHANNEL, 3, 4_000_000, NETWORK)
    given = {"channelId": hexed(CHANNEL), "nonce": "3", "amount": "4000000"}
    cases.append(_signed("refund", "refund", "receiverAuthorizer", digest, **given))
    return cases


def signature_cases() -> list[Case]:
    """Return signatures that count and that do not."""
    digest = digests.voucher_digest(CHANNEL, 185_100, NETWORK)
    good = signatures.sign(digest, key("payerAuthorizer"))
    r, s, v = good[:32], int.from_bytes(good[32:64], "big"), good[64]
    high = r + (signatures.ORDER - s).to_bytes(32, "big") + bytes((55 - v,))
    variants: list[tuple[str, bytes, bool]] = [
        ("good", good, True),
        ("high s (the same signature mirrored)", high, False),
        ("v 0 or 1", good[:64] + bytes((v - 27,)), False),
        ("v 29", good[:64] + b"\x1d", False),
        ("the other v: another signer", good[:64] + bytes((55 - v,)), False),
        ("r zero", bytes(32) + good[32:], False),
        ("s zero", good[:32] + bytes(32) + good[64:], False),
        ("r is the group's order", signatures.ORDER.to_bytes(32, "big") + good[32:], False),
        ("64 bytes", good[:64], False),
        ("66 bytes", good + b"\0", False),
        ("a stranger's", signatures.sign(digest, key("stranger")), False),
    ]
    return [
        {
            "name": name,
            "kind": "signature",
            "input": {
                "digest": hexed(digest),
                "signature": hexed(signature),
                "signer": hexed(ADDRESS["payerAuthorizer"]),
            },
            "valid": valid,
        }
        for name, signature, valid in variants
    ]
