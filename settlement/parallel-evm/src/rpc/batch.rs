//! JSON-RPC batches: answered in order, transactions that follow each other taken in together.

use super::{ANSWER_BYTES_MAX, BATCH_MAX, Filters, Incoming, failure, render, render_result};
use crate::{
    chain::Chain,
    error::{INVALID_REQUEST, Result, RpcError},
};
use alloy_primitives::Bytes;
use serde_json::Value;

pub const SEND_RAW: &str = "eth_sendRawTransaction";

/// The answers of a batch as they are put together.
struct Answers(Vec<u8>);

impl Answers {
    fn push(&mut self, answer: Option<Vec<u8>>) {
        if let Some(answer) = answer {
            self.0.push(if self.0.is_empty() { b'[' } else { b',' });
            self.0.extend_from_slice(&answer);
        }
    }

    fn is_full(&self) -> bool {
        self.0.len() > ANSWER_BYTES_MAX
    }

    /// Empty where nothing wanted an answer.
    fn finish(mut self) -> Vec<u8> {
        if !self.0.is_empty() {
            self.0.push(b']');
        }
        self.0
    }
}

/// Answers a batch. A request is done when those before it are; one that would come after an answer of the largest
/// size is refused undone.
pub fn answer(chain: &Chain, filters: &Filters, requests: Vec<Value>) -> Vec<u8> {
    if requests.is_empty() {
        return failure(Value::Null, &RpcError::new(INVALID_REQUEST, "empty batch"));
    }
    if requests.len() > BATCH_MAX {
        let message = format!("batch of {} requests is above the limit of {BATCH_MAX}", requests.len());
        return failure(Value::Null, &RpcError::new(INVALID_REQUEST, message));
    }
    let mut answers = Answers(Vec::new());
    let mut requests = requests.into_iter().map(Incoming::read).peekable();
    let mut sends = Vec::new();
    while let Some(request) = requests.next() {
        if answers.is_full() {
            answers.push(too_large(request));
            continue;
        }
        match Sending::of(request) {
            Err(other) => answers.push(other.answer(chain, filters)),
            Ok(send) => {
                sends.push(send);
                if !requests.peek().is_some_and(Sending::is) {
                    send_all(chain, std::mem::take(&mut sends), &mut answers);
                }
            }
        }
    }
    answers.finish()
}

fn too_large(request: Incoming) -> Option<Vec<u8>> {
    match request {
        Incoming::Invalid { .. } | Incoming::Call { id: None, .. } => None,
        Incoming::Call { id: Some(id), .. } => {
            Some(failure(id, &RpcError::limit(format!("the batch's answer is above {ANSWER_BYTES_MAX} bytes"))))
        }
    }
}

/// A request to take a transaction in.
struct Sending {
    id: Option<Value>,
    raw: Result<Bytes>,
}

impl Sending {
    fn is(request: &Incoming) -> bool {
        matches!(request, Incoming::Call { method, .. } if method == SEND_RAW)
    }

    /// Gives back what is another request.
    fn of(request: Incoming) -> std::result::Result<Self, Incoming> {
        match request {
            Incoming::Call { id, method, params } if method == SEND_RAW => {
                Ok(Self { id, raw: params.and_then(|params| params.bytes(0)) })
            }
            other => Err(other),
        }
    }
}

/// Takes transactions in together: senders recovered in parallel, and one sync before the first answer.
fn send_all(chain: &Chain, sends: Vec<Sending>, answers: &mut Answers) {
    let raws: Vec<&[u8]> = sends.iter().filter_map(|send| send.raw.as_ref().ok().map(AsRef::as_ref)).collect();
    let mut sent = chain.send_raw_many(&raws).into_iter();
    for send in sends {
        let result = send.raw.and_then(|_| sent.next().expect("one result for each transaction"));
        answers.push(render_result(send.id, result.map(|hash| render::bytes(hash.as_slice()))));
    }
}
