"""Write the golden vectors of docs/protocol.md. Deterministic: fixed keys, RFC 6979 signatures.

    python -m tests.vectors.generate

The gateway's tests compare the files with what this makes; firmware-sim checks the same files with code of its
own, and eth_account checks every digest and signature, so that nothing here is only compared with itself.
"""

import json
from collections.abc import Callable
from pathlib import Path

from channels.types import COLLECTOR_ADDRESS, SETTLEMENT_ADDRESS
from tests.vectors.digest_cases import digest_cases, signature_cases
from tests.vectors.malformed_cases import malformed_cases
from tests.vectors.message_cases import close_cases, open_cases, reading_cases
from tests.vectors.offer_cases import offer_cases
from tests.vectors.pricing_cases import pricing_cases
from tests.vectors.receipt_cases import receipt_cases
from tests.vectors.setting import ADDRESS, DEVICE, GATEWAY, NETWORK, ROLES, TOKEN, Case, hexed, key

HERE = Path(__file__).resolve().parent

FILES: dict[str, tuple[str, Callable[[], list[Case]]]] = {
    "digests": ("EIP-712 digests and ids, with the signature of the role named `signer`", digest_cases),
    "signatures": ("which signatures count as the signer's", signature_cases),
    "offers": ("retained offers: canonical form, digest, id, signature, and what is refused", offer_cases),
    "readings": ("usage and earn messages in both encodings; `input` is what they mean", reading_cases),
    "opens": ("open (both forms) and state messages in both encodings", open_cases),
    "closes": ("close messages in both encodings", close_cases),
    "receipts": ("receipts in both encodings; maps are compared as maps, not byte by byte", receipt_cases),
    "pricing": ("registers and prices to charges and carried remainders; earnings to fees", pricing_cases),
    "malformed": (
        "payloads that are refused, whatever the channel",
        malformed_cases,
    ),
}


def build() -> dict[str, str]:
    """Return the text of every vector file by its name."""
    setting = {
        "chainId": NETWORK.chain_id,
        "settlement": hexed(SETTLEMENT_ADDRESS),
        "collector": hexed(COLLECTOR_ADDRESS),
        "gateway": GATEWAY,
        "device": DEVICE,
        "token": {"address": hexed(TOKEN.address), "name": TOKEN.name, "version": TOKEN.version},
        "keys": {role: {"private": hexed(key(role)), "address": hexed(ADDRESS[role])} for role in ROLES},
    }
    files = {}
    for name, (about, cases) in FILES.items():
        content = {"about": about, "setting": setting, "cases": cases()}
        files[f"{name}.json"] = json.dumps(content, indent=1, ensure_ascii=False) + "\n"
    return files


def main() -> None:
    """Write the files beside this one."""
    for name, text in build().items():
        (HERE / name).write_text(text, encoding="utf-8")
        print(f"{name}: {len(json.loads(text)['cases'])} cases, {len(text)} bytes")


if __name__ == "__main__":
    main()
