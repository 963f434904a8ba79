//! State of recent blocks: the latest state seen through the undo records of the blocks after it.

use crate::state::{Diff, Info, Slot, State};
use alloy_primitives::{Address, B256, U256};
use revm::bytecode::Bytecode;
use std::{collections::VecDeque, sync::Arc};

/// geth keeps the state of as many blocks.
pub const WINDOW_BLOCKS: usize = 128;
/// Entries of all undo records together: about 100 bytes each.
pub const WINDOW_ENTRIES: usize = 1_000_000;

/// Undo records of the last blocks, the newest at the back.
#[derive(Clone, Default)]
pub struct Undos {
    /// The block that the record leads back from, and the values before it.
    records: VecDeque<(u64, Arc<Diff>)>,
    entries: usize,
}

impl Undos {
    pub fn push(&mut self, number: u64, undo: Diff) {
        self.entries += undo.len();
        self.records.push_back((number, Arc::new(undo)));
        while self.records.len() > WINDOW_BLOCKS || (self.entries > WINDOW_ENTRIES && self.records.len() > 1) {
            if let Some((_, old)) = self.records.pop_front() {
                self.entries -= old.len();
            }
        }
    }

    /// The records that lead from the head (of this number) back to a block; None if it is too old.
    fn back_to(&self, number: u64, head: u64) -> Option<Vec<&Diff>> {
        let records: Vec<&Diff> =
            self.records.iter().filter(|(at, _)| *at > number).map(|(_, undo)| undo.as_ref()).collect();
        (records.len() as u64 == head - number).then_some(records)
    }
}

/// The state after one block.
pub struct View<'a> {
    state: &'a State,
    /// Oldest first: the first record that names a key holds its value at the block.
    undos: Vec<&'a Diff>,
}

impl<'a> View<'a> {
    /// None if the block is older than what is kept.
    pub fn at(state: &'a State, undos: &'a Undos, number: u64, head: u64) -> Option<Self> {
        Some(Self { state, undos: undos.back_to(number, head)? })
    }

    pub fn info(&self, address: &Address) -> Option<Info> {
        match self.undos.iter().find_map(|undo| undo.infos.get(address)) {
            Some(info) => *info,
            None => self.state.info(address),
        }
    }

    pub fn slot(&self, slot: &Slot) -> U256 {
        match self.undos.iter().find_map(|undo| undo.slots.get(slot)) {
            Some(value) => *value,
            None => self.state.slot(slot),
        }
    }

    pub fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.state.code(hash).cloned()
    }
}
