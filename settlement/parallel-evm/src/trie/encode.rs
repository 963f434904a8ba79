//! RLP of trie nodes, written without allocation into a buffer that is used again.

use super::{Child, Children, nibble};
use alloy_primitives::{B256, keccak256_uncached};
use alloy_rlp::{BufMut, EMPTY_STRING_CODE, Encodable, Header};

/// RLP of a node as its parent holds it: the encoding itself below 32 bytes, otherwise its hash.
#[derive(Clone, Debug)]
pub enum Reference {
    Inline(Box<[u8]>),
    Hash(B256),
}

impl Reference {
    pub fn of(encoded: &[u8]) -> Self {
        if encoded.len() < 32 { Self::Inline(encoded.into()) } else { Self::Hash(keccak256_uncached(encoded)) }
    }

    fn length(&self) -> usize {
        match self {
            Self::Inline(encoded) => encoded.len(),
            Self::Hash(_) => 33,
        }
    }

    fn put(&self, out: &mut Vec<u8>) {
        match self {
            Self::Inline(encoded) => out.extend_from_slice(encoded),
            Self::Hash(hash) => hash.encode(out),
        }
    }
}

/// A branch without a value; its children have their references.
pub fn branch(out: &mut Vec<u8>, children: &Children) {
    let length = |child: &Child| child.as_ref().map_or(1, |node| node.reference().length());
    begin(out, children.iter().map(length).sum::<usize>() + 1);
    for child in children {
        match child {
            Some(node) => node.reference().put(out),
            None => out.put_u8(EMPTY_STRING_CODE),
        }
    }
    out.put_u8(EMPTY_STRING_CODE);
}

/// A leaf whose path begins at nibble `depth` of its key.
pub fn leaf(out: &mut Vec<u8>, key: &B256, depth: usize, value: &[u8]) {
    let nibbles = 64 - depth;
    begin(out, path_length(nibbles) + value.length());
    put_path_head(out, nibbles, 0x20, nibble(key, depth.min(63)));
    out.extend_from_slice(&key[depth.div_ceil(2)..]);
    value.encode(out);
}

pub fn extension(out: &mut Vec<u8>, nibbles: &[u8], child: &Reference) {
    begin(out, path_length(nibbles.len()) + child.length());
    put_path_head(out, nibbles.len(), 0, nibbles[0]);
    let pairs = &nibbles[nibbles.len() % 2..];
    out.extend(pairs.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    child.put(out);
}

fn begin(out: &mut Vec<u8>, payload_length: usize) {
    out.clear();
    Header { list: true, payload_length }.encode(out);
}

/// Bytes of a path in RLP: half as many as nibbles and the flag; a single one stands for itself.
fn path_length(nibbles: usize) -> usize {
    let bytes = nibbles / 2 + 1;
    if bytes == 1 { 1 } else { bytes + 1 }
}

/// Hex-prefix encoding of the yellow paper, appendix C: the length, and the byte that carries flags and odd nibble.
fn put_path_head(out: &mut Vec<u8>, nibbles: usize, flag: u8, first: u8) {
    if nibbles > 1 {
        out.put_u8(EMPTY_STRING_CODE + (nibbles / 2 + 1) as u8);
    }
    out.put_u8(if nibbles % 2 == 1 { flag | 0x10 | first } else { flag });
}
