//! Snapshots of a chain in memory, for tests.

use super::{Chain, SNAPSHOTS_MAX, Saved, lock};
use crate::error::{Result, RpcError};

impl Chain {
    fn refuse_on_disk(&self, what: &str) -> Result<()> {
        match self.store()? {
            None => Ok(()),
            Some(_) => Err(RpcError::server(format!("{what} is for chains in memory: this one is stored"))),
        }
    }

    /// Saves the chain as it is (the pool aside) and returns the number to come back with.
    pub fn snapshot(&self) -> Result<u64> {
        self.refuse_on_disk("snapshot")?;
        let producer = lock(&self.producer).clone();
        let head = self.head().clone();
        let mut saved = lock(&self.saved);
        let id = saved.last().map_or(1, |last| last.id + 1);
        saved.push(Saved { id, head, producer });
        if saved.len() > SNAPSHOTS_MAX {
            saved.remove(0);
        }
        Ok(id)
    }

    /// Goes back to a snapshot, which is used up with all later ones; the pool is emptied.
    pub fn revert(&self, id: u64) -> Result<()> {
        self.refuse_on_disk("revert")?;
        let mut producer = lock(&self.producer);
        let mut saved = lock(&self.saved);
        let at = saved.iter().position(|saved| saved.id == id);
        let at = at.ok_or_else(|| RpcError::params(format!("snapshot {id} is not held")))?;
        let mut later = saved.split_off(at);
        let back = later.swap_remove(0);
        let mut pool = self.pool();
        let mut head = self.head_mut();
        *producer = back.producer;
        *head = back.head;
        pool.clear();
        Ok(())
    }
}
