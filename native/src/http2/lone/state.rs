//! The state of one connection for its lone calls.

use std::task::Waker;

use bytes::Bytes;
use h2::server::SendResponse;

use super::hpack::keeps_table;
use super::windows::Windows;
use super::wire::{self, LoneFrames};

/// The number of lone calls after which a connection is calm.
const CALM: i32 = 2;

/// After a taken call had to be given back to h2, h2 also handles this many of the following lone calls.
const PENALTY: i32 = 32;

/// The size of an answer, in bytes, for which there must be room before a call is taken.
const SMALL: usize = 1 << 10;

/// What to do with the stream of a call, once h2 has opened it.
pub type Then = Box<dyn FnOnce(SendResponse<Bytes>) + Send>;

/// The stage of the call that has been taken from h2. A connection has at most one such call.
pub enum Phase {
    /// No call has been taken, or h2 has answered it.
    Rests,
    /// The call waits for its answer, and h2 does not know of it.
    Taken(LoneFrames),
    /// h2 will open the call's stream. If the answer is known, `then` sends it.
    Moves { stream: u32, then: Option<Then> },
    /// h2 has opened the call's stream, on which the answer is to be sent.
    Moved(SendResponse<Bytes>),
    /// The connection has ended.
    Ended,
}

/// The rest of an answer that the socket has taken in part.
pub struct Unsent {
    pub bytes: Vec<u8>,
    pub at: usize,
    /// The memory of the answer, which counts as unread until it has been sent.
    pub _answer: Bytes,
}

/// A lone call that h2 is about to return: if it is plain, later calls with the same head may be taken.
struct Candidate {
    stream: u32,
    head: Vec<u8>,
    heads: u32,
}

/// The state of one connection for its lone calls.
pub struct State {
    pub phase: Phase,
    pub windows: Windows,
    pub unsent: Option<Unsent>,
    /// The bytes that h2 is to read before it reads from the socket.
    pub inbox: Vec<u8>,
    /// The rest of a WINDOW_UPDATE that the client has not sent (`Windows::given_back`); h2 reads it before the inbox.
    pub update: Vec<u8>,
    /// Whether h2 reads: it has not come to the end of what has arrived, or is in the middle of a frame or a head.
    pub reads: bool,
    /// Whether some of h2's bytes wait until the socket has room.
    pub blocked: bool,
    /// Whether no more calls are taken.
    drains: bool,
    /// The number of blocks of headers and of settings that h2 has read and that may have changed HPACK's table.
    heads: u32,
    /// The number of calls that have come, each alone, since something else came; less than 0 after a penalty.
    calm: i32,
    candidate: Option<Candidate>,
    /// The newest stream that has been taken.
    newest: u32,
    /// The newest stream that h2 knows of.
    told: u32,
    /// The value of `newest` before the last stream was taken.
    before: u32,
    /// Whether a stream has been opened.
    begun: bool,
    /// Whether h2 may be told, in what it reads now, of a smaller window than the client has given.
    shares: bool,
    /// The connection's task.
    pub task: Option<Waker>,
}

impl Default for State {
    fn default() -> Self {
        Self {
            phase: Phase::Rests,
            windows: Windows::default(),
            unsent: None,
            inbox: Vec::new(),
            update: Vec::new(),
            reads: true,
            blocked: false,
            drains: false,
            heads: 0,
            calm: 0,
            candidate: None,
            newest: 0,
            told: 0,
            before: 0,
            begun: false,
            shares: true,
            task: None,
        }
    }
}

impl State {
    /// Called when h2 reads these bytes; `between` says whether they begin between two frames. Returns whether they are
    /// a lone call whose head does not change HPACK's table.
    pub fn passes(&mut self, bytes: &[u8], between: bool) -> bool {
        self.reads = true;
        self.shares = !self.begun || self.calm > 0;
        let Some((head, stream)) = wire::lone_head(bytes).filter(|_| between) else {
            self.calm = self.calm.min(0);
            return false;
        };
        self.begun = true;
        self.calm = self.calm.saturating_add(1);
        let keeps = keeps_table(wire::block(head));
        if keeps && self.calm >= CALM {
            self.candidate = Some(Candidate { stream, head: head.to_vec(), heads: self.heads });
        }
        keeps
    }

    /// Called when h2 reads a block of headers, or a part of one, that may change HPACK's table.
    pub fn head_passes(&mut self) {
        self.begun = true;
        self.table_changes();
    }

    /// Called when h2 reads anything that may change HPACK's table.
    pub fn table_changes(&mut self) {
        self.heads = self.heads.wrapping_add(1);
    }

    /// The number of changes of HPACK's table.
    pub fn heads(&self) -> u32 {
        self.heads
    }

    /// Whether a share of the client's window may be kept from h2: before the first call, and while calls come alone.
    pub fn shares(&self) -> bool {
        self.shares
    }

    /// Whether h2 is about to return the call of this stream, which is a candidate.
    pub fn learns(&self, stream: u32) -> bool {
        self.candidate.as_ref().is_some_and(|own| own.stream == stream && own.heads == self.heads)
    }

    /// Removes the candidate, and returns its head.
    pub fn learn(&mut self) -> Option<Vec<u8>> {
        self.candidate.take().map(|own| own.head)
    }

    /// Whether calls may be taken as soon as h2 has no streams.
    pub fn may_take(&self) -> bool {
        matches!(self.phase, Phase::Rests)
            && self.calm >= CALM
            && !(self.reads || self.blocked || self.drains)
            && self.unsent.is_none()
            && self.inbox.is_empty()
            && self.update.is_empty()
            && self.windows.fit(SMALL)
    }

    /// Takes a call.
    pub fn take(&mut self, frames: LoneFrames) {
        self.before = std::mem::replace(&mut self.newest, frames.stream);
        self.phase = Phase::Taken(frames);
    }

    /// Undoes `take`: h2 will read the call instead.
    pub fn untake(&mut self) {
        self.calm = -PENALTY;
        self.newest = self.before;
        self.phase = Phase::Rests;
    }

    /// Takes no more calls.
    pub fn drain(&mut self) {
        self.drains = true;
    }

    /// Gives h2 the taken call; `then` is called when h2 has opened its stream.
    pub fn give_call(&mut self, then: Option<Then>) {
        let Phase::Taken(frames) = &self.phase else { return };
        let stream = frames.stream;
        self.inbox.extend_from_slice(frames.bytes());
        self.told = stream;
        self.calm = -PENALTY;
        self.phase = Phase::Moves { stream, then };
    }

    /// Tells h2 of the newest call that it has missed; `head` is the HEADERS frame of any call.
    pub fn tell(&mut self, head: &[u8]) {
        if self.told < self.newest {
            wire::cancelled(&mut self.inbox, head, self.newest);
            self.told = self.newest;
        }
    }

    /// Whether this stream's call bypassed h2, which was only told that the stream existed.
    pub fn was_missed(&self, stream: u32) -> bool {
        stream <= self.told && !matches!(self.phase, Phase::Moves { stream: own, .. } if own == stream)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::http2::frames::{DATA, END_HEADERS, END_STREAM, HEADERS};

    const KEEPS: &[u8] = b"\x83\x86";
    const CHANGES: &[u8] = b"\x40\x01a\x01b";

    fn call(stream: u32, block: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        wire::frame(&mut out, HEADERS, END_HEADERS, stream, block);
        wire::frame(&mut out, DATA, END_STREAM, stream, b"data");
        out
    }

    fn calm() -> State {
        let mut state = State::default();
        state.passes(&call(1, KEEPS), true);
        state.passes(&call(3, KEEPS), true);
        state.reads = false;
        state.windows.enlarged(1 << 20, true);
        state
    }

    #[test]
    fn calls_are_taken_when_some_have_come_alone() {
        let mut state = calm();
        assert!(state.may_take() && state.learns(3) && !state.learns(1));
        state.passes(&[call(5, KEEPS), call(7, KEEPS)].concat(), true);
        state.reads = false;
        assert!(!state.may_take());
    }

    #[test]
    fn a_head_is_learnt_only_if_the_table_stays() {
        let mut state = calm();
        assert!(!state.passes(&call(5, CHANGES), true));
        state.table_changes();
        assert!(!state.learns(3) && !state.learns(5));
        assert!(!state.passes(&call(7, KEEPS), false) && state.passes(&call(9, KEEPS), true) && !state.learns(9));
        assert!(state.passes(&call(11, KEEPS), true) && state.learns(11));
    }

    #[test]
    fn no_call_is_taken_while_h2_reads_or_writes_or_drains() {
        let hinders: [fn(&mut State); 5] = [
            |state| state.reads = true,
            |state| state.blocked = true,
            |state| state.drain(),
            |state| state.inbox.push(0),
            |state| state.windows = Windows::default(),
        ];
        for hinder in hinders {
            let mut state = calm();
            hinder(&mut state);
            assert!(!state.may_take());
        }
    }

    #[test]
    fn h2_gets_the_frames_of_a_call_that_moves() {
        let mut state = calm();
        state.take(LoneFrames::read(&call(5, KEEPS)).unwrap());
        assert!(!state.may_take());
        state.give_call(None);
        state.tell(KEEPS);
        assert_eq!(state.inbox, call(5, KEEPS));
        assert!(!state.was_missed(5) && !state.was_missed(7));
        for stream in 0..PENALTY as u32 {
            assert!(!state.may_take());
            state.inbox.clear();
            (state.phase, state.reads) = (Phase::Rests, false);
            state.passes(&call(2 * stream + 7, KEEPS), true);
        }
    }

    #[test]
    fn h2_is_not_told_of_a_call_that_it_reads() {
        let mut state = calm();
        state.take(LoneFrames::read(&call(5, KEEPS)).unwrap());
        state.untake();
        state.tell(&call(1, KEEPS)[..11]);
        assert!(state.inbox.is_empty() && !state.may_take());
    }

    #[test]
    fn h2_is_told_once_of_the_newest_call_that_it_has_missed() {
        let mut state = calm();
        for stream in [5, 7] {
            state.take(LoneFrames::read(&call(stream, KEEPS)).unwrap());
            state.phase = Phase::Rests;
        }
        let head = call(1, KEEPS)[..11].to_vec();
        state.tell(&head);
        let told = state.inbox.clone();
        state.tell(&head);
        assert_eq!(state.inbox, told);
        assert_eq!(told[8], 7);
        assert!(state.was_missed(7) && !state.was_missed(9));
    }
}
