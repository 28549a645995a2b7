//! Writes messages. Short parts are collected first, since every write to a `BytesMut` costs some forty instructions.

use bytes::{BufMut, Bytes, BytesMut};

use super::wire::{LENGTH, VARINT_ROOM};

/// The number of bytes that are collected: enough for the name, the shape and the field heads of a single output.
const ROOM: usize = 64;

/// Writes a message into a buffer; the collected bytes are written when it is dropped.
pub struct Writer<'a> {
    out: &'a mut BytesMut,
    gathered: [u8; ROOM],
    len: usize,
}

impl<'a> Writer<'a> {
    /// Creates a writer that appends to the buffer's content.
    pub fn new(out: &'a mut BytesMut) -> Self {
        Self { out, gathered: [0; ROOM], len: 0 }
    }

    /// Returns what `write` writes, as a message of its own.
    pub fn message(write: impl FnOnce(&mut Writer<'_>)) -> Bytes {
        let mut out = BytesMut::new();
        write(&mut Writer::new(&mut out));
        out.freeze()
    }

    pub fn varint(&mut self, mut value: u64) {
        if self.len + VARINT_ROOM > ROOM {
            self.flush();
        }
        while value >= 0x80 {
            self.byte((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.byte(value as u8);
    }

    pub fn tag(&mut self, field: u32, kind: u8) {
        self.varint(u64::from(field << 3 | u32::from(kind)));
    }

    /// Writes the head of a length-delimited field.
    pub fn field(&mut self, field: u32, len: usize) {
        self.tag(field, LENGTH);
        self.varint(len as u64);
    }

    pub fn slice(&mut self, bytes: &[u8]) {
        if self.len + bytes.len() > ROOM {
            self.flush();
        }
        match self.gathered.get_mut(self.len..self.len + bytes.len()) {
            Some(room) => {
                room.copy_from_slice(bytes);
                self.len += bytes.len();
            }
            None => self.out.put_slice(bytes),
        }
    }

    fn byte(&mut self, byte: u8) {
        self.gathered[self.len] = byte;
        self.len += 1;
    }

    fn flush(&mut self) {
        self.out.put_slice(&self.gathered[..self.len]);
        self.len = 0;
    }
}

impl Drop for Writer<'_> {
    fn drop(&mut self) {
        self.flush();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_bytes_are_written_in_order() {
        let long = [7; 3 * ROOM];
        let (mut out, mut plain) = (BytesMut::from(&b"before"[..]), b"before".to_vec());
        let mut writer = Writer::new(&mut out);
        for len in [0, 1, ROOM - 1, ROOM, ROOM + 1, 3, 3 * ROOM, 2, ROOM] {
            writer.slice(&long[..len]);
            plain.extend(&long[..len]);
            writer.varint(u64::MAX);
            plain.extend([[0xff; 9].as_slice(), &[1]].concat());
        }
        writer.field(2, 300);
        plain.extend([0x12, 0xac, 2]);
        drop(writer);
        assert_eq!(out, plain);
    }
}
