//! The caller's span, as W3C Trace Context writes it.

use http::HeaderValue;

/// The flag that says that the caller traces its request.
const SAMPLED: u8 = 1;

/// The lengths of the version, the two IDs and the flags, in hexadecimal digits.
const PARTS: [usize; 4] = [2, 32, 16, 2];

/// The caller's span.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Parent {
    pub trace_id: [u8; 16],
    pub span_id: [u8; 8],
    pub sampled: bool,
}

impl Parent {
    /// Reads a traceparent; None if it is invalid. `monitoring/sampling.py` does the same.
    pub fn of(header: &HeaderValue) -> Option<Self> {
        let mut rest = header.as_bytes();
        let mut parts = [&[][..]; PARTS.len()];
        for (number, (part, size)) in parts.iter_mut().zip(PARTS).enumerate() {
            if number > 0 {
                rest = rest.strip_prefix(b"-")?;
            }
            (*part, rest) = rest.split_at_checked(size)?;
        }
        let [version, trace_id, span_id, flags] = parts;
        // Later versions may add more fields.
        let ends = rest.is_empty() || rest.starts_with(b"-");
        let parent = Self {
            trace_id: number(trace_id)?.to_be_bytes(),
            span_id: (number(span_id)? as u64).to_be_bytes(),
            sampled: number(flags)? as u8 & SAMPLED != 0,
        };
        let valid = ends && number(version)? != 0xff && parent.trace_id != [0; 16] && parent.span_id != [0; 8];
        valid.then_some(parent)
    }
}

/// Parses hexadecimal digits in lower case; None if there is anything else.
fn number(digits: &[u8]) -> Option<u128> {
    digits.iter().try_fold(0, |number, digit| {
        let value = match digit {
            b'0'..=b'9' => digit - b'0',
            b'a'..=b'f' => digit - b'a' + 10,
            _ => return None,
        };
        Some(number << 4 | u128::from(value))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const TRACE: &str = "0af7651916cd43dd8448eb211c80319c";
    const SPAN: &str = "b7ad6b7169203331";

    fn parent(text: &str) -> Option<Parent> {
        Parent::of(&HeaderValue::from_str(text).expect("it is plain"))
    }

    #[test]
    fn a_traceparent() {
        let found = parent(&format!("00-{TRACE}-{SPAN}-01")).expect("it is valid");
        assert_eq!((found.trace_id[0], found.trace_id[15], found.sampled), (0x0a, 0x9c, true));
        assert_eq!((found.span_id[0], found.span_id[7]), (0xb7, 0x31));
        assert!(!parent(&format!("00-{TRACE}-{SPAN}-02")).expect("it is valid").sampled);
        assert!(parent(&format!("01-{TRACE}-{SPAN}-03-what-a-later-version-adds")).is_some());
    }

    #[test]
    fn texts_that_are_no_parent() {
        for text in [
            "",
            "01",
            &format!("ff-{TRACE}-{SPAN}-01"),
            &format!("00-{}-{SPAN}-01", "0".repeat(32)),
            &format!("00-{TRACE}-{}-01", "0".repeat(16)),
            &format!("00-{}-{SPAN}-01", TRACE.to_uppercase()),
            &format!("00-{TRACE}-{SPAN}"),
            &format!("00-{TRACE}-{SPAN}-01x"),
            &format!("00-{TRACE}-{SPAN}_01"),
        ] {
            assert_eq!(parent(text), None, "{text}");
        }
    }
}
