//! A bound on a request's floating-point numbers, within which the request may share a batch.

use crate::protobuf::Dtype;

/// The largest allowed number of each floating-point type, as bits without a sign.
///
/// The bits of positive numbers have the same order as the numbers, followed by infinity and NaN.
#[derive(Clone, Copy, Debug)]
pub struct Magnitude {
    half: u16,
    float: u32,
    double: u64,
}

const LARGEST_HALF: (f64, u16) = (65504.0, 0x7bff);

impl Magnitude {
    /// `bound` is finite and positive. Every finite half-precision value is within any bound, since all bounds that
    /// Python tries (`backends/independence/bounded.py`) are larger than the largest of these values, 65,504.
    pub fn new(bound: f64) -> Self {
        #[expect(
            clippy::cast_possible_truncation,
            reason = "a bound beyond the largest float is replaced by that float"
        )]
        let float = (bound as f32).min(f32::MAX);
        Self { half: LARGEST_HALF.1, float: float.to_bits(), double: bound.to_bits() }
    }

    /// Whether elements of this type are limited.
    pub fn limits(dtype: Dtype) -> bool {
        matches!(dtype, Dtype::Half | Dtype::Float | Dtype::Double)
    }

    /// Whether all elements are within the limit, and none is infinite or NaN.
    pub fn holds(self, dtype: Dtype, elements: &[u8]) -> bool {
        match dtype {
            Dtype::Half => largest(elements, |bytes| u16::from_le_bytes(bytes) & 0x7fff) <= self.half,
            Dtype::Float => largest(elements, |bytes| u32::from_le_bytes(bytes) & 0x7fff_ffff) <= self.float,
            Dtype::Double => largest(elements, |bytes| u64::from_le_bytes(bytes) & (u64::MAX >> 1)) <= self.double,
            _ => true,
        }
    }
}

/// The largest of the elements' bits. There is no branch, so that many elements are compared together.
fn largest<const SIZE: usize, T: Ord + Default>(elements: &[u8], bits: impl Fn([u8; SIZE]) -> T) -> T {
    elements.as_chunks().0.iter().fold(T::default(), |most, bytes| most.max(bits(*bytes)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn holds(number: f32) -> bool {
        let elements: Vec<_> = [1.0, number, -2.0].into_iter().flat_map(f32::to_le_bytes).collect();
        Magnitude::new(1e6).holds(Dtype::Float, &elements)
    }

    #[test]
    fn numbers_up_to_the_bound_are_within_it() {
        assert!([0.0, -0.0, 1e6, -1e6, f32::MIN_POSITIVE, 1e-45].into_iter().all(holds));
    }

    #[test]
    fn larger_infinite_and_nan_values_are_not_within_it() {
        assert!(
            ![1.000_001e6, -1.1e6, f32::MAX, f32::INFINITY, f32::NEG_INFINITY, f32::NAN, -f32::NAN]
                .into_iter()
                .any(holds)
        );
    }

    #[test]
    fn values_of_other_types_are_compared_as_well() {
        let bound = Magnitude::new(1e300);
        assert!(bound.holds(Dtype::Double, &1e300_f64.to_le_bytes()));
        assert!(!bound.holds(Dtype::Double, &1.1e300_f64.to_le_bytes()));
        assert!(bound.holds(Dtype::Float, &f32::MAX.to_le_bytes()));
        assert!(!bound.holds(Dtype::Float, &f32::NAN.to_le_bytes()));
        assert!(bound.holds(Dtype::Half, &0x7bff_u16.to_le_bytes()));
        assert!(!bound.holds(Dtype::Half, &0xfc00_u16.to_le_bytes()));
        assert!(bound.holds(Dtype::Int64, &u64::MAX.to_le_bytes()));
    }
}
