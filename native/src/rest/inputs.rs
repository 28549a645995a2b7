//! Parses the body of a plain :predict into arrays, without an object for each number: rows under `instances`, or whole
//! inputs under `inputs`.
//!
//! A body that is not plain gives None, whether it is valid or not. `services/tf_serving/rest/inputs.py` then answers
//! it, with TF Serving's error texts.

use smallvec::SmallVec;

use super::elements::is_base64;
use super::filling::Filling;
use crate::json::{Reader, once};
use crate::predict::{Column, Input};

/// The properties of a signature that are needed to read a body's values.
pub trait Declares {
    fn inputs(&self) -> &[Input];

    fn max_rows(&self) -> usize;

    /// Whether axis 0 is the batch axis. If not, the inputs' declarations include axis 0, and a request counts as one
    /// row.
    fn batched(&self) -> bool;
}

/// A decoded body: the signature that it names, and an array for each of its inputs, in order.
pub struct Body<S> {
    pub signature: S,
    pub by_row: bool,
    pub rows: usize,
    pub columns: Vec<Column>,
}

/// The position of a body's values, and whether they are given row by row.
struct Place<'a> {
    at: Reader<'a>,
    by_row: bool,
}

impl<S: Declares> Body<S> {
    /// `find` returns a signature by its name, which is empty for the default.
    ///
    /// If the name comes after the values, the values are read for the default signature first, and then again for the
    /// right one.
    pub fn read(data: &[u8], find: impl Fn(&[u8]) -> Option<S>) -> Option<Self> {
        let mut reader = Reader::new(data);
        let (mut name, mut read) = (None, None);
        reader.object(|key, reader| match key {
            b"signature_name" => once(&mut name, reader.string()?),
            b"instances" | b"inputs" if read.is_none() => {
                let place = Place { at: reader.clone(), by_row: key == b"instances" };
                let supposed = name.unwrap_or_default();
                let body = find(supposed).and_then(|signature| place.read(reader, signature));
                if body.is_none() {
                    *reader = place.at.clone();
                    reader.skip()?;
                }
                once(&mut read, (body, supposed, place))
            }
            _ => None,
        })?;
        reader.peek().is_none().then_some(())?;
        let (body, supposed, place) = read?;
        match name {
            Some(name) if name != supposed => place.read(&mut place.at.clone(), find(name)?),
            _ => body,
        }
    }
}

impl Place<'_> {
    fn read<S: Declares>(&self, reader: &mut Reader<'_>, signature: S) -> Option<Body<S>> {
        let skipped = usize::from(!signature.batched());
        let filling = |input| Filling::new(input, skipped);
        let mut columns = signature.inputs().iter().map(filling).collect::<Option<SmallVec<[_; 1]>>>()?;
        match (self.by_row, reader.peek()?, columns.as_mut_slice()) {
            (true, _, _) => read_rows(reader, &mut columns)?,
            (false, b'{', _) if !is_base64(reader) => {
                read_record(reader, &mut columns, |column, reader| column.whole(reader))?
            }
            (false, _, [only]) => only.whole(reader)?,
            _ => return None,
        }
        let rows = columns.first()?.rows;
        let fits = match signature.batched() {
            true => columns.iter().all(|column| column.rows == rows) && rows <= signature.max_rows(),
            false => columns.iter().all(|column| column.input.takes_rows(column.rows)),
        };
        let columns = columns.into_iter().map(|column| column.filled(skipped)).collect();
        let rows = if signature.batched() { rows } else { 1 };
        fits.then_some(Body { signature, by_row: self.by_row, rows, columns })
    }
}

/// Reads a list of rows: the values of the only input, or objects that name each input.
fn read_rows(reader: &mut Reader<'_>, columns: &mut [Filling<'_>]) -> Option<()> {
    let mut start = reader.clone();
    start.expect(b'[')?;
    if start.peek()? != b'{' || is_base64(&start) {
        return if let [only] = columns { only.whole(reader) } else { None };
    }
    reader.list(|reader| read_record(reader, columns, |column, reader| column.row(reader))).map(|_| ())
}

/// Reads an object with a value for each input, and nothing else.
fn read_record<'a>(
    reader: &mut Reader<'a>,
    columns: &mut [Filling<'_>],
    read: impl Fn(&mut Filling<'_>, &mut Reader<'a>) -> Option<()>,
) -> Option<()> {
    let rows = columns.first()?.rows;
    reader.object(|alias, reader| {
        let column = columns.iter_mut().find(|column| column.input.alias == alias)?;
        // A row that names an input twice is left to Python, where the first value counts.
        (column.rows == rows).then_some(())?;
        read(column, reader)
    })?;
    columns.iter().all(|column| column.rows > rows).then_some(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::protobuf::{Dtype, texts};

    struct Declared(Vec<Input>, bool);

    impl Declares for Declared {
        fn inputs(&self) -> &[Input] {
            &self.0
        }

        fn max_rows(&self) -> usize {
            3
        }

        fn batched(&self) -> bool {
            self.1
        }
    }

    fn input(alias: &str, dtype: Dtype, inner: &[Option<usize>]) -> Input {
        Input { alias: alias.into(), dtype, inner: inner.to_vec() }
    }

    /// Signatures: the default one has an input `x` with two floats per row, `s` a bool and a byte, `any` nested lists.
    fn find(name: &[u8]) -> Option<Declared> {
        let inputs = match name {
            b"" => vec![input("x", Dtype::Float, &[Some(2)])],
            b"s" => vec![input("b", Dtype::Bool, &[]), input("n", Dtype::Int8, &[])],
            b"any" => vec![input("x", Dtype::Int64, &[None, None])],
            b"text" => vec![input("t", Dtype::String, &[])],
            b"alone" => vec![input("a", Dtype::Uint8, &[Some(4)]), input("b", Dtype::Uint8, &[None, Some(1)])],
            _ => return None,
        };
        Some(Declared(inputs, name != b"alone"))
    }

    fn read(text: &str) -> Option<(bool, usize, Vec<Column>)> {
        Body::read(text.as_bytes(), find).map(|body| (body.by_row, body.rows, body.columns))
    }

    fn floats(values: &[f32]) -> Vec<u8> {
        values.iter().flat_map(|value| value.to_le_bytes()).collect()
    }

    #[test]
    fn rows_and_columns_of_one_input() {
        let column = Column { inner: vec![2], bytes: floats(&[1.0, -0.25, 0.0, 100.0]), text: vec![] };
        for text in [
            " {\"instances\": [[1, -2.5e-1] , [0, 1E+2]] } ",
            "{\"instances\":[{\"x\":[1,-0.25]},{\"x\":[0,100]}],\"signature_name\":\"\"}",
        ] {
            assert_eq!(read(text), Some((true, 2, vec![column.clone()])), "{text}");
        }
        for text in ["{\"inputs\":[[1,-0.25],[0,100]]}", "{\"inputs\": {\"x\" : [[1,-0.25],[0,100]]} }"] {
            assert_eq!(read(text), Some((false, 2, vec![column.clone()])), "{text}");
        }
    }

    #[test]
    fn several_inputs_with_the_signatures_name_before_or_after_them() {
        let column = |bytes: &[u8]| Column { inner: vec![], bytes: bytes.into(), text: vec![] };
        let columns = vec![column(&[1, 0]), column(&[44, 255])];
        for text in [
            "{\"signature_name\":\"s\",\"instances\":[{\"b\":true,\"n\":300},{\"n\":-1,\"b\":false}]}",
            "{\"signature_name\":\"s\",\"inputs\":{\"n\":[300,-1],\"b\":[true,false]}}",
        ] {
            assert_eq!(read(text).map(|read| read.2), Some(columns.clone()), "{text}");
        }
        let behind = |values: &str| read(&format!("{{\"instances\":{values},\"signature_name\":\"any\"}}"));
        assert_eq!(behind("[[1,2]]"), None, "a list is missing for the signature that the body names");
        assert!(behind("[[[1]]]").is_some_and(|read| read.2[0].inner == [1, 1]));
    }

    #[test]
    fn strings_as_text_and_as_base64() {
        let texts = |values: &str| {
            let read = read(&format!("{{\"signature_name\":\"text\",\"instances\":{values}}}"))?;
            Some(texts::strings(&read.2[0].bytes, &read.2[0].text).map(<[u8]>::to_vec).collect::<Vec<_>>())
        };
        assert_eq!(texts(r#"["a\n", {"b64": "/wA="}]"#), Some(vec![b"a\n".to_vec(), vec![255, 0]]));
        assert_eq!(texts(r#"[{"b64":""}, "b"]"#), Some(vec![vec![], b"b".to_vec()]));
        assert_eq!(texts(r#"[{"t":{"b64":"YQ=="}}]"#), Some(vec![b"a".to_vec()]));
        for values in [r#"[{"b64":"YQ"}]"#, r#"[{"b64":"Y Q=="}]"#, r#"[{"b64":"YQ==","t":""}]"#, r#"[{"b64":1}]"#] {
            assert_eq!(texts(values), None, "{values}");
        }
    }

    #[test]
    fn without_a_batch_axis_rows_are_a_dimension() {
        let alone = |values: &str| {
            let (_, rows, columns) = read(&format!("{{\"signature_name\":\"alone\",{values}}}"))?;
            assert_eq!(rows, 1);
            Some(columns.into_iter().map(|column| (column.inner, column.bytes)).collect::<Vec<_>>())
        };
        let expected = vec![(vec![4], vec![1, 2, 3, 4]), (vec![2, 1], vec![5, 6])];
        assert_eq!(alone(r#""inputs":{"a":[1,2,3,4],"b":[[5],[6]]}"#), Some(expected));
        assert_eq!(alone(r#""inputs":{"a":[1,2,3],"b":[[5],[6]]}"#), None);
        assert_eq!(alone(r#""inputs":{"a":[1,2,3,4],"b":[[5,6]]}"#), None);
        let rows = r#""instances":[{"a":1,"b":[5]},{"a":2,"b":[6]},{"a":3,"b":[7]},{"a":4,"b":[8]}]"#;
        assert_eq!(alone(rows), Some(vec![(vec![4], vec![1, 2, 3, 4]), (vec![4, 1], vec![5, 6, 7, 8])]));
        assert_eq!(alone(r#""instances":[{"a":1,"b":[5]}]"#), None);
    }

    #[test]
    fn dimensions_that_vary_are_those_of_the_first_row() {
        let named = |values: &str| read(&format!("{{\"signature_name\":\"any\",\"instances\":{values}}}"));
        assert_eq!(named("[[[1,2]],[[3,4]]]").map(|read| read.2[0].inner.clone()), Some(vec![1, 2]));
        assert_eq!(named("[[[1,2]],[[3]]]"), None);
        assert_eq!(named("[[[1],[2]],[[3]]]"), None);
    }

    #[test]
    fn other_bodies_are_left_to_python() {
        for values in [
            "[]",
            "[[]]",
            "[[1]]",
            "[[1,2,3]]",
            "[1,2]",
            "[[[1,2]]]",
            "[[1,2],[3]]",
            "[[1,2],3]",
            "[[1,2],]",
            "[[1 2]]",
            "[[1,null]]",
            "[[1,\"2\"]]",
            "[[1,NaN]]",
            "[[1,2]",
            "1",
            "{}",
            "{\"x\":[[1,2]]}",
            "[{\"x\":[1,2]},[1,2]]",
            "[{\"x\":[1,2],\"x\":[1,2]}]",
            "[{\"x\":[1,2],\"y\":1}]",
            "[{}]",
            "[[1,2],[1,2],[1,2],[1,2]]",
        ] {
            assert_eq!(read(&format!("{{\"instances\":{values}}}")), None, "{values}");
        }
        for text in [
            "",
            "[1]",
            "{}",
            "{\"instances\":[[1,2]]",
            "{\"instances\":[[1,2]]}x",
            "{\"instances\":[[1,2]],}",
            "{\"instances\":[[1,2]],\"inputs\":[[1,2]]}",
            "{\"instances\":[[1,2]],\"y\":1}",
            "{\"signature_name\":\"\"}",
            "{\"signature_name\":1,\"instances\":[[1,2]]}",
            "{\"signature_name\":\"t\",\"instances\":[[1,2]]}",
            "{\"signature_name\":\"\",\"signature_name\":\"\",\"instances\":[[1,2]]}",
            "\u{feff}{\"instances\":[[1,2]]}",
            "{\"inputs\":{\"x\":[[1,2]],\"y\":1}}",
            "{\"inputs\":{}}",
            "{\"inputs\":[1,2]}",
            "{\"inputs\":1}",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }
}
