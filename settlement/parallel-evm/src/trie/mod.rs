//! A Merkle Patricia trie over hashed 32-byte keys, kept in memory with cached node hashes.
//!
//! Only the nodes above changed leaves are hashed again, and the sixteen subtries under the root are
//! independent, so that several threads can update one trie. Updates are applied in the order of their keys, so
//! that a node is visited once, and a subtrie that did not exist is built from its leaves up.

mod encode;

use alloy_primitives::{B256, keccak256_uncached};
use encode::Reference;

#[derive(Clone, Debug)]
enum Node {
    Leaf { key: B256, value: Box<[u8]>, cached: Option<Reference> },
    Extension { nibbles: Box<[u8]>, child: Box<Node>, cached: Option<Reference> },
    Branch { children: Box<Children>, cached: Option<Reference> },
}

impl Node {
    /// What `hash_up` has computed.
    fn reference(&self) -> &Reference {
        let (Self::Leaf { cached, .. } | Self::Extension { cached, .. } | Self::Branch { cached, .. }) = self;
        cached.as_ref().expect("hashed before its parent")
    }
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
    /// Applies updates and returns the new root; of two with one key the later counts. `threads` bounds the
    /// parallelism.
    pub fn update(&mut self, updates: Vec<Update>, threads: usize) -> B256 {
        let many = updates.len() >= PARALLEL_UPDATES_MIN && threads > 1;
        let mut parts: [Vec<Update>; 16] = Default::default();
        if many {
            parts.iter_mut().for_each(|part| part.reserve(updates.len() / 12));
        }
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

    /// The root hash; every child has been hashed up.
    fn root(&self) -> B256 {
        let mut out = Vec::with_capacity(NODE_BYTES_MAX);
        match self.children.iter().flatten().count() {
            0 => return EMPTY_ROOT,
            1 => encode_lone_child(&mut out, &self.children),
            _ => encode::branch(&mut out, &self.children),
        }
        keccak256_uncached(out)
    }

    pub fn is_empty(&self) -> bool {
        self.children.iter().all(Option::is_none)
    }
}

/// A branch of sixteen hashes takes 532 bytes; a leaf as many as its value and 40.
const NODE_BYTES_MAX: usize = 600;

fn update_child(child: &mut Child, part: &mut Vec<Update>) {
    if part.is_empty() {
        return;
    }
    part.sort_by_key(|(key, _)| *key);
    part.dedup_by(|later, kept| {
        let same = later.0 == kept.0;
        if same {
            std::mem::swap(&mut later.1, &mut kept.1);
        }
        same
    });
    apply(child, 1, part);
    if let Some(node) = child {
        hash_up(node, 1, &mut Vec::with_capacity(NODE_BYTES_MAX));
    }
}

/// Applies updates, sorted and each key once, to what is at `place`.
fn apply(place: &mut Child, depth: usize, mut updates: &mut [Update]) {
    loop {
        match (place.as_deref_mut(), updates) {
            (_, []) => return,
            (None, updates) => {
                let mut leaves: Vec<_> =
                    updates.iter_mut().filter_map(|(key, value)| Some((*key, value.take()?))).collect();
                *place = build(depth, &mut leaves);
                return;
            }
            (Some(Node::Branch { children, cached }), several @ [_, _, ..]) => {
                *cached = None;
                for part in several.chunk_by_mut(|(a, _), (b, _)| nibble(a, depth) == nibble(b, depth)) {
                    apply(&mut children[nibble(&part[0].0, depth) as usize], depth + 1, part);
                }
                collapse(place);
                return;
            }
            (_, [(key, value), rest @ ..]) => {
                match value.take() {
                    Some(value) => insert(place, depth, *key, value),
                    None => remove(place, depth, key),
                }
                updates = rest;
            }
        }
    }
}

/// A subtrie of these leaves, which are sorted by key.
fn build(depth: usize, leaves: &mut [(B256, Box<[u8]>)]) -> Child {
    let (first, last) = match leaves {
        [] => return None,
        [(key, value)] => return Some(leaf(*key, std::mem::take(value))),
        [(first, _), .., (last, _)] => (*first, *last),
    };
    let mut fork = depth;
    while nibble(&first, fork) == nibble(&last, fork) {
        fork += 1;
    }
    let mut children: Box<Children> = Default::default();
    for part in leaves.chunk_by_mut(|(a, _), (b, _)| nibble(a, fork) == nibble(b, fork)) {
        children[nibble(&part[0].0, fork) as usize] = build(fork + 1, part);
    }
    Some(extend((depth..fork).map(|at| nibble(&first, at)).collect(), branch(children)))
}

/// With one child the root is that child, one nibble longer.
fn encode_lone_child(out: &mut Vec<u8>, children: &Children) {
    for (index, child) in children.iter().enumerate() {
        match child.as_deref() {
            None => {}
            Some(Node::Leaf { key, value, .. }) => encode::leaf(out, key, 0, value),
            Some(Node::Extension { nibbles, child, .. }) => {
                let longer: Vec<u8> = std::iter::once(index as u8).chain(nibbles.iter().copied()).collect();
                encode::extension(out, &longer, child.reference());
            }
            Some(node) => encode::extension(out, &[index as u8], node.reference()),
        }
    }
}

/// The path at `depth` (0 to 63).
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

/// A branch with one child becomes that child; one with none is none.
fn collapse(place: &mut Child) {
    let Some(Node::Branch { children, .. }) = place.as_deref_mut() else { return };
    let mut held = children.iter_mut().enumerate().filter(|(_, child)| child.is_some());
    match (held.next(), held.next()) {
        (None, _) => *place = None,
        (Some((index, only)), None) => {
            let node = only.take();
            *place = node.map(|node| extend(Box::new([index as u8]), node));
        }
        _ => {}
    }
}

/// Hashes what has no cached reference, from the leaves up to `node` itself. `scratch` takes one encoding at a time.
fn hash_up(node: &mut Node, depth: usize, scratch: &mut Vec<u8>) {
    let cached = match node {
        Node::Leaf { cached: Some(_), .. }
        | Node::Extension { cached: Some(_), .. }
        | Node::Branch { cached: Some(_), .. } => return,
        Node::Leaf { key, value, cached } => {
            encode::leaf(scratch, key, depth, value);
            cached
        }
        Node::Extension { nibbles, child, cached } => {
            hash_up(child, depth + nibbles.len(), scratch);
            encode::extension(scratch, nibbles, child.reference());
            cached
        }
        Node::Branch { children, cached } => {
            children.iter_mut().flatten().for_each(|child| hash_up(child, depth + 1, scratch));
            encode::branch(scratch, children);
            cached
        }
    };
    *cached = Some(Reference::of(scratch));
}

#[cfg(test)]
mod tests {
    use super::*;
    use alloy_primitives::keccak256;
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
        key[at + 1] = random.next() as u8 & 0x11;
        key[31] = random.next() as u8 & 0x13;
        key
    }

    #[test]
    fn equals_the_reference_after_every_step() {
        for seed in 1..=40u64 {
            let mut random = Random(seed * 0x9e37_79b9);
            let (mut trie, mut model) = (Trie::default(), BTreeMap::new());
            for step in 0..120 {
                let many = if random.next().is_multiple_of(8) { 150 } else { 4 };
                let updates: Vec<Update> = (0..random.next() % many + 1)
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
