"""Tokens that behave as real ones do, some time or other: a fee, a block list, a pause, no answer, a false answer.

Each is the test token's own source with a few lines changed, so that everything else of it works.
"""

from functools import cache

import vyper
from eth_abi.abi import encode
from vyper.compiler.input_bundle import FilesystemInputBundle

from settlement import contracts
from tests.contracts.chain import keccak

HERE = contracts.resources.files(contracts)
FINE, FEE, FALSE, PAUSED = range(4)

_STORAGE = "authorizationState: public(HashMap[address, HashMap[bytes32, bool]])\n"
_MOVES = '    assert receiver != empty(address), "transfer to the zero address"\n    held'
_RISES = "    self.balanceOf[receiver] += amount\n    log Transfer(sender=sender"
_MODES = '''\
mode: public(uint256)
blocked: public(HashMap[address, bool])


@external
def behave(mode: uint256):
    """
    @notice 1 keeps one percent of what is moved, 2 moves nothing and returns false, 3 is paused, 0 is fine again.
    """
    self.mode = mode


@external
def block_holder(holder: address, blocked: bool):
    """
    @notice Neither takes from nor gives to a blocked holder.
    """
    self.blocked[holder] = blocked
'''


def _changed(source: str, *changes: tuple[str, str]) -> str:
    for before, after in changes:
        assert source.count(before) == 1, f"the token's source has another {before!r} now"
        source = source.replace(before, after)
    return source


def _compiled(source: str) -> bytes:
    found = vyper.compile_code(
        source,
        contract_path="TestUSD.vy",
        input_bundle=FilesystemInputBundle([HERE]),
        output_formats=["bytecode_runtime"],
    )
    return bytes.fromhex(found["bytecode_runtime"][2:])


def _source() -> str:
    return HERE.joinpath("TestUSD.vy").read_text(encoding="utf-8")


@cache
def moody() -> bytes:
    """Return the runtime code of a token that `behave` and `block_holder` change."""
    return _compiled(
        _changed(
            _source(),
            (_STORAGE, _STORAGE + _MODES),
            (
                "    self._move(msg.sender, receiver, amount)\n    return True\n",
                "    if self.mode == 2:\n        return False\n"
                "    self._move(msg.sender, receiver, amount)\n    return True\n",
            ),
            (
                "    allowed: uint256 = self.allowance[sender][msg.sender]\n",
                "    if self.mode == 2:\n        return False\n"
                "    allowed: uint256 = self.allowance[sender][msg.sender]\n",
            ),
            (
                _MOVES,
                '    assert self.mode != 3, "paused"\n'
                '    assert not self.blocked[sender] and not self.blocked[receiver], "blocked"\n' + _MOVES,
            ),
            (
                _RISES,
                "    self.balanceOf[receiver] += amount\n"
                "    if self.mode == 1:\n        self.balanceOf[receiver] -= amount // 100\n"
                "    log Transfer(sender=sender",
            ),
        )
    )


@cache
def silent() -> bytes:
    """Return the runtime code of a token whose transfers and approvals return nothing, as some old ones do."""
    source = _changed(_source(), ("implements: IERC20\n", ""), ("from ethereum.ercs import IERC20\n", ""))
    for name in ("transfer(receiver: address", "transferFrom(sender: address", "approve(spender: address"):
        head, tail = source.split(f"def {name}", 1)
        tail = tail.replace(" -> bool:", ":", 1).replace("    return True\n", "", 1)
        source = f"{head}def {name}{tail}"
    return _compiled(source)


def behave(mode: int) -> bytes:
    """Return the call that changes a moody token."""
    return keccak(b"behave(uint256)")[:4] + encode(["uint256"], [mode])


def block(holder: bytes, blocked: bool = True) -> bytes:
    """Return the call that blocks a holder, or lets it go."""
    return keccak(b"block_holder(address,bool)")[:4] + encode(["address", "bool"], ["0x" + holder.hex(), blocked])
