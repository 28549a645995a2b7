//! Translates the body of a :classify or :regress into the Input that a gRPC client would send, so that one decoder
//! reads both.
//!
//! A body that is not plain gives None, whether it is valid or not. `services/tf_serving/rest/examples.py` then answers
//! it, with TF Serving's error texts.

use bytes::{BufMut, BytesMut};
use rustc_hash::FxHashSet;

use super::elements::read_string;
use crate::json::{Number, Reader, once};
use crate::memory;
use crate::protobuf::{Rope, Writer, wire};

/// The number of the field of a Feature that has a list of strings.
const STRINGS: u32 = 1;

/// The number of the field that has a list of floats.
const FLOATS: u32 = 2;

/// The number of the field that has a list of integers.
const INTEGERS: u32 = 3;

/// A plain body: the name of its signature, empty for the default, and its tf.Examples.
pub struct ExamplesBody<'a> {
    pub signature: &'a [u8],
    /// The Examples, as the serialized `Input` of a gRPC request.
    pub input: Rope,
}

impl<'a> ExamplesBody<'a> {
    pub fn read(data: &'a [u8]) -> Option<Self> {
        let mut reader = Reader::new(data);
        let (mut signature, mut context, mut examples) = (None, None, None);
        let mut list = List::default();
        reader.object(|key, reader| match key {
            b"signature_name" => once(&mut signature, reader.string()?),
            b"context" => once(&mut context, list.write(2, |list| list.example(reader))?),
            b"examples" => once(&mut examples, list.write(1, |list| list.examples(reader))?),
            _ => None,
        })?;
        reader.peek().is_none().then_some(())?;
        let (examples, field) = (examples?, if context.is_some() { 2 } else { 1 });
        let context = context.unwrap_or_default();
        let head = Writer::message(|out| out.field(field, examples.len() + context.len()));
        let mut rope = Rope::from(head);
        [examples, context].into_iter().for_each(|list| rope.push(list.freeze()));
        Some(Self { signature: signature.unwrap_or_default(), input: rope })
    }
}

/// A list of Examples that is being written.
#[derive(Default)]
struct List<'a> {
    list: BytesMut,
    field: u32,
    /// The entries of the Example that is being read.
    features: BytesMut,
    /// The names of these entries. If a name appears twice, the request is not plain, since decoders differ on which of
    /// the two entries counts.
    names: FxHashSet<&'a [u8]>,
    /// The values of one feature: numbers, or strings encoded as fields of their list.
    numbers: BytesMut,
    strings: BytesMut,
    /// The string that is being read.
    text: Vec<u8>,
}

impl<'a> List<'a> {
    /// Returns the Examples that `write` adds, each as a field with this number.
    fn write(&mut self, field: u32, write: impl FnOnce(&mut Self) -> Option<()>) -> Option<BytesMut> {
        self.field = field;
        write(self)?;
        Some(std::mem::take(&mut self.list))
    }

    /// Reads a JSON list of Examples.
    fn examples(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        reader.list(|reader| self.example(reader)).map(drop)
    }

    /// Reads an Example: an object of features.
    fn example(&mut self, reader: &mut Reader<'a>) -> Option<()> {
        self.features.clear();
        self.names.clear();
        reader.object(|name, reader| {
            std::str::from_utf8(name).ok().filter(|_| self.names.insert(name))?;
            self.feature(name, reader)
        })?;
        let features = wire::field_len(1, self.features.len());
        memory::reserve(&mut self.list, wire::field_len(self.field, features)).ok()?;
        let mut out = Writer::new(&mut self.list);
        out.field(self.field, features);
        out.field(1, self.features.len());
        out.slice(&self.features);
        Some(())
    }

    /// Reads a feature: one value, or a list of values of one kind.
    fn feature(&mut self, name: &[u8], reader: &mut Reader<'a>) -> Option<()> {
        self.numbers.clear();
        self.strings.clear();
        let kind = match reader.peek()? {
            b'[' => {
                let mut kind = None;
                reader.list(|reader| {
                    let own = self.value(reader)?;
                    (*kind.get_or_insert(own) == own).then_some(())
                })?;
                kind?
            }
            _ => self.value(reader)?,
        };
        let list = match kind {
            STRINGS => self.strings.len(),
            _ => wire::field_len(1, self.numbers.len()),
        };
        let feature = wire::field_len(kind, list);
        let entry = wire::field_len(1, name.len()) + wire::field_len(2, feature);
        memory::reserve(&mut self.features, wire::field_len(1, entry)).ok()?;
        let mut out = Writer::new(&mut self.features);
        out.field(1, entry);
        out.field(1, name.len());
        out.slice(name);
        out.field(2, feature);
        out.field(kind, list);
        if kind == STRINGS {
            out.slice(&self.strings);
        } else {
            out.field(1, self.numbers.len());
            out.slice(&self.numbers);
        }
        Some(())
    }

    /// Reads one value; returns its kind, which follows from the way it is written.
    fn value(&mut self, reader: &mut Reader<'a>) -> Option<u32> {
        memory::reserve(&mut self.numbers, wire::VARINT_ROOM).ok()?;
        let kind = match reader.peek()? {
            b'"' | b'{' => {
                self.text.clear();
                read_string(reader, &mut self.text)?;
                memory::reserve(&mut self.strings, wire::field_len(1, self.text.len())).ok()?;
                let mut out = Writer::new(&mut self.strings);
                out.field(1, self.text.len());
                out.slice(&self.text);
                STRINGS
            }
            b't' | b'f' => {
                self.numbers.put_u8(u8::from(reader.boolean()?));
                INTEGERS
            }
            _ => match reader.number()? {
                Number::Whole(integer) => {
                    Writer::new(&mut self.numbers).varint(integer.signed()? as u64);
                    INTEGERS
                }
                Number::Decimal(decimal) => {
                    self.numbers.put_f32_le(decimal as f32);
                    FLOATS
                }
            },
        };
        Some(kind)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::examples::{Input, columns};
    use crate::predict::{Column, Input as Declared};
    use crate::protobuf::{Dtype, texts};

    fn read(text: &str) -> Option<(Vec<u8>, Vec<Column>)> {
        let float = Declared { alias: b"x".to_vec(), dtype: Dtype::Float, inner: vec![None] };
        let string = Declared { alias: b"s".to_vec(), dtype: Dtype::String, inner: vec![Some(1)] };
        let body = ExamplesBody::read(text.as_bytes())?;
        let input = Input::read(body.input.cursor()).unwrap();
        Some((body.signature.to_vec(), columns(&input, &[float, string], 0)?))
    }

    #[test]
    fn features_of_each_example_and_of_the_context() {
        let floats = [0.5_f32, 1.0, -2.0, 3.0].map(f32::to_le_bytes).concat();
        for text in [
            r#"{"signature_name":"n","examples":[{"x":[0.5,1.0],"s":"a\n"},{"s":{"b64":"YQo="},"x":[-2.0,3e0],"more":1}]}"#,
            r#"{"examples":[{"x":[0.5,1.0]},{"x":[-2.0,3.0]}],"context":{"s":["a\n"]},"signature_name":"n"}"#,
        ] {
            let (signature, columns) = read(text).unwrap();
            assert_eq!(signature, b"n");
            assert_eq!((&columns[0].inner, &columns[0].bytes), (&vec![2], &floats), "{text}");
            let strings: Vec<_> = texts::strings(&columns[1].bytes, &columns[1].text).collect();
            assert_eq!(strings, [b"a\n", b"a\n"], "{text}");
        }
    }

    #[test]
    fn other_bodies_are_left_to_python() {
        for text in [
            "",
            "{}",
            r#"{"examples":[]}"#,
            r#"{"examples":{}}"#,
            r#"{"examples":[1]}"#,
            r#"{"examples":[{"x":[]}]}"#,
            r#"{"examples":[{"x":[1,1.0]}]}"#,
            r#"{"examples":[{"x":["a",1]}]}"#,
            r#"{"examples":[{"x":[[1]]}]}"#,
            r#"{"examples":[{"x":null}]}"#,
            r#"{"examples":[{"x":1,"x":2}]}"#,
            r#"{"examples":[{"x":9223372036854775808}]}"#,
            r#"{"examples":[{"x":{"b64":"?"}}]}"#,
            r#"{"examples":[{"x":1}],"examples":[{"x":1}]}"#,
            r#"{"examples":[{"x":1}],"other":1}"#,
            r#"{"examples":[{"x":1}],"context":[]}"#,
            r#"{"examples":[{"x":1}],"signature_name":1}"#,
            r#"{"examples":[{"x":1}]} x"#,
        ] {
            assert!(ExamplesBody::read(text.as_bytes()).is_none(), "{text}");
        }
    }
}
