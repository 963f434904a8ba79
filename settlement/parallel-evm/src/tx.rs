//! Signed transactions: bounded decoding, sender recovery, and the form that the EVM executes.

use crate::{
    ecrecover::{HALF_ORDER, recover_address},
    error::{Result, RpcError},
};
use alloy_consensus::{EthereumTxEnvelope, SignableTransaction, Transaction, TxEip4844, Typed2718};
use alloy_eips::eip2718::Decodable2718;
use alloy_primitives::{Address, B256, Bytes, Signature, U256, keccak256};
use alloy_rlp::Encodable;
use revm::context::TxEnv;

pub type Envelope = EthereumTxEnvelope<TxEip4844>;

/// geth's bound on one raw transaction; a 100-row claim takes 45 kB.
pub const RAW_BYTES_MAX: usize = 128 * 1024;
/// A decoded transaction with its sender proved.
#[derive(Clone, Debug)]
pub struct SignedTx {
    pub envelope: Envelope,
    pub hash: B256,
    pub sender: Address,
    /// The EIP-2718 bytes as they were received.
    pub raw: Bytes,
}

impl SignedTx {
    /// Decodes EIP-2718 bytes and recovers the sender.
    ///
    /// Errors: the usual sentences of Ethereum nodes, with code -32000.
    pub fn decode(raw: &[u8], chain_id: u64) -> Result<Self> {
        Self::decode_with(raw, chain_id, &mut Vec::new())
    }

    /// The same with a buffer that is used again: what a claim's signature covers takes 45 kB.
    pub fn decode_with(raw: &[u8], chain_id: u64, scratch: &mut Vec<u8>) -> Result<Self> {
        let mut envelope = decode_envelope(raw)?;
        check_chain(&envelope, chain_id)?;
        let sender = recover_sender(&envelope, scratch)?;
        let raw = Bytes::copy_from_slice(raw);
        share_input(&mut envelope, &raw);
        Ok(Self { envelope, hash: keccak256(&raw), sender, raw })
    }

    /// Rebuilds a transaction whose sender was proved before it was stored.
    pub fn from_stored(raw: Bytes, sender: Address) -> Result<Self> {
        let mut envelope = decode_envelope(&raw)?;
        share_input(&mut envelope, &raw);
        Ok(Self { envelope, hash: keccak256(&raw), sender, raw })
    }

    pub fn nonce(&self) -> u64 {
        self.envelope.nonce()
    }

    pub fn gas_limit(&self) -> u64 {
        self.envelope.gas_limit()
    }

    pub fn fee_cap(&self) -> u128 {
        self.envelope.max_fee_per_gas()
    }

    /// The priority fee offered; the whole price for transactions without one.
    pub fn tip_cap(&self) -> u128 {
        self.envelope.max_priority_fee_per_gas().unwrap_or_else(|| self.envelope.max_fee_per_gas())
    }

    /// What one unit of gas costs the sender in a block of this base fee.
    pub fn effective_price(&self, base_fee: u64) -> u128 {
        self.envelope.effective_gas_price(Some(base_fee))
    }

    /// The most that the sender can be charged; None if it exceeds 256 bits.
    pub fn max_cost(&self) -> Option<U256> {
        let fee = U256::from(self.gas_limit()).checked_mul(U256::from(self.fee_cap()))?;
        fee.checked_add(self.envelope.value())
    }

    /// The form that revm executes.
    pub fn to_env(&self) -> TxEnv {
        let tx = &self.envelope;
        TxEnv {
            tx_type: tx.ty(),
            caller: self.sender,
            gas_limit: tx.gas_limit(),
            gas_price: tx.max_fee_per_gas(),
            kind: tx.kind(),
            value: tx.value(),
            data: tx.input().clone(),
            nonce: tx.nonce(),
            chain_id: tx.chain_id(),
            access_list: tx.access_list().cloned().unwrap_or_default(),
            gas_priority_fee: tx.max_priority_fee_per_gas(),
            blob_hashes: Vec::new(),
            max_fee_per_blob_gas: 0,
            authorization_list: Vec::new(),
        }
    }
}

/// Decodes exactly one envelope of a supported type.
fn decode_envelope(raw: &[u8]) -> Result<Envelope> {
    if raw.len() > RAW_BYTES_MAX {
        return Err(RpcError::server(format!("oversized data: transaction size {}, limit {RAW_BYTES_MAX}", raw.len())));
    }
    match raw.first() {
        None => return Err(RpcError::server("rlp: empty transaction")),
        Some(3) => return Err(RpcError::server("transaction type not supported: blob transactions")),
        Some(4) => return Err(RpcError::server("transaction type not supported: set-code transactions")),
        Some(1 | 2 | 0xc0..) => {}
        Some(_) => return Err(RpcError::server("transaction type not supported")),
    }
    let mut rest = raw;
    let envelope = Envelope::decode_2718(&mut rest)
        .map_err(|error| RpcError::server(format!("rlp: cannot decode the transaction: {error}")))?;
    if !rest.is_empty() {
        return Err(RpcError::server("rlp: bytes after the transaction"));
    }
    Ok(envelope)
}

/// Lets the input of the usual kind of transaction be a part of its raw bytes: blocks are held by the thousand, and
/// input is most of a transaction.
fn share_input(envelope: &mut Envelope, raw: &Bytes) {
    let Envelope::Eip1559(signed) = envelope else { return };
    let signature = signed.signature();
    // What EIP-1559 puts behind the input.
    let behind = signed.tx().access_list.length() + 1 + signature.r().length() + signature.s().length();
    let input = &signed.tx().input;
    let Some(start) = raw.len().checked_sub(behind + input.len()) else { return };
    let shared = raw.slice(start..start + input.len());
    if shared == *input {
        signed.tx_mut().input = shared;
    }
}

fn check_chain(envelope: &Envelope, chain_id: u64) -> Result<()> {
    match envelope.chain_id() {
        Some(id) if id == chain_id => Ok(()),
        Some(id) => Err(RpcError::server(format!("invalid chain id for signer: have {id} want {chain_id}"))),
        None => Err(RpcError::server("only replay-protected (EIP-155) transactions allowed over RPC")),
    }
}

fn recover_sender(envelope: &Envelope, scratch: &mut Vec<u8>) -> Result<Address> {
    let invalid = || RpcError::server("invalid sender: invalid transaction v, r, s values");
    let signature: &Signature = envelope.signature();
    if signature.s() > HALF_ORDER {
        return Err(invalid());
    }
    let mut rs = [0u8; 64];
    rs[..32].copy_from_slice(&signature.r().to_be_bytes::<32>());
    rs[32..].copy_from_slice(&signature.s().to_be_bytes::<32>());
    scratch.clear();
    match envelope {
        Envelope::Legacy(tx) => tx.tx().encode_for_signing(scratch),
        Envelope::Eip2930(tx) => tx.tx().encode_for_signing(scratch),
        Envelope::Eip1559(tx) => tx.tx().encode_for_signing(scratch),
        Envelope::Eip4844(_) | Envelope::Eip7702(_) => return Err(invalid()),
    }
    recover_address(&keccak256(scratch), &rs, u8::from(signature.v())).ok_or_else(invalid)
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_consensus::TxEip1559;
    use alloy_eips::{eip2718::Encodable2718, eip2930::AccessList};
    use alloy_primitives::TxKind;

    /// Short and long values where EIP-1559 puts something behind the input.
    #[test]
    fn input_is_a_part_of_the_raw_bytes() {
        for size in [0, 1, 55, 56, 3_000, 45_000] {
            for (keys, r, s) in
                [(0, U256::ONE, U256::ONE), (1, U256::MAX, HALF_ORDER), (40, U256::from(128), U256::MAX)]
            {
                let access_list = AccessList::from(vec![alloy_eips::eip2930::AccessListItem {
                    address: Address::repeat_byte(7),
                    storage_keys: vec![B256::repeat_byte(size as u8); keys],
                }]);
                let fields = TxEip1559 {
                    chain_id: 1,
                    nonce: 300,
                    to: TxKind::Call(Address::ZERO),
                    access_list: if keys == 0 { AccessList::default() } else { access_list },
                    input: vec![7; size].into(),
                    ..TxEip1559::default()
                };
                let envelope = Envelope::Eip1559(fields.into_signed(Signature::new(r, s, true)));
                let raw: Bytes = envelope.encoded_2718().into();
                let tx = SignedTx::from_stored(raw.clone(), Address::ZERO).unwrap();
                assert_eq!(tx.envelope, envelope);
                let input = tx.envelope.input();
                assert!(size == 0 || raw.as_ptr_range().contains(&input.as_ptr()), "{size} bytes are held twice");
            }
        }
    }
}
