//! Rewrites an `:authority` that is not a host, because h2 refuses it; gRPC's own servers accept it.
//!
//! gRPC's C clients (C++, Python and others) send the path of a UNIX socket with `%2F` for every slash, and a list of
//! addresses (`ipv4:10.0.0.1:8500,10.0.0.2:8500`) as it is. Neither is a valid host in a URI, so h2 resets the stream.
//! Here, every character that does not belong in a host and a port is overwritten with a dash. Only headers without
//! Huffman coding are rewritten: these clients send `:authority` without it. Every other header passes unchanged, and
//! malformed bytes are left for h2 to refuse.
//!
//! The benefit: without this file, each such call of grpcio is reset with PROTOCOL_ERROR. A client sends the same
//! authority with every call, so a connection is not inspected any further once its first call has had a valid one
//! (`is_done`). The file can be removed when h2 accepts such authorities (hyperium/h2 pull request 487, still open).

use super::frames::{CONTINUATION, HEADERS, PREFACE, PRIORITY};

const NAME: &[u8] = b":authority";
const STATIC_INDEX: u8 = 1;
const PADDED: u8 = 8;

/// Follows the frames of a connection, from its first byte on.
pub struct Authority {
    /// The number of bytes to skip: of the preface, or of a payload.
    skip: usize,
    head: Vec<u8>,
    /// The number of bytes of headers that are left in this frame.
    fragment: usize,
    /// The number of bytes of padding after the headers that are left in this frame.
    padding: usize,
    /// Whether the length of the padding comes next.
    padded: bool,
    block: Block,
    /// The number of heads that have begun.
    heads: usize,
}

impl Default for Authority {
    fn default() -> Self {
        let block = Block { state: State::First, authority: false, colons: 0, bracketed: false, invalid: false };
        Self { skip: PREFACE, head: Vec::with_capacity(9), fragment: 0, padding: 0, padded: false, block, heads: 0 }
    }
}

impl Authority {
    /// Whether the first head has passed, and its authority was valid or absent.
    pub fn is_done(&self) -> bool {
        self.heads > 1 && !self.block.invalid
    }

    pub fn rewrite(&mut self, bytes: &mut [u8]) {
        let mut at = 0;
        while at < bytes.len() {
            if self.skip == 0 {
                self.step(&mut bytes[at]);
                at += 1;
            }
            let skipped = self.skip.min(bytes.len() - at);
            self.skip -= skipped;
            at += skipped;
        }
    }

    fn step(&mut self, byte: &mut u8) {
        if self.padded {
            self.padded = false;
            self.padding = usize::from(*byte).min(self.fragment - 1);
            self.fragment -= 1 + self.padding;
            self.fragment = self.fragment.saturating_sub(self.skip_priority());
            self.head.clear();
        } else if self.fragment > 0 {
            self.block.step(byte);
            self.fragment -= 1;
        } else {
            self.head.push(*byte);
            if self.head.len() == 9 {
                self.begin();
            }
            return;
        }
        if self.fragment == 0 {
            self.skip += std::mem::take(&mut self.padding);
        }
    }

    fn begin(&mut self) {
        let length = u32::from_be_bytes([0, self.head[0], self.head[1], self.head[2]]) as usize;
        let (kind, flags) = (self.head[3], self.head[4]);
        match kind {
            HEADERS => {
                self.heads += 1;
                self.block.state = State::First;
                if flags & PADDED != 0 && length > 0 {
                    self.fragment = length;
                    self.padded = true;
                    return;
                }
                self.fragment = length.saturating_sub(self.skip_priority());
            }
            CONTINUATION => self.fragment = length,
            _ => self.skip = length,
        }
        self.head.clear();
    }

    /// Skips the priority fields of a frame whose head has just been read; returns their length.
    fn skip_priority(&mut self) -> usize {
        self.skip = if self.head[4] & PRIORITY != 0 { 5 } else { 0 };
        self.skip
    }
}

/// The position within a block of headers. The values of HPACK's numbers that go beyond their first byte do not matter
/// here.
enum State {
    First,
    Number { value_follows: bool },
    Length { name: bool },
    MoreLength { name: bool, plain: bool, length: usize, shift: u32 },
    Text { name: bool, plain: bool, at: usize, length: usize },
    Lost,
}

struct Block {
    state: State,
    authority: bool,
    /// The number of colons in the authority so far, except those in an IPv6 address.
    colons: usize,
    /// Whether the authority is in the brackets of an IPv6 address.
    bracketed: bool,
    /// Whether an authority was anything but a host and a port.
    invalid: bool,
}

impl Block {
    fn step(&mut self, byte: &mut u8) {
        let value = *byte;
        self.state = match self.state {
            State::First => self.first(value),
            State::Number { value_follows } if value & 128 == 0 => match value_follows {
                true => State::Length { name: false },
                false => State::First,
            },
            State::Number { value_follows } => State::Number { value_follows },
            State::Length { name } => {
                let (plain, length) = (value & 128 == 0, usize::from(value & 127));
                match length {
                    127 => State::MoreLength { name, plain, length, shift: 0 },
                    _ => self.text(name, plain, 0, length),
                }
            }
            // No server accepts a header of such a length.
            State::MoreLength { shift: 21.., .. } | State::Lost => State::Lost,
            State::MoreLength { name, plain, length, shift } => {
                let length = length + (usize::from(value & 127) << shift);
                match value & 128 {
                    0 => self.text(name, plain, 0, length),
                    _ => State::MoreLength { name, plain, length, shift: shift + 7 },
                }
            }
            State::Text { name, plain, at, length } => {
                if name {
                    self.authority &= plain && NAME.get(at) == Some(&value);
                } else if self.authority && plain {
                    self.rewrite(byte, at);
                }
                self.text(name, plain, at + 1, length)
            }
        }
    }

    /// Replaces the byte at a position of an authority with `-` if it is not allowed there.
    fn rewrite(&mut self, byte: &mut u8, at: usize) {
        if at == 0 {
            (self.colons, self.bracketed) = (0, *byte == b'[');
        }
        let valid = match *byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' => true,
            b'[' => at == 0,
            b']' => std::mem::take(&mut self.bracketed),
            b':' if self.bracketed => true,
            b':' => {
                self.colons += 1;
                self.colons == 1
            }
            _ => false,
        };
        if !valid {
            *byte = b'-';
            self.invalid = true;
        }
    }

    fn first(&mut self, value: u8) -> State {
        let most = match value {
            128.. => 127,
            64.. => 63,
            32.. => 31,
            _ => 15,
        };
        let (index, literal) = (value & most, most == 63 || most == 15);
        self.authority = index == 0 || index == STATIC_INDEX;
        match (index, literal) {
            (index, literal) if index == most => State::Number { value_follows: literal },
            (0, true) => State::Length { name: true },
            (_, true) => State::Length { name: false },
            (_, false) => State::First,
        }
    }

    /// Returns the state at one position of a text, and checks the name at its end.
    fn text(&mut self, name: bool, plain: bool, at: usize, length: usize) -> State {
        match (at < length, name) {
            (true, _) => State::Text { name, plain, at, length },
            (false, true) => {
                self.authority &= length == NAME.len();
                State::Length { name: false }
            }
            (false, false) => State::First,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let mut frame = vec![0, 0, payload.len() as u8, kind, flags, 0, 0, 0, 1];
        frame.extend(payload);
        frame
    }

    /// Rewrites a connection's bytes in pieces of every size.
    fn rewritten(frames: &[Vec<u8>]) -> Vec<u8> {
        let whole = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &frames.concat()].concat();
        let rewritten = |size| {
            let (mut bytes, mut authority) = (whole.clone(), Authority::default());
            bytes.chunks_mut(size).for_each(|piece| authority.rewrite(piece));
            bytes
        };
        let first = rewritten(whole.len());
        for size in 1..whole.len() {
            assert_eq!(rewritten(size), first);
        }
        first
    }

    #[test]
    fn an_authority_is_rewritten_at_any_position() {
        let named = b"\x40\x05:path\x04/a%b\x40\x0a:authority\x05a%2Fb\x83\x86\x40\x01x\x03%%%";
        let indexed = b"\xff\x00\x3f\x00\x41\x03%2F\x0f\x01\x01%\x01\x02%a";
        let blocks = [
            frame(HEADERS, 4, named),
            frame(0, 0, b"\x41\x03%2F"),
            frame(HEADERS, PADDED | PRIORITY, &[&b"\x02\0\0\0\0\x03"[..], &named[..20], b"%%"].concat()),
            frame(CONTINUATION, 4, &named[20..]),
            frame(HEADERS, 4 | PRIORITY, &[&b"\0\0\0\0\x03"[..], indexed].concat()),
        ];
        let text = rewritten(&blocks);
        let count = |piece: &[u8]| text.windows(piece.len()).filter(|found| *found == piece).count();
        assert_eq!(count(b"a-2Fb"), 2);
        assert_eq!((count(b"/a%b"), count(b"%%%")), (2, 2));
        assert_eq!((count(b"\x41\x03-2F"), count(b"\x41\x03%2F")), (1, 1));
        assert_eq!((count(b"\x01\x02-a"), count(b"\x0f\x01\x01%")), (1, 1));
    }

    #[test]
    fn hosts_with_ports_stay_and_lists_become_hosts() {
        let rewrite = |name: &str| {
            let literal = [&[0x41, name.len() as u8], name.as_bytes()].concat();
            let head = frame(HEADERS, 4, &literal);
            let text = rewritten(&[head.clone(), head]);
            let (mut bytes, mut authority) = (text.clone(), Authority::default());
            authority.rewrite(&mut bytes);
            (String::from_utf8(text[text.len() - name.len()..].to_vec()).unwrap(), authority.is_done())
        };
        for valid in ["localhost:8500", "10.0.0.1", "[::1]:8500", "my-host.example:1"] {
            assert_eq!(rewrite(valid), (valid.to_owned(), true));
        }
        for (list, host) in [("a:1,b:2", "a:1-b-2"), ("a b", "a-b"), ("[a]]:1", "[a]-:1"), ("{a}", "-a-")] {
            assert_eq!(rewrite(list).0, host);
        }
    }

    #[test]
    fn a_connection_with_a_valid_authority_is_left_alone() {
        let head = |name: &str| frame(HEADERS, 4, &[&[0x41, name.len() as u8], name.as_bytes()].concat());
        let done = |first: &str| {
            let mut bytes = [&b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"[..], &head(first), &head("a")].concat();
            let mut authority = Authority::default();
            let before = bytes.len() - head("a").len();
            authority.rewrite(&mut bytes[..before]);
            assert!(!authority.is_done());
            authority.rewrite(&mut bytes[before..]);
            authority.is_done()
        };
        assert!(done("localhost:8500") && done("[::1]:1"));
        assert!(!done("a:1,b:2") && !done("%2Ftmp%2Fs"));
    }

    #[test]
    fn garbage_passes() {
        let mut seed = 1_u32;
        for _ in 0..200 {
            let mut bytes: Vec<u8> = (0..500)
                .map(|_| {
                    seed = seed.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
                    (seed >> 24) as u8 & 15
                })
                .collect();
            Authority::default().rewrite(&mut bytes);
        }
    }
}
