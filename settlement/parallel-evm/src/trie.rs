//! A Merkle Patricia trie over hashed 32-byte keys, kept in memory with cached node hashes.
//!
//! Only the nodes above changed leaves are hashed again, and the sixteen subtries under the root are
//! independent, so that several threads can update one trie.

use alloy_primitives::{B256, keccak256};
use alloy_rlp::{BufMut, Encodable, Header};

/// RLP of a node as its parent holds it: the encoding itself below 32 bytes, otherwise its hash.
#[derive(Clone, Debug)]
enum Reference {
    Inline(Box<[u8]>),
    Hash(B256),
}

#[derive(Clone, Debug)]
enum Node {
    Leaf { key: B256, value: Box<[u8]>, cached: Option<Reference> },
    Extension { nibbles: Box<[u8]>, child: Box<Node>, cached: Option<Reference> },
    Branch { children: Box<Children>, cached: Option<Reference> },
}

/// Boxed, so that the many empty places of a branch cost a pointer each.
type Child = Option<Box<Node>>;
type Children = [Child; 16];

fn leaf(key: B256, value: Box<[u8]>) -> Box<Node> {
    Box::new(Node::Leaf { key, value, cached: None })
}

fn branch(children: Box<Children>) -> Box<Node> {
    Box::new(Node::Branch { children, cached: None })
}

/// A new value of a hashed key; None removes it.
pub type Update = (B256, Option<Box<[u8]>>);

/// keccak256(rlp("")): the root of the empty trie.
pub const EMPTY_ROOT: B256 = alloy_trie::EMPTY_ROOT_HASH;

/// The trie: the root's sixteen children, each None or a node at depth 1.
#[derive(Clone, Debug, Default)]
pub struct Trie {
    children: Children,
}

/// Fewer updates than this are not worth a thread.
const PARALLEL_UPDATES_MIN: usize = 256;

impl Trie {
    /// Applies updates and returns the new root. `threads` bounds the parallelism.
    pub fn update(&mut self, updates: Vec<Update>, threads: usize) -> B256 {
        let many = updates.len() >= PARALLEL_UPDATES_MIN && threads > 1;
        let mut parts: [Vec<Update>; 16] = Default::default();
        for update in updates {
            parts[nibble(&update.0, 0) as usize].push(update);
        }
        let mut work: Vec<(&mut Child, Vec<Update>)> = self.children.iter_mut().zip(parts).collect();
        if many {
            let share = work.len().div_ceil(threads.min(16));
            std::thread::scope(|scope| {
                for slice in work.chunks_mut(share) {
                    scope.spawn(move || slice.iter_mut().for_each(|(child, part)| update_child(child, part)));
                }
            });
        } else {
            work.iter_mut().for_each(|(child, part)| update_child(child, part));
        }
        self.root()
    }

    /// The root hash of what is held.
    pub fn root(&mut self) -> B256 {
        let held = self.children.iter().filter(|child| child.is_some()).count();
        let encoded = match held {
            0 => return EMPTY_ROOT,
            1 => encode_lone_child(&mut self.children),
            _ => encode_branch(&mut self.children, 0),
        };
        keccak256(encoded)
    }

    pub fn is_empty(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }
}

fn update_child(child: &mut Child, part: &mut Vec<Update>) {
    if part.is_empty() {
        return;
    }
    for (key, value) in part.drain(..) {
        match value {
            Some(value) => insert(child, 1, key, value),
            None => remove(child, 1, &key),
        }
    }
    if let Some(node) = child {
        reference(node, 1);
    }
}

/// With one child the root is that child, one nibble longer.
fn encode_lone_child(children: &mut Children) -> Vec<u8> {
    for (index, child) in children.iter_mut().enumerate() {
        match child.as_deref_mut() {
            None => {}
            Some(Node::Leaf { key, value, .. }) => return encode_leaf(key, 0, value),
            Some(Node::Extension { nibbles, child, .. }) => {
                let longer: Vec<u8> = std::iter::once(index as u8).chain(nibbles.iter().copied()).collect();
                let below = 1 + nibbles.len();
                return encode_extension(&longer, reference(child, below));
            }
            Some(node) => return encode_extension(&[index as u8], reference(node, 1)),
        }
    }
    unreachable!("called with exactly one child")
}

fn nibble(key: &B256, depth: usize) -> u8 {
    let byte = key[depth / 2];
    if depth.is_multiple_of(2) { byte >> 4 } else { byte & 15 }
}

fn insert(place: &mut Child, depth: usize, key: B256, value: Box<[u8]>) {
    let Some(node) = place.as_deref_mut() else {
        *place = Some(leaf(key, value));
        return;
    };
    match node {
        Node::Leaf { key: other, value: held, cached } if *other == key => {
            *held = value;
            *cached = None;
        }
        Node::Leaf { key: other, cached, .. } => {
            let other = *other;
            *cached = None;
            let mut fork = depth;
            while nibble(&other, fork) == nibble(&key, fork) {
                fork += 1;
            }
            let mut children: Box<Children> = Default::default();
            children[nibble(&other, fork) as usize] = place.take();
            children[nibble(&key, fork) as usize] = Some(leaf(key, value));
            *place = Some(extend((depth..fork).map(|at| nibble(&key, at)).collect(), branch(children)));
        }
        Node::Branch { children, cached } => {
            *cached = None;
            insert(&mut children[nibble(&key, depth) as usize], depth + 1, key, value);
        }
        Node::Extension { nibbles, child, cached } => {
            let shared = nibbles.iter().enumerate().take_while(|(at, held)| nibble(&key, depth + at) == **held).count();
            if shared == nibbles.len() {
                *cached = None;
                insert_below(child, depth + shared, key, value);
                return;
            }
            let Some(Node::Extension { nibbles, child, .. }) = place.take().map(|node| *node) else { return };
            let mut children: Box<Children> = Default::default();
            children[nibbles[shared] as usize] = Some(extend(nibbles[shared + 1..].into(), child));
            children[nibble(&key, depth + shared) as usize] = Some(leaf(key, value));
            *place = Some(extend(nibbles[..shared].into(), branch(children)));
        }
    }
}

/// The child of an extension is a branch.
fn insert_below(child: &mut Box<Node>, depth: usize, key: B256, value: Box<[u8]>) {
    if let Node::Branch { children, cached } = child.as_mut() {
        *cached = None;
        insert(&mut children[nibble(&key, depth) as usize], depth + 1, key, value);
    }
}

/// Puts an extension above a branch; merges with what needs none.
fn extend(nibbles: Box<[u8]>, mut node: Box<Node>) -> Box<Node> {
    if nibbles.is_empty() {
        return node;
    }
    match node.as_mut() {
        Node::Extension { nibbles: inner, cached, .. } => {
            *inner = nibbles.iter().chain(inner.iter()).copied().collect();
            *cached = None;
            node
        }
        // The leaf keeps its whole key, so only its cached encoding depends on the depth.
        Node::Leaf { cached, .. } => {
            *cached = None;
            node
        }
        Node::Branch { .. } => Box::new(Node::Extension { nibbles, child: node, cached: None }),
    }
}

fn remove(place: &mut Child, depth: usize, key: &B256) {
    match place.as_deref_mut() {
        None => {}
        Some(Node::Leaf { key: held, .. }) if held == key => *place = None,
        Some(Node::Leaf { .. }) => {}
        Some(Node::Branch { children, cached }) => {
            *cached = None;
            remove(&mut children[nibble(key, depth) as usize], depth + 1, key);
            collapse(place);
        }
        Some(Node::Extension { nibbles, .. }) => {
            let follows = nibbles.iter().enumerate().all(|(at, held)| nibble(key, depth + at) == *held);
            if !follows {
                return;
            }
            let below = depth + nibbles.len();
            let Some(Node::Extension { nibbles, child, .. }) = place.take().map(|node| *node) else { return };
            let mut inner = Some(child);
            remove(&mut inner, below, key);
            *place = inner.map(|node| extend(nibbles, node));
        }
    }
}

/// A branch with one child becomes that child.
fn collapse(place: &mut Child) {
    let Some(Node::Branch { children, .. }) = place.as_deref_mut() else { return };
    let mut held = children.iter_mut().enumerate().filter(|(_, child)| child.is_some());
    let (Some((index, only)), None) = (held.next(), held.next()) else { return };
    let node = only.take();
    *place = node.map(|node| extend(Box::new([index as u8]), node));
}

/// The node's encoding as its parent holds it; hashes what is not cached.
fn reference(node: &mut Node, depth: usize) -> &Reference {
    let fresh = match node {
        Node::Leaf { cached: Some(_), .. }
        | Node::Extension { cached: Some(_), .. }
        | Node::Branch { cached: Some(_), .. } => None,
        Node::Leaf { key, value, .. } => Some(encode_leaf(key, depth, value)),
        Node::Extension { nibbles, child, .. } => {
            Some(encode_extension(nibbles, reference(child, depth + nibbles.len())))
        }
        Node::Branch { children, .. } => Some(encode_branch(children, depth)),
    };
    let (Node::Leaf { cached, .. } | Node::Extension { cached, .. } | Node::Branch { cached, .. }) = node;
    if let Some(encoded) = fresh {
        *cached = Some(if encoded.len() < 32 {
            Reference::Inline(encoded.into_boxed_slice())
        } else {
            Reference::Hash(keccak256(&encoded))
        });
    }
    cached.as_ref().expect("just computed")
}

fn put_reference(out: &mut Vec<u8>, reference: &Reference) {
    match reference {
        Reference::Inline(encoded) => out.extend_from_slice(encoded),
        Reference::Hash(hash) => hash.encode(out),
    }
}

fn encode_branch(children: &mut Children, depth: usize) -> Vec<u8> {
    let mut payload = Vec::with_capacity(16 * 33 + 1);
    for child in children.iter_mut() {
        match child {
            None => payload.put_u8(alloy_rlp::EMPTY_STRING_CODE),
            Some(node) => put_reference(&mut payload, reference(node, depth + 1)),
        }
    }
    payload.put_u8(alloy_rlp::EMPTY_STRING_CODE);
    as_list(payload)
}

fn encode_leaf(key: &B256, depth: usize, value: &[u8]) -> Vec<u8> {
    let nibbles: Vec<u8> = (depth..64).map(|at| nibble(key, at)).collect();
    let mut payload = Vec::with_capacity(value.len() + 40);
    compact(&nibbles, true).as_slice().encode(&mut payload);
    value.encode(&mut payload);
    as_list(payload)
}

fn encode_extension(nibbles: &[u8], child: &Reference) -> Vec<u8> {
    let mut payload = Vec::with_capacity(68);
    compact(nibbles, false).as_slice().encode(&mut payload);
    put_reference(&mut payload, child);
    as_list(payload)
}

/// Hex-prefix encoding of the yellow paper, appendix C.
fn compact(nibbles: &[u8], leaf: bool) -> Vec<u8> {
    let flag = if leaf { 2u8 } else { 0 };
    let mut out = Vec::with_capacity(nibbles.len() / 2 + 1);
    let rest = if nibbles.len() % 2 == 1 {
        out.push((flag + 1) << 4 | nibbles[0]);
        &nibbles[1..]
    } else {
        out.push(flag << 4);
        nibbles
    };
    out.extend(rest.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    out
}

fn as_list(payload: Vec<u8>) -> Vec<u8> {
    let mut out = Vec::with_capacity(payload.len() + 3);
    Header { list: true, payload_length: payload.len() }.encode(&mut out);
    out.extend_from_slice(&payload);
    out
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_trie::root::state_root;
    use std::collections::BTreeMap;

    /// xorshift: seeded and without dependencies.
    struct Random(u64);

    impl Random {
        fn next(&mut self) -> u64 {
            self.0 ^= self.0 << 13;
            self.0 ^= self.0 >> 7;
            self.0 ^= self.0 << 17;
            self.0
        }
    }

    fn oracle(model: &BTreeMap<B256, Box<[u8]>>) -> B256 {
        let mut builder = alloy_trie::HashBuilder::default();
        for (key, value) in model {
            builder.add_leaf(alloy_trie::Nibbles::unpack(key), value);
        }
        builder.root()
    }

    /// Keys that share long prefixes, so that extensions split and merge.
    fn key(random: &mut Random) -> B256 {
        let mut key = B256::repeat_byte((random.next() % 3) as u8 * 0x11);
        let at = (random.next() % 3 * 15) as usize;
        key[at] = random.next() as u8 & 0x33;
        key[31] = random.next() as u8 & 0x13;
        key
    }

    #[test]
    fn equals_the_reference_after_every_step() {
        for seed in 1..=40u64 {
            let mut random = Random(seed * 0x9e37_79b9);
            let (mut trie, mut model) = (Trie::default(), BTreeMap::new());
            for step in 0..120 {
                let updates: Vec<Update> = (0..random.next() % 4 + 1)
                    .map(|_| {
                        let value = (!random.next().is_multiple_of(3))
                            .then(|| vec![7u8; (random.next() % 40 + 1) as usize].into_boxed_slice());
                        (key(&mut random), value)
                    })
                    .collect();
                for (key, value) in &updates {
                    match value {
                        Some(value) => model.insert(*key, value.clone()),
                        None => model.remove(key),
                    };
                }
                let root = trie.update(updates, 1);
                assert_eq!(root, oracle(&model), "seed {seed} step {step}");
            }
            let emptied = model.keys().map(|key| (*key, None)).collect();
            assert_eq!(trie.update(emptied, 4), EMPTY_ROOT);
            assert!(trie.is_empty());
        }
    }

    #[test]
    fn threads_do_not_change_the_root() {
        let updates: Vec<Update> = (0..5_000u32)
            .map(|n| (keccak256(n.to_be_bytes()), Some(n.to_be_bytes().to_vec().into_boxed_slice())))
            .collect();
        let roots: Vec<B256> = [1, 2, 3, 8].iter().map(|t| Trie::default().update(updates.clone(), *t)).collect();
        assert!(roots.iter().all(|root| *root == roots[0]));
        assert_ne!(roots[0], state_root(Vec::<(B256, alloy_trie::TrieAccount)>::new()));
    }
}
