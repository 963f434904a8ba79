"""What a public chain needs once: our CumulativePayouts, created by a transaction."""

from channels.types import Address
from settlement.contracts import artifact
from settlement.errors import ChainMisbehaved
from settlement.port import Call, ExecutionLayer, Revert
from settlement.sender import Sender


class DeploymentFailed(Exception):
    """A set-up transaction reverted; the message says which and why."""


async def deploy_payouts(layer: ExecutionLayer, sender: Sender) -> Address:
    """Create CumulativePayouts from the account of the sender's first key and return its address.

    Raises DeploymentFailed for a revert and ChainMisbehaved when no code is at the address afterwards.
    """
    call = Call(sender.addresses[0], None, artifact("CumulativePayouts").bytecode)
    receipt = await sender.execute(call, "deploy CumulativePayouts")
    if isinstance(receipt, Revert):
        raise DeploymentFailed(f"CumulativePayouts cannot be deployed: {receipt.reason}")
    if not receipt.succeeded:
        raise DeploymentFailed(f"the deployment 0x{receipt.tx_hash.hex()} reverted")
    if receipt.contract_address is None or not await layer.has_code(receipt.contract_address):
        raise ChainMisbehaved("the deployment succeeded and left no contract")
    return receipt.contract_address
