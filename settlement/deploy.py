"""What a public chain needs once, by transactions: our CumulativePayouts, and the treasury's approval of it."""

from channels.types import U256_MAX, Address
from settlement.calls import approve
from settlement.contracts import artifact
from settlement.errors import ChainMisbehaved
from settlement.port import ExecutionLayer, Revert
from settlement.sender import Sender


class DeploymentFailed(Exception):
    """A set-up transaction reverted; the message says which and why."""


async def deploy_payouts(layer: ExecutionLayer, sender: Sender) -> Address:
    """Create CumulativePayouts from the sender's account and return its address.

    Raises DeploymentFailed for a revert and ChainMisbehaved when no code is at the address afterwards.
    """
    receipt = await sender.execute(None, artifact("CumulativePayouts").bytecode, "deploy CumulativePayouts")
    if isinstance(receipt, Revert):
        raise DeploymentFailed(f"CumulativePayouts cannot be deployed: {receipt.reason}")
    if not receipt.succeeded:
        raise DeploymentFailed(f"the deployment 0x{receipt.tx_hash.hex()} reverted")
    if receipt.contract_address is None or not await layer.has_code(receipt.contract_address):
        raise ChainMisbehaved("the deployment succeeded and left no contract")
    return receipt.contract_address


async def ensure_allowance(
    layer: ExecutionLayer, treasury: Sender, token: Address, spender: Address, needed: int
) -> bool:
    """Approve `spender` for the treasury's tokens unless it may take `needed` base units already.

    The approval is without bound: the spender is our own contract, which moves tokens only in `pay` and only for
    its caller. Returns whether a transaction was sent. Raises DeploymentFailed when it reverts.
    """
    if await layer.allowance(token, treasury.address, spender) >= needed:
        return False
    receipt = await treasury.execute(token, approve(spender, U256_MAX), "approve CumulativePayouts")
    if isinstance(receipt, Revert):
        raise DeploymentFailed(f"the token refuses the approval: {receipt.reason}")
    if not receipt.succeeded:
        raise DeploymentFailed(f"the approval 0x{receipt.tx_hash.hex()} reverted")
    return True
