//! Signers of many digests at once, for a process that verifies signatures by the thousand.
//!
//! The lock of the interpreter is given up once for all of them: a thread that takes it back after each signature
//! waits for the others longer than a signature takes.

use crate::ecrecover::{HALF_ORDER, recover_address};
use alloy_primitives::{Address, B256, U256};
use pyo3::{prelude::*, pybacked::PyBackedBytes, types::PyBytes};

/// The signer of a digest, or None for a signature that contracts refuse: not 65 bytes r, s, v, a v other than 27 and 28,
/// an s above half of the order, or no point of the curve.
pub fn signer(digest: &[u8], signature: &[u8]) -> Option<Address> {
    let digest = B256::try_from(digest).ok()?;
    let signature: &[u8; 65] = signature.try_into().ok()?;
    let (rs, v) = (signature.first_chunk::<64>()?, signature[64]);
    if !matches!(v, 27 | 28) || U256::from_be_slice(&rs[32..]) > HALF_ORDER {
        return None;
    }
    recover_address(&digest, rs, v - 27)
}

/// Returns each pair's signer, 20 bytes, or None: (digest, signature), see `signer`.
#[pyfunction]
pub fn recover_signers<'py>(
    py: Python<'py>,
    signed: Vec<(PyBackedBytes, PyBackedBytes)>,
) -> Vec<Option<Bound<'py, PyBytes>>> {
    let signers: Vec<Option<Address>> =
        py.detach(|| signed.iter().map(|(digest, signature)| signer(digest, signature)).collect());
    signers.into_iter().map(|signer| signer.map(|address| PyBytes::new(py, address.as_slice()))).collect()
}
