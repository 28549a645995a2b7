//! Writes classes with scores, or values, as the body of an answer, as in `services/tf_serving/rest/outputs.py`.

use bytes::{BufMut, BytesMut};

use super::values::{BETWEEN, write_member};
use crate::examples::{Result, Table};
use crate::json::{ESCAPED, LONGEST, write_decimal, write_line, write_string};
use crate::memory::{Growing, NoMemory};

/// The approximate size of a value, or of a pair of a label and a score without the label.
const ELEMENT: usize = 24;

/// Writes the body that answers a :classify or a :regress.
pub fn write_results(result: Result<'_>, out: &mut Growing<'_>) -> std::result::Result<(), NoMemory> {
    out.room(ELEMENT * (2 + result.elements()))?;
    write_member(0, b"results", out);
    out.put_u8(b'[');
    match result {
        Result::Classes(table) => write_classes(table, out)?,
        Result::Values(_) => {
            for (number, value) in result.values().enumerate() {
                out.room(LONGEST + BETWEEN)?;
                separate(number, out);
                write_decimal(value, out);
            }
        }
    }
    out.put_slice(b"]\n}");
    Ok(())
}

/// Writes a list for each Example, with a pair for each class.
fn write_classes(table: Table<'_>, out: &mut Growing<'_>) -> std::result::Result<(), NoMemory> {
    for row in 0..table.rows {
        out.room(BETWEEN)?;
        separate(row, out);
        out.put_u8(b'[');
        for (number, (label, score)) in table.pairs(row).enumerate() {
            out.room(ESCAPED * label.len() + LONGEST + BETWEEN)?;
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
    Ok(())
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
    use crate::memory::unlimited;

    fn written(result: Result<'_>) -> BytesMut {
        let memory = unlimited();
        let mut out = Growing::new(0, &memory);
        write_results(result, &mut out).unwrap();
        out.into_bytes()
    }

    #[test]
    fn classes_and_values() {
        let scores = [0.25_f32, 1.0, -0.0, 1e-7].map(f32::to_le_bytes).concat();
        let labels = [Bytes::from_static(b"a\"b"), Bytes::new()];
        let table = Table { classes: None, scores: Some(&scores), columns: 2, rows: 2, labels: &labels };
        let text =
            "{\n    \"results\": [[[\"a\\\"b\", 0.25], [\"\", 1.0]], [[\"a\\\"b\", -0.0], [\"\", 1e-07]]\n    ]\n}";
        assert_eq!(written(Result::Classes(table)), text);
        assert_eq!(written(Result::Values(&scores)), "{\n    \"results\": [0.25, 1.0, -0.0, 1e-07]\n}");
    }
}
