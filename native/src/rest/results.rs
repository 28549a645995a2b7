//! Writes classes with scores, or values, as the body of an answer, as in `services/tf_serving/rest/outputs.py`.

use bytes::{BufMut, BytesMut};

use super::outputs::write_member;
use crate::examples::{Result, Table};
use crate::json::{write_decimal, write_line, write_string};

/// The approximate size of a value, or of a pair of a label and a score without the label.
const ELEMENT: usize = 24;

/// The body that answers a :classify or a :regress.
pub fn write_results(result: Result<'_>) -> BytesMut {
    let mut out = BytesMut::with_capacity(ELEMENT * (2 + result.elements()));
    write_member(0, b"results", &mut out);
    out.put_u8(b'[');
    match result {
        Result::Classes(table) => write_classes(table, &mut out),
        Result::Values(_) => {
            for (number, value) in result.values().enumerate() {
                separate(number, &mut out);
                write_decimal(value, &mut out);
            }
        }
    }
    out.put_slice(b"]\n}");
    out
}

/// Writes a list for each Example, with a pair for each class.
fn write_classes(table: Table<'_>, out: &mut BytesMut) {
    for row in 0..table.rows {
        separate(row, out);
        out.put_u8(b'[');
        for (number, (label, score)) in table.pairs(row).enumerate() {
            separate(number, out);
            out.put_u8(b'[');
            write_string(label, out);
            out.put_slice(b", ");
            write_decimal(score, out);
            out.put_u8(b']');
        }
        out.put_u8(b']');
    }
    write_line(1, out);
}

fn separate(number: usize, out: &mut BytesMut) {
    if number > 0 {
        out.put_slice(b", ");
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    #[test]
    fn classes_and_values() {
        let scores = [0.25_f32, 1.0, -0.0, 1e-7].map(f32::to_le_bytes).concat();
        let labels = [Bytes::from_static(b"a\"b"), Bytes::new()];
        let table = Table { classes: None, scores: Some(&scores), columns: 2, rows: 2, labels: &labels };
        let text =
            "{\n    \"results\": [[[\"a\\\"b\", 0.25], [\"\", 1.0]], [[\"a\\\"b\", -0.0], [\"\", 1e-07]]\n    ]\n}";
        assert_eq!(write_results(Result::Classes(table)), text);
        assert_eq!(write_results(Result::Values(&scores)), "{\n    \"results\": [0.25, 1.0, -0.0, 1e-07]\n}");
    }
}
