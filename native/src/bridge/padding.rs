//! How inputs of different lengths are batched without the interpreter. `headrace_batching.padding` describes it, and
//! decides the lengths, the values, and where outputs are cut.

use std::collections::HashMap;

use pyo3::prelude::*;

/// For each axis beyond 0, the index of its length; None for an axis that is not padded.
type Axes = Vec<Option<usize>>;

/// The fields as Python passes them, by these names.
#[derive(FromPyObject)]
#[pyo3(from_item_all)]
pub struct PaddingFields {
    inputs: Vec<(Axes, Vec<u8>, bool)>,
    outputs: HashMap<String, Axes>,
    limits: Vec<usize>,
    shortest: usize,
}

/// How the inputs of one signature are padded.
pub struct Padding {
    inputs: Vec<Padded>,
    outputs: HashMap<String, Axes>,
    limits: Vec<usize>,
    /// The smallest length in tasks that are padded; a task with a smaller length is not padded.
    shortest: usize,
}

struct Padded {
    axes: Axes,
    /// The bytes of one element: the pad value.
    value: Vec<u8>,
    /// Whether a task is left unpadded if a row of this input contains nothing but the pad value.
    told_apart: bool,
}

/// A task's lengths, by their indices.
pub type Lengths = Vec<usize>;

impl From<PaddingFields> for Padding {
    fn from(fields: PaddingFields) -> Self {
        let padded = |(axes, value, told_apart)| Padded { axes, value, told_apart };
        let inputs = fields.inputs.into_iter().map(padded).collect();
        Self { inputs, outputs: fields.outputs, limits: fields.limits, shortest: fields.shortest }
    }
}

impl Padding {
    /// A task's lengths; `inner` are the dimensions beyond axis 0 of each input. If two inputs disagree, the first one
    /// counts.
    pub fn lengths<'a>(&self, inner: impl Iterator<Item = &'a [usize]>) -> Lengths {
        let mut lengths = Vec::new();
        for (input, inner) in self.inputs.iter().zip(inner) {
            for (number, size) in input.axes.iter().zip(inner).filter_map(|(axis, size)| Some(((*axis)?, *size))) {
                if number >= lengths.len() {
                    lengths.resize(number + 1, 0);
                }
                if lengths[number] == 0 {
                    lengths[number] = size;
                }
            }
        }
        lengths
    }

    /// The shapes in the key of a task with `rows` rows; None for a task that is not padded.
    ///
    /// `copy` writes the elements of the input with this number into the slice.
    pub fn shapes(&self, rows: usize, inner: &[&[usize]], copy: impl Fn(usize, &mut [u8])) -> Option<Vec<Vec<usize>>> {
        let lengths = self.lengths(inner.iter().copied());
        let agree = |number: usize| self.replaced(number, inner[number], &lengths) == inner[number];
        if !(0..inner.len()).all(agree) || lengths.iter().any(|length| *length < self.shortest) {
            return None;
        }
        for (number, input) in self.inputs.iter().enumerate().filter(|(_, input)| input.told_apart) {
            let mut elements = vec![0; rows * inner[number].iter().product::<usize>() * input.value.len()];
            copy(number, &mut elements);
            if elements.chunks_exact(elements.len() / rows).any(|row| input.is_padding(row)) {
                return None;
            }
        }
        let upper: Vec<_> = lengths.iter().map(|length| self.upper(*length)).collect();
        Some((0..inner.len()).map(|number| self.replaced(number, inner[number], &upper)).collect())
    }

    fn upper(&self, length: usize) -> usize {
        self.limits.get(self.limits.partition_point(|limit| *limit < length)).copied().unwrap_or(length)
    }

    /// An input's dimensions beyond axis 0, with its lengths replaced by these.
    pub fn replaced(&self, input: usize, inner: &[usize], lengths: &[usize]) -> Vec<usize> {
        let axes = inner.iter().zip(&self.inputs[input].axes);
        axes.map(|(size, number)| number.map_or(*size, |number| lengths[number])).collect()
    }

    /// Writes an input into its rows of a batch and pads it. Both shapes have the same number of rows; `place` has the
    /// shape `wide`.
    pub fn fill(&self, input: usize, place: &mut [u8], wide: &[usize], elements: &[u8], own: &[usize]) {
        let value = &self.inputs[input].value;
        place.chunks_exact_mut(value.len()).for_each(|element| element.copy_from_slice(value));
        put(place, wide, elements, own, value.len());
    }

    /// An output's shape, rows first, with these lengths; None if none of its axes has one of them.
    pub fn cut_shape(&self, alias: &str, shape: &[usize], lengths: &[usize]) -> Option<Vec<usize>> {
        let axes = self.outputs.get(alias).filter(|axes| axes.iter().any(Option::is_some))?;
        let cut = |(at, size): (usize, &usize)| match at.checked_sub(1).and_then(|at| axes.get(at)) {
            Some(Some(number)) => lengths[*number],
            _ => *size,
        };
        Some(shape.iter().enumerate().map(cut).collect())
    }

    /// The reason why an output of a padded batch with these lengths cannot be cut; None if it can.
    pub fn misfit(&self, alias: &str, shape: &[usize], lengths: &[usize]) -> Option<String> {
        let rank = self.outputs.get(alias).map_or(1, |axes| axes.len() + 1);
        let fits = shape.len() >= rank && self.cut_shape(alias, shape, lengths).is_none_or(|whole| whole == shape);
        (!fits).then(|| {
            format!(
                "Output {alias} of a padded batch has the shape {shape:?}, which does not have the lengths of the padded \
                 inputs: set pad_lengths to false for this model"
            )
        })
    }
}

impl Padded {
    /// Whether all elements are the pad value; zeros of either sign are equal.
    fn is_padding(&self, elements: &[u8]) -> bool {
        let zero = self.value.iter().all(|byte| *byte == 0);
        let is_value = |element: &[u8]| {
            let (high, low) = element.split_last().unwrap_or((&0, &[]));
            element == self.value || (zero && *high == 0x80 && low.iter().all(|byte| *byte == 0))
        };
        elements.chunks_exact(self.value.len()).all(is_value)
    }
}

/// Copies an array of the shape `own` into an array of the shape `wide`, to the beginning of each axis.
fn put(place: &mut [u8], wide: &[usize], elements: &[u8], own: &[usize], size: usize) {
    if wide == own {
        return place.copy_from_slice(elements);
    }
    let (step, own_step) = (step(wide, size), step(own, size));
    let rows = place.chunks_exact_mut(step).zip(elements.chunks_exact(own_step));
    rows.for_each(|(place, elements)| put(place, &wide[1..], elements, &own[1..], size));
}

/// Appends the beginning of each axis of an array of the shape `wide`: the appended part has the shape `own`.
pub fn cut(elements: &[u8], wide: &[usize], own: &[usize], size: usize, out: &mut Vec<u8>) {
    if wide == own {
        return out.extend_from_slice(elements);
    }
    let rows = elements.chunks_exact(step(wide, size)).take(own[0]);
    rows.for_each(|row| cut(row, &wide[1..], &own[1..], size, out));
}

/// The number of bytes from one element of the first axis to the next.
fn step(shape: &[usize], size: usize) -> usize {
    shape[1..].iter().product::<usize>() * size
}

#[cfg(test)]
mod tests {
    use super::*;

    fn texts() -> Padding {
        let inputs = vec![(vec![Some(0)], vec![9], false), (vec![Some(0)], vec![0], true)];
        let outputs = HashMap::from([("y".to_owned(), vec![Some(0), None])]);
        PaddingFields { inputs, outputs, limits: vec![4, 8], shortest: 2 }.into()
    }

    fn shapes(inner: &[&[usize]], mask: &[u8]) -> Option<Vec<Vec<usize>>> {
        texts().shapes(1, inner, |_, target| target.copy_from_slice(mask))
    }

    #[test]
    fn lengths_up_to_the_same_limit_have_one_key() {
        assert_eq!(shapes(&[&[3], &[3]], &[1, 0, 1]), Some(vec![vec![4], vec![4]]));
        assert_eq!(shapes(&[&[5], &[5]], &[1; 5]), Some(vec![vec![8], vec![8]]));
        assert_eq!(shapes(&[&[9], &[9]], &[1; 9]), Some(vec![vec![9], vec![9]]));
    }

    #[test]
    fn inputs_that_must_not_be_padded_have_no_padded_shape() {
        assert_eq!(shapes(&[&[3], &[1]], &[1]), None);
        assert_eq!(shapes(&[&[1], &[1]], &[1]), None);
        assert_eq!(shapes(&[&[3], &[3]], &[0, 0x80, 0]), None);
    }

    #[test]
    fn arrays_are_filled_up_and_cut_back() {
        let (wide, own) = ([2, 3, 2], [2, 2, 1]);
        let mut place = [0; 12];
        texts().fill(0, &mut place, &wide, &[1, 2, 3, 4], &own);
        assert_eq!(place, [1, 9, 2, 9, 9, 9, 3, 9, 4, 9, 9, 9]);
        let mut back = Vec::new();
        cut(&place, &wide, &own, 1, &mut back);
        assert_eq!(back, [1, 2, 3, 4]);
    }

    #[test]
    fn outputs_are_cut_along_the_padded_dimensions() {
        let padding = texts();
        assert_eq!(padding.cut_shape("y", &[2, 8, 7], &[3]), Some(vec![2, 3, 7]));
        assert_eq!(padding.cut_shape("z", &[2, 8], &[3]), None);
        assert!(padding.misfit("y", &[2, 8, 7], &[8]).is_none());
        assert!(padding.misfit("z", &[2], &[8]).is_none());
        assert!(padding.misfit("y", &[2, 7, 7], &[8]).is_some());
        assert!(padding.misfit("y", &[2], &[8]).is_some());
    }
}
