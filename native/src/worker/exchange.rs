//! What is known about the exchanges with one slot of a worker process, so that they can be repeated without the
//! interpreter: Python makes each new message and reads each new answer; here they are only compared and sent again.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use parking_lot::Mutex;
use pyo3::prelude::*;
use pyo3::types::PyDict;
use rustc_hash::FxHashMap;
use smallvec::SmallVec;

use super::link::Link;
use crate::buffer::Buffer;

/// The maximum number of requests, and of answers, that are known; if there is one more, all are forgotten.
const MOST: usize = 128;

/// The numbers of the answers that the next message returns to the worker process.
pub type Owed = SmallVec<[u32; 2]>;

/// A message that asks for a run.
pub struct Request {
    pub message: Vec<u8>,
    /// The shared memory of each input, in the signature's order; it may have room for more rows.
    pub inputs: Vec<Buffer>,
}

/// The content of an answer.
pub struct Answer {
    number: u32,
    /// The alias and the shared memory of each output.
    pub outputs: Vec<(String, Buffer)>,
}

/// The server's side of one slot, whose messages cross through a link. Used by the thread that has taken the slot's place.
#[pyclass(frozen, module = "headrace_native")]
pub struct Exchange {
    link: Py<Link>,
    known: Mutex<Known>,
    /// Whether Python has taken an answer, whose number must be returned to the worker process after its use.
    has_lent: AtomicBool,
}

#[derive(Default)]
struct Known {
    owed: Owed,
    /// The known requests, by the number of the signature, the number of rows, and the numbers of the answers to
    /// return.
    requests: FxHashMap<(usize, usize, Owed), Arc<Request>>,
    answers: FxHashMap<Vec<u8>, Arc<Answer>>,
    /// The last answer that was not in `answers`, and was left to Python.
    unknown: Option<Vec<u8>>,
}

#[pymethods]
impl Exchange {
    #[new]
    fn new(link: Py<Link>) -> Self {
        Self { link, known: Mutex::default(), has_lent: AtomicBool::new(false) }
    }

    /// Removes and returns the numbers of the answers that must be returned.
    fn take_owed(&self) -> Vec<u32> {
        std::mem::take(&mut self.known.lock().owed).into_vec()
    }

    fn lent(&self) {
        self.has_lent.store(true, Ordering::Relaxed);
    }

    /// Learns the content of the last unknown answer.
    fn learn(&self, number: u32, outputs: &Bound<'_, PyDict>) -> PyResult<()> {
        let mut content = Vec::new();
        for (alias, array) in outputs {
            let buffer = Buffer::any(&array)?;
            if buffer.is_scalar() || buffer.dtype().is_none() {
                return Ok(());
            }
            content.push((alias.extract()?, buffer));
        }
        let mut known = self.known.lock();
        let Some(message) = known.unknown.take() else { return Ok(()) };
        let forgotten = full(&mut known.answers);
        known.answers.insert(message, Arc::new(Answer { number, outputs: content }));
        drop(known);
        drop(forgotten);
        Ok(())
    }

    /// Forgets all requests and answers: they keep memory that is no longer used.
    fn forget(&self) {
        let mut known = self.known.lock();
        let forgotten = (std::mem::take(&mut known.requests), std::mem::take(&mut known.answers));
        drop(known);
        drop(forgotten);
    }
}

impl Exchange {
    /// Returns whether Python has taken an answer since the last call of this function. If so, the caller must ask Python
    /// for the numbers of the answers that are no longer used.
    pub fn takes_lent(&self) -> bool {
        self.has_lent.swap(false, Ordering::Relaxed)
    }

    /// Adds these numbers to those that the next message returns.
    pub fn owe(&self, numbers: impl IntoIterator<Item = u32>) {
        self.known.lock().owed.extend(numbers);
    }

    /// The numbers of the answers that the next message must return.
    pub fn owed(&self) -> Owed {
        self.known.lock().owed.clone()
    }

    /// The known request for a run of this many rows.
    pub fn request(&self, signature: usize, rows: usize) -> Option<Arc<Request>> {
        let known = self.known.lock();
        let key = (signature, rows, known.owed.clone());
        known.requests.get(&key).cloned()
    }

    /// Remembers the request for a run of this many rows, while the same answers are owed.
    pub fn remember(&self, signature: usize, rows: usize, request: Request) -> Arc<Request> {
        let request = Arc::new(request);
        let mut known = self.known.lock();
        let forgotten = full(&mut known.requests);
        let key = (signature, rows, known.owed.clone());
        known.requests.insert(key, request.clone());
        drop(known);
        drop(forgotten);
        request
    }

    /// Sends a request, with which the owed numbers are returned; false if it was not sent.
    pub fn send(&self, request: &Request) -> bool {
        let sent = self.link.get().send_message(&request.message);
        if sent {
            self.known.lock().owed.clear();
        }
        sent
    }

    /// Waits for the answer. One that is not known is left to Python.
    pub fn receive(&self, until: Option<Instant>) -> Option<(Arc<Answer>, Vec<u8>)> {
        let message = self.link.get().wait(until).ok();
        if let Some(Some(message)) = message {
            let answer = self.known.lock().answers.get(&message).cloned();
            if let Some(answer) = answer {
                return Some((answer, message));
            }
            self.leave(message);
            return None;
        }
        self.known.lock().unknown = None;
        if message.is_some() {
            self.link.get().untake(None); // the message is in the socket
        }
        None
    }

    /// Leaves an answer to Python, which receives it.
    pub fn leave(&self, message: Vec<u8>) {
        self.known.lock().unknown = Some(message.clone());
        self.link.get().untake(Some(message));
    }

    /// Must be called when an answer's outputs have been read: the next message then returns the answer's number.
    pub fn answered(&self, answer: &Answer) {
        self.known.lock().owed.push(answer.number);
    }

    /// Whether the worker process has ended.
    pub fn has_ended(&self) -> bool {
        self.link.get().has_ended()
    }

    /// Ends the link, because its messages can no longer be assigned to runs.
    pub fn end(&self) {
        self.link.get().close();
    }
}

/// Empties a full map; returns its former content, so that the caller can drop it without holding a lock. Dropping an
/// array may need the interpreter lock.
fn full<K, V>(map: &mut FxHashMap<K, V>) -> FxHashMap<K, V> {
    if map.len() >= MOST { std::mem::take(map) } else { FxHashMap::default() }
}
