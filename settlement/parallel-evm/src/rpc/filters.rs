//! Installed filters: each remembers how far its owner has read.

use super::{
    logs::{self, Criteria, Scope},
    params::{BlockId, Params},
    render,
};
use crate::{
    chain::{Chain, lock},
    error::{Result, RpcError},
};
use serde_json::{Value, json};
use std::{
    collections::BTreeMap,
    sync::Mutex,
    time::{Duration, Instant},
};

/// More than any gateway needs; the one unused for longest makes place.
const FILTERS_MAX: usize = 1_024;
/// geth's time without a poll after which a filter is dropped.
const IDLE_MAX: Duration = Duration::from_secs(300);

enum Kind {
    Logs { criteria: Criteria, from: BlockId, to: BlockId },
    Blocks,
    Pending,
}

struct Filter {
    kind: Kind,
    /// The next block (or arrival of a pending transaction) that was not reported.
    next: u64,
    used: Instant,
}

#[derive(Default)]
struct Installed {
    filters: BTreeMap<u64, Filter>,
    last_id: u64,
}

/// The filters of one chain's clients.
#[derive(Default)]
pub struct Filters(Mutex<Installed>);

impl Filters {
    fn install(&self, kind: Kind, next: u64) -> Value {
        let mut installed = lock(&self.0);
        installed.filters.retain(|_, filter| filter.used.elapsed() < IDLE_MAX);
        if installed.filters.len() >= FILTERS_MAX {
            let idle = installed.filters.iter().min_by_key(|(_, filter)| filter.used).map(|(id, _)| *id);
            idle.and_then(|id| installed.filters.remove(&id));
        }
        installed.last_id += 1;
        let id = installed.last_id;
        installed.filters.insert(id, Filter { kind, next, used: Instant::now() });
        render::quantity(id)
    }
}

fn missing() -> RpcError {
    RpcError::server("filter not found")
}

pub fn new_log(chain: &Chain, filters: &Filters, params: Params) -> Result<Value> {
    let (criteria, scope) = logs::parse(&params)?;
    let Scope::Range(from, to) = scope else {
        return Err(RpcError::params("a filter takes a range of blocks, not a block hash"));
    };
    let next = chain.head().blocks.latest().number() + 1;
    Ok(filters.install(Kind::Logs { criteria, from, to }, next))
}

pub fn new_block(chain: &Chain, filters: &Filters) -> Result<Value> {
    let next = chain.head().blocks.latest().number() + 1;
    Ok(filters.install(Kind::Blocks, next))
}

pub fn new_pending(chain: &Chain, filters: &Filters) -> Result<Value> {
    let next = chain.pool().arrived();
    Ok(filters.install(Kind::Pending, next))
}

pub fn uninstall(filters: &Filters, params: Params) -> Result<Value> {
    let id = params.number(0)?;
    Ok(json!(lock(&filters.0).filters.remove(&id).is_some()))
}

pub fn all_logs(chain: &Chain, filters: &Filters, params: Params) -> Result<Value> {
    let id = params.number(0)?;
    let mut installed = lock(&filters.0);
    let filter = installed.filters.get_mut(&id).ok_or_else(missing)?;
    filter.used = Instant::now();
    let Kind::Logs { criteria, from, to } = &filter.kind else {
        return Err(RpcError::params("not a log filter"));
    };
    let (criteria, scope) = (criteria.clone(), Scope::Range(*from, *to));
    drop(installed);
    logs::find(chain, &criteria, scope).map(Value::Array)
}

pub fn changes(chain: &Chain, filters: &Filters, params: Params) -> Result<Value> {
    let id = params.number(0)?;
    // The pool before the filters, as everywhere: a filter never holds up the pool.
    let pool = chain.pool();
    let mut installed = lock(&filters.0);
    let filter = installed.filters.get_mut(&id).ok_or_else(missing)?;
    filter.used = Instant::now();
    if matches!(filter.kind, Kind::Pending) {
        let hashes = pool.arrived_since(filter.next);
        filter.next = pool.arrived();
        return Ok(hashes.iter().map(|hash| render::bytes(hash.as_slice())).collect());
    }
    drop(pool);
    let head = chain.head();
    let latest = head.blocks.latest().number();
    // A chain that was set back starts the filter again at its head.
    let first = filter.next.min(latest + 1).max(head.blocks.oldest_number());
    let mut out = Vec::new();
    for number in first..=latest {
        let Some(block) = head.blocks.get(number) else { continue };
        match &filter.kind {
            Kind::Logs { criteria, from, to } => {
                let after = !matches!(from, BlockId::Number(from) if number < *from);
                let before = !matches!(to, BlockId::Number(to) if number > *to);
                if after && before {
                    criteria.collect(block, &mut out)?;
                }
            }
            _ => out.push(render::bytes(block.hash.as_slice())),
        }
    }
    filter.next = latest + 1;
    Ok(Value::Array(out))
}
