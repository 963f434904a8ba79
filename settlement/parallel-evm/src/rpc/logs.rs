//! eth_getLogs: the bloom of each block first, then its logs.

use super::{
    params::{self, BlockId, Params, pruned},
    render,
};
use crate::{
    block::Block,
    chain::{Chain, Head},
    error::{Result, RpcError},
};
use alloy_primitives::{Address, B256, BloomInput, Log};
use serde_json::{Map, Value};

/// What usual nodes allow; a client asks again with a shorter range.
const LOGS_MAX: usize = 10_000;
/// Alternatives of one filter: each costs a look at every log.
const ADDRESSES_MAX: usize = 1_000;
const TOPICS_MAX: usize = 1_000;

/// Which logs are wanted.
#[derive(Clone, Debug, Default)]
pub struct Criteria {
    /// Empty: any.
    addresses: Vec<Address>,
    /// Per position the alternatives; empty: any.
    topics: Vec<Vec<B256>>,
}

/// Where they are looked for.
#[derive(Clone, Copy, Debug)]
pub enum Scope {
    Range(BlockId, BlockId),
    Block(B256),
}

impl Criteria {
    pub fn parse(object: &Map<String, Value>) -> Result<Self> {
        let addresses = match object.get("address") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.len() <= ADDRESSES_MAX => {
                list.iter().map(params::address).collect::<Result<_>>()?
            }
            Some(Value::Array(_)) => return Err(RpcError::limit(format!("at most {ADDRESSES_MAX} addresses"))),
            Some(single) => vec![params::address(single)?],
        };
        let topics = match object.get("topics") {
            None | Some(Value::Null) => Vec::new(),
            Some(Value::Array(list)) if list.len() <= 4 => list.iter().map(alternatives).collect::<Result<_>>()?,
            Some(_) => return Err(RpcError::params("topics must be an array of at most 4")),
        };
        Ok(Self { addresses, topics })
    }

    fn matches(&self, log: &Log) -> bool {
        let topics = log.data.topics();
        (self.addresses.is_empty() || self.addresses.contains(&log.address))
            && self.topics.len() <= topics.len()
            && self.topics.iter().zip(topics).all(|(wanted, topic)| wanted.is_empty() || wanted.contains(topic))
    }

    fn may_be_in(&self, block: &Block) -> bool {
        let bloom = &block.header.logs_bloom;
        let holds = |raw: &[u8]| bloom.contains_input(BloomInput::Raw(raw));
        (self.addresses.is_empty() || self.addresses.iter().any(|address| holds(address.as_slice())))
            && self.topics.iter().all(|wanted| wanted.is_empty() || wanted.iter().any(|topic| holds(topic.as_slice())))
    }

    /// Adds a block's matching logs. Errors when there are too many.
    pub fn collect(&self, block: &Block, out: &mut Vec<Value>) -> Result<()> {
        if !self.may_be_in(block) {
            return Ok(());
        }
        for (index, receipt) in block.receipts.iter().enumerate() {
            for (at, log) in receipt.logs.iter().enumerate() {
                if self.matches(log) {
                    if out.len() >= LOGS_MAX {
                        return Err(RpcError::limit(format!("query returned more than {LOGS_MAX} results")));
                    }
                    out.push(render::log(block, index, at));
                }
            }
        }
        Ok(())
    }
}

fn alternatives(value: &Value) -> Result<Vec<B256>> {
    match value {
        Value::Null => Ok(Vec::new()),
        Value::Array(list) if list.len() > TOPICS_MAX => Err(RpcError::limit(format!("at most {TOPICS_MAX} topics"))),
        // A null among alternatives stands for any.
        Value::Array(list) if list.iter().any(Value::is_null) => Ok(Vec::new()),
        Value::Array(list) => list.iter().map(params::hash).collect(),
        single => Ok(vec![params::hash(single)?]),
    }
}

pub fn parse(params: &Params) -> Result<(Criteria, Scope)> {
    let empty = Map::new();
    let object = match params.get(0) {
        None => &empty,
        Some(value) => value.as_object().ok_or_else(|| RpcError::params("a filter is an object"))?,
    };
    let bound = |key: &str| object.get(key).filter(|value| !value.is_null()).map(params::block_id).transpose();
    let (from, to) = (bound("fromBlock")?, bound("toBlock")?);
    let scope = match object.get("blockHash").filter(|value| !value.is_null()) {
        Some(_) if from.is_some() || to.is_some() => {
            return Err(RpcError::params("cannot specify both BlockHash and FromBlock/ToBlock"));
        }
        Some(value) => Scope::Block(params::hash(value)?),
        None => Scope::Range(from.unwrap_or(BlockId::Latest), to.unwrap_or(BlockId::Latest)),
    };
    Ok((Criteria::parse(object)?, scope))
}

/// The number that a bound of a range stands for.
pub fn bound(head: &Head, id: BlockId) -> Result<u64> {
    match id {
        BlockId::Number(number) => Ok(number),
        other => Ok(other.need(head)?.number()),
    }
}

pub fn get(chain: &Chain, params: Params) -> Result<Value> {
    let (criteria, scope) = parse(&params)?;
    find(chain, &criteria, scope).map(Value::Array)
}

pub fn find(chain: &Chain, criteria: &Criteria, scope: Scope) -> Result<Vec<Value>> {
    let head = chain.head();
    let mut out = Vec::new();
    match scope {
        Scope::Block(hash) => {
            let block = head.blocks.by_hash(&hash).ok_or_else(|| RpcError::server("unknown block"))?;
            criteria.collect(block, &mut out)?;
        }
        Scope::Range(from, to) => {
            let (from, to) = (bound(&head, from)?, bound(&head, to)?);
            let latest = head.blocks.latest().number();
            if from > to {
                return Err(RpcError::params("invalid block range params"));
            }
            if from < head.blocks.oldest_number() {
                return Err(pruned(from, &head));
            }
            for number in from..=to.min(latest) {
                if let Some(block) = head.blocks.get(number) {
                    criteria.collect(block, &mut out)?;
                }
            }
        }
    }
    Ok(out)
}
