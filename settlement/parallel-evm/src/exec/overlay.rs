//! The block's own writes above the state, with the fee recipient's earnings as a pending sum.

use crate::state::{Diff, Info, Slot, State, Writes};
use alloy_primitives::{Address, B256, U256};
use revm::bytecode::Bytecode;

/// State as it is between two transactions of a block.
pub struct Overlay<'a> {
    state: &'a State,
    diff: Diff,
    coinbase: Address,
    /// Rewards since the fee recipient's account was last written.
    rewards: U256,
}

impl<'a> Overlay<'a> {
    pub fn new(state: &'a State, coinbase: Address) -> Self {
        Self { state, diff: Diff::default(), coinbase, rewards: U256::ZERO }
    }

    /// Goes on above a difference that already includes all rewards.
    pub fn resume(state: &'a State, diff: Diff, coinbase: Address) -> Self {
        Self { state, diff, coinbase, rewards: U256::ZERO }
    }

    pub fn info(&self, address: &Address) -> Option<Info> {
        let info = match self.diff.infos.get(address) {
            Some(info) => *info,
            None => self.state.info(address),
        };
        if *address == self.coinbase { credited(info, self.rewards) } else { info }
    }

    pub fn slot(&self, slot: &Slot) -> U256 {
        match self.diff.slots.get(slot) {
            Some(value) => *value,
            None => self.state.slot(slot),
        }
    }

    pub fn code(&self, hash: &B256) -> Option<Bytecode> {
        self.diff.codes.get(hash).or_else(|| self.state.code(hash)).cloned()
    }

    /// Adds one transaction's writes and its reward.
    pub fn apply(&mut self, writes: Writes, reward: U256) {
        if writes.infos.iter().any(|(address, _)| *address == self.coinbase) {
            // What it wrote includes the rewards that it saw.
            self.rewards = U256::ZERO;
        }
        self.diff.absorb(writes);
        self.rewards += reward;
    }

    /// The block's difference, rewards paid out.
    pub fn finish(mut self) -> Diff {
        if !self.rewards.is_zero() {
            let info = self.info(&self.coinbase);
            self.diff.infos.insert(self.coinbase, info);
        }
        self.diff
    }
}

/// An account with rewards added; a missing account appears only when there is something to add.
pub fn credited(info: Option<Info>, rewards: U256) -> Option<Info> {
    if rewards.is_zero() {
        return info;
    }
    let mut info = info.unwrap_or_default();
    info.balance = info.balance.saturating_add(rewards);
    Some(info)
}
