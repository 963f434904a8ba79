"""A small gateway for tests: the checks of docs/protocol.md 5 in their order, in memory, with knobs for trouble."""

import hashlib
import json
from collections import Counter
from dataclasses import dataclass, field

import cbor2

from firmware_sim.canonical import canonical
from firmware_sim.digests import (
    ChannelConfig,
    channel_id,
    close_digest,
    deposit_nonce,
    earner_digest,
    open_digest,
    reading_digest,
    receive_digest,
    voucher_digest,
)
from firmware_sim.keys import Key, derive_key, keccak, recover
from firmware_sim.wire import REASONS

NANO = 10**9
CHAIN = 31402
TOKEN = bytes.fromhex("5f" * 20)
NUMBER = {name: number for number, name in REASONS.items()}

PRICES = {
    "grid-power": ("Wh", 150_000_000_000, "pay"),
    "ev-charging": ("Wh", 250_000_000_000, "pay"),
    "water": ("L", 4_000_000_000_000, "pay"),
    "solar-export": ("Wh", 80_000_000_000, "earn"),
    "air-quality": ("reading", 500_000_000_000, "earn"),
}


@dataclass
class Account:
    """A channel or an earner account."""

    id: bytes
    device: str
    service: str
    signer: bytes
    earns: bool
    seq: int = 0
    register: int = 0
    exact: int = 0
    offset: int = 0
    balance: int = 0
    ceiling: int = 0
    voucher: bytes | None = None
    offer: bytes = b""
    serial: int = 0
    accepted: dict = field(default_factory=dict)
    closed: bool = False
    refunded: int = 0
    closes: dict = field(default_factory=dict)


@dataclass
class Refused(Exception):
    reason: str
    required: int | None = None


class SimGateway:
    """`handle` takes a device's message and returns the receipt payload."""

    def __init__(self, *, name="gw1", seed=1, prices=None, min_deposit=1_000_000, max_ahead=0, max_step=0, lanes=2):
        self.name = name
        self.key: Key = derive_key(seed, f"gateway/{name}")
        self.lanes = [derive_key(seed, f"lane/{name}/{i}").address for i in range(lanes)]
        self.min_deposit, self.max_ahead, self.max_step = min_deposit, max_ahead, max_step
        self.now_s = 1_700_000_000
        self.grace = 900
        self.serial = 0
        self.offers: dict[bytes, dict] = {}
        self.superseded: dict[bytes, int] = {}
        self.current: dict | None = None
        self.accounts: dict[bytes, Account] = {}
        self.nonces: dict[bytes, int] = {}
        self.commit = 0
        self.transient: list[str] = []  # refusals to hand out to readings before anything else
        self.open_refusals: list[str] = []
        self.close_refusals: list[str] = []
        self.unanswered = 0  # closes that take as long as a settlement: so many go without an answer
        self.messages: Counter[str] = Counter()
        self.publish_offer(prices or PRICES)

    # ---------------------------------------------------------------- offers

    def publish_offer(self, prices, *, lanes=None, valid_s=10**9) -> bytes:
        if lanes is not None:
            self.lanes = lanes
        self.serial += 1
        if self.current is not None:
            self.superseded[bytes.fromhex(self.current["id"][2:])] = self.now_s
        body = {
            "version": 1,
            "serial": self.serial,
            "gateway": self.name,
            "network": f"eip155:{CHAIN}",
            "asset": "0x" + TOKEN.hex(),
            "assetName": "USD Coin",
            "assetVersion": "2",
            "lanes": [{"payTo": "0x" + lane.hex()} for lane in self.lanes],
            "receiverAuthorizer": "0x" + self.key.address.hex(),
            "withdrawDelay": 86400,
            "minDeposit": str(self.min_deposit),
            "maxAhead": str(self.max_ahead),
            "grace": self.grace,
            "services": {
                service: {"unit": unit, "price": str(price), "direction": direction}
                | ({"maxStep": str(self.max_step)} if self.max_step else {})
                for service, (unit, price, direction) in prices.items()
            },
            "validFrom": self.now_s,
            "validUntil": self.now_s + valid_s,
        }
        digest = hashlib.sha256(canonical(body)).digest()
        body["id"] = "0x" + digest[:16].hex()
        body["signature"] = "0x" + self.key.sign(digest).hex()
        self.current = body
        self.offers[digest[:16]] = body
        return self.offer_payload()

    def offer_payload(self) -> bytes:
        return json.dumps(self.current, indent=1).encode()

    def usable(self, offer: bytes) -> dict:
        if offer not in self.offers:
            raise Refused("offer_unknown")
        since = self.superseded.get(offer)
        if since is not None and self.now_s - since > self.grace:
            raise Refused("offer_expired")
        return self.offers[offer]

    # ---------------------------------------------------------------- messages

    def handle(self, device: str, leaf: str, payload: bytes) -> bytes:
        self.messages[leaf] += 1
        as_json = payload[:1] == b"{"
        fields: dict = {}
        account = None
        try:
            if leaf == "close":
                return self._close(device, payload)
            if leaf == "open":
                account, status = self._open(device, _decode_open(payload))
            else:
                fields = _decode_reading(payload, leaf)
                account = self.accounts.get(fields["id"])
                if account is None:
                    raise Refused("unknown_channel")
                status = self._reading(account, device, fields)
            if isinstance(status, dict):
                return _encode({**status, 8: 1, 15: _answers(payload)}, account.earns, as_json)
            receipt = {**self._state(account), 2: fields.get("seq", 0), 8: status, 15: _answers(payload)}
            if status == 0 and leaf != "open":
                account.accepted[fields["seq"]] = (_identity(fields), receipt)
        except Refused as refused:
            receipt = {8: 2, 9: NUMBER[refused.reason], 15: _answers(payload)}
            if fields:
                receipt |= {1: fields["id"], 2: fields["seq"]}
            if account is not None and account.device == device:
                receipt = {**self._state(account), **receipt}
            if refused.required is not None:
                receipt[12] = refused.required
        return _encode(receipt, bool(account and account.earns), as_json)

    def _close(self, device: str, payload: bytes) -> bytes:
        m = _decode_open(payload)
        as_json = payload[:1] == b"{"
        seq = int(m["seq"])
        account = self.accounts.get(m["channelId"])
        known = account is not None and account.device == device
        try:
            status = self._closing(account, device, seq, m["signature"])
        except Refused as refused:
            receipt = {
                **(self._state(account) if known else {}),
                8: 2,
                9: NUMBER[refused.reason],
                15: _answers(payload),
            }
            return _encode(receipt | {1: m["channelId"], 2: seq}, False, as_json)
        if self.unanswered:
            self.unanswered -= 1
            return b""
        account.closes[seq] = 1  # a duplicate from now on
        receipt = {**self._state(account), 2: seq, 8: status, 15: _answers(payload), 21: account.refunded}
        return _encode(receipt, False, as_json)

    def _closing(self, account: Account | None, device: str, seq: int, signature: bytes) -> int:
        if account is None:
            raise Refused("unknown_channel")
        if account.device != device:
            raise Refused("wrong_device")
        if recover(close_digest(CHAIN, account.id, self.name, device, seq), signature) != account.signer:
            raise Refused("bad_signature")
        if seq in account.closes:
            return account.closes[seq]
        if self.close_refusals:
            raise Refused(self.close_refusals.pop(0))
        if seq in account.accepted:
            raise Refused("seq_conflict")
        if seq <= account.seq:
            raise Refused("seq_old")
        if seq > account.seq + (1 << 20):
            raise Refused("seq_jump")
        if account.closed:
            raise Refused("not_open")
        account.seq, account.closed = seq, True
        account.closes[seq] = 0
        owed = account.exact // NANO - account.offset
        account.refunded += account.balance - owed
        account.balance = owed
        self.commit += 1
        return 0

    def _state(self, account: Account) -> dict:
        state = {
            1: account.id,
            10: account.exact // NANO,
            13: self.commit,
            16: account.seq,
            17: account.register,
            18: account.exact % NANO,
            19: account.offer,
            20: account.offset,
        }
        if not account.earns:
            state[11] = account.balance
            if account.voucher is not None:
                state[6], state[7] = account.ceiling, account.voucher
        return state

    def _reading(self, account: Account, device: str, f: dict):
        if account.device != device:
            raise Refused("wrong_device")
        if not account.earns:
            digest = voucher_digest(CHAIN, account.id, f["ceiling"])
            if recover(digest, f["voucher"]) != account.signer:
                raise Refused("bad_signature")
        if account.earns or f["signature"] is not None:
            digest = reading_digest(CHAIN, account.id, f["seq"], f["register"], f["time"], f["offer"], f["ceiling"])
            if recover(digest, f["signature"] or b"") != account.signer:
                raise Refused("bad_signature")
        if f["seq"] in account.accepted:
            known, receipt = account.accepted[f["seq"]]
            if known == _identity(f):
                return receipt
            raise Refused("seq_conflict")
        if self.transient:
            raise Refused(self.transient.pop(0))
        if f["seq"] <= account.seq:
            raise Refused("seq_old")
        if f["seq"] > account.seq + (1 << 20):
            raise Refused("seq_jump")
        if account.closed:
            raise Refused("not_open")
        offer = self.usable(f["offer"])
        if offer["serial"] < account.serial:
            raise Refused("offer_regressed")
        if f["register"] < account.register:
            raise Refused("register_lower")
        step = f["register"] - account.register
        if self.max_step and step > self.max_step:
            raise Refused("register_jump")
        exact = account.exact + step * int(offer["services"][account.service]["price"])
        if not account.earns:
            owed = exact // NANO - account.offset
            if f["ceiling"] < owed:
                raise Refused("ceiling_too_low", owed)
            if f["ceiling"] > account.balance:
                raise Refused("ceiling_above_balance")
            if f["ceiling"] > owed + self.max_ahead:
                raise Refused("ceiling_too_far")
            if f["ceiling"] >= account.ceiling:
                account.ceiling, account.voucher = f["ceiling"], f["voucher"]
        account.seq, account.register, account.exact = f["seq"], f["register"], exact
        account.offer, account.serial = f["offer"], offer["serial"]
        self.commit += 1
        return 0

    # ---------------------------------------------------------------- opening

    def _open(self, device: str, m: dict):
        if self.open_refusals:
            raise Refused(self.open_refusals.pop(0))
        offer_id = m.get("offer", bytes.fromhex(self.current["id"][2:]))
        offer = self.usable(offer_id)
        terms = offer["services"].get(m["service"])
        if terms is None:
            raise Refused("service_unknown")
        register = int(m.get("register", 0))
        if "earner" in m:
            return self._enrol(device, m, offer_id, register)
        config = _config(m["channelConfig"])
        lanes = [bytes.fromhex(lane["payTo"][2:]) for lane in offer["lanes"]]
        id_ = channel_id(CHAIN, config)
        account = self.accounts.get(id_)
        if (
            config.receiver_authorizer != self.key.address
            or config.token != TOKEN
            or config.withdraw_delay != 86400
            or (account is None and config.receiver != lanes[int.from_bytes(config.payer, "big") % len(lanes)])
        ):
            raise Refused("config_mismatch")
        binding = open_digest(CHAIN, id_, self.name, device, m["service"], register)
        if "binding" in m and recover(binding, m["binding"]) != config.payer_authorizer:
            raise Refused("bad_signature")
        amount, fresh = self._collect(config, id_, m["deposit"])
        if account is None:
            account = self.accounts[id_] = Account(
                id_, device, m["service"], config.payer_authorizer, False, register=register, offer=offer_id
            )
            account.balance = sum(paid for key, paid in self.nonces.items() if key[:32] == id_)
        elif fresh:
            account.balance += amount
            account.closed = False
        self.commit += 1
        return account, 0 if fresh else 1

    def _collect(self, config: ChannelConfig, id_: bytes, deposit: dict) -> tuple[int, bool]:
        amount = int(deposit["amount"])
        if amount < self.min_deposit:
            raise Refused("deposit_too_small")
        a = deposit["authorization"]["erc3009Authorization"]
        nonce = deposit_nonce(id_, a["salt"])
        digest = receive_digest(
            CHAIN, (TOKEN, "USD Coin", "2"), config.payer, amount, int(a["validAfter"]), int(a["validBefore"]), nonce
        )
        if recover(digest, a["signature"]) != config.payer or int(a["validBefore"]) <= self.now_s:
            raise Refused("deposit_invalid")
        key = id_ + nonce
        if key in self.nonces:
            return amount, False
        self.nonces[key] = amount
        return amount, True

    def _enrol(self, device: str, m: dict, offer_id: bytes, register: int):
        e = m["earner"]
        id_ = earner_digest(CHAIN, self.name, device, m["service"], e["payee"], e["meterKey"], e["salt"])
        if recover(id_, e["signature"]) != e["payee"]:
            raise Refused("bad_signature")
        known = id_ in self.accounts
        if not known:
            self.accounts[id_] = Account(
                id_, device, m["service"], e["meterKey"], True, register=register, offer=offer_id
            )
        return self.accounts[id_], int(known)


def _answers(payload: bytes) -> bytes:
    return hashlib.sha256(payload).digest()[:8]


def _identity(f: dict) -> tuple:
    return f["id"], f["seq"], f["register"], f["offer"], f["ceiling"]


def _unhex(value):
    if isinstance(value, dict):
        return {key: _unhex(item) for key, item in value.items()}
    return bytes.fromhex(value[2:]) if isinstance(value, str) and value.startswith("0x") else value


def _decode_open(payload: bytes) -> dict:
    if payload[:1] == b"{":
        return _unhex(json.loads(payload))
    return cbor2.loads(payload, allow_indefinite=False, allow_duplicate_keys=False)


def _decode_reading(payload: bytes, leaf: str) -> dict:
    if payload[:1] == b"{":
        m = _unhex(json.loads(payload))
        id_ = m["channelId" if leaf == "usage" else "accountId"]
        get = m.get
        names = ("seq", "register", "time", "offer", "maxClaimableAmount", "signature", "readingSignature")
        values = [get(name) for name in names]
    else:
        m = cbor2.loads(payload, allow_indefinite=False, allow_duplicate_keys=False)
        id_ = m[1]
        values = [m.get(key) for key in (2, 3, 4, 5, 6, 7, 14)]
    seq, register, time, offer, ceiling, voucher, signature = values
    return {
        "id": id_,
        "seq": int(seq),
        "register": int(register),
        "time": int(time),
        "offer": offer,
        "ceiling": int(ceiling or 0),
        "voucher": voucher,
        "signature": signature,
    }


def _config(c: dict) -> ChannelConfig:
    return ChannelConfig(
        c["payer"],
        c["payerAuthorizer"],
        c["receiver"],
        c["receiverAuthorizer"],
        c["token"],
        int(c["withdrawDelay"]),
        c["salt"],
    )


_NAMES = {
    1: "channelId",
    2: "seq",
    6: "maxClaimableAmount",
    7: "signature",
    8: "status",
    9: "reason",
    10: "chargedCumulativeAmount",
    11: "balance",
    12: "requiredCeiling",
    13: "commit",
    15: "answers",
    16: "lastSeq",
    17: "lastRegister",
    18: "lastRemainder",
    19: "lastOffer",
    20: "offset",
    21: "refunded",
}
_AMOUNTS = (6, 10, 11, 12, 18, 20, 21)


def _encode(receipt: dict, earns: bool, as_json: bool) -> bytes:
    if not as_json:
        return cbor2.dumps(receipt, canonical=True)
    document = {}
    for key, value in receipt.items():
        name = _NAMES[key]
        if earns:
            name = {1: "accountId", 10: "earnedCumulativeAmount"}.get(key, name)
        if key == 8:
            value = ("accepted", "duplicate", "refused")[value]
        elif key == 9:
            value = REASONS[value]
        elif key in _AMOUNTS or (isinstance(value, int) and value > 2**53 - 1):
            value = str(value)
        elif isinstance(value, bytes):
            value = "0x" + value.hex()
        document[name] = value
    return json.dumps(document).encode()


def salt_of(text: str) -> bytes:
    return keccak(text.encode())
