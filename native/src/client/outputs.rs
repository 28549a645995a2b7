//! Decodes a PredictResponse: each array's values are copied once, from the received bytes.

use pyo3::prelude::*;
use pyo3::sync::PyOnceLock;
use pyo3::types::{PyDict, PyTuple};

use crate::buffer::Buffer;
use crate::predict::Text;
use crate::protobuf::{CONTENT, Cursor, Dtype, Rope, Values, wire};

/// The number of dimensions that every release of numpy supports (numpy 2 supports 64).
const MAX_RANK: usize = 32;

/// An output: its name, its shape, and the position of its values.
pub struct Output {
    pub alias: String,
    pub dtype: Dtype,
    pub shape: Vec<usize>,
    pub values: Values,
}

/// The outputs of an answer; None if any of them is left to Python: strings, arrays without elements, single values
/// that stand for several, dtypes that numpy itself lacks.
pub fn read(message: &Rope) -> Option<Vec<Output>> {
    let mut at = message.cursor();
    let mut outputs = Vec::new();
    while at.left() > 0 {
        match wire::tag(&mut at)? {
            (1, wire::LENGTH) => outputs.push(entry(wire::delimited(&mut at)?)?),
            (2, wire::LENGTH) => {
                wire::delimited(&mut at)?;
            }
            _ => return None,
        }
    }
    Some(outputs)
}

/// The outputs in a message as arrays, by name.
pub fn arrays<'py>(py: Python<'py>, message: &Rope) -> PyResult<Option<Bound<'py, PyDict>>> {
    let Some(outputs) = read(message) else { return Ok(None) };
    let arrays = PyDict::new(py);
    for output in outputs {
        arrays.set_item(&output.alias, output.array(py, message)?)?;
    }
    Ok(Some(arrays))
}

impl Output {
    fn array<'py>(&self, py: Python<'py>, message: &Rope) -> PyResult<Bound<'py, PyAny>> {
        // The buffer of a scalar has no shape that could be checked, so its array is created with one dimension.
        let shape = if self.shape.is_empty() { &[1][..] } else { &self.shape };
        let array = numpy(py)?.empty.bind(py).call1((PyTuple::new(py, shape)?, dtype(py, self.dtype)?))?;
        let buffer = Buffer::to_join_in(&array, shape, self.dtype)?;
        self.values.copy_to(message, self.dtype, buffer.bytes_mut());
        if self.shape.is_empty() { array.call_method1("reshape", (PyTuple::empty(py),)) } else { Ok(array) }
    }
}

fn entry(mut at: Cursor<'_>) -> Option<Output> {
    let (mut alias, mut tensor) = (Text::default(), None);
    while at.left() > 0 {
        match wire::tag(&mut at)? {
            (1, wire::LENGTH) => alias.fill(&mut at)?,
            (2, wire::LENGTH) if tensor.is_none() => tensor = Some(wire::delimited(&mut at)?),
            _ => return None,
        }
    }
    let alias = std::str::from_utf8(alias.bytes()?).ok()?.to_owned();
    let (dtype, shape, values) = proto(tensor?)?;
    Some(Output { alias, dtype, shape, values })
}

/// A TensorProto in which every field appears at most once.
fn proto(mut at: Cursor<'_>) -> Option<(Dtype, Vec<usize>, Values)> {
    let (mut dtype, mut dims, mut found) = (None, None, None);
    while at.left() > 0 {
        match wire::tag(&mut at)? {
            (1, wire::VARINT) if dtype.is_none() => dtype = Some(Dtype::of_number(wire::varint(&mut at)?)?),
            (2, wire::LENGTH) if dims.is_none() => dims = Some(shape(wire::delimited(&mut at)?)?),
            (field, wire::LENGTH) if field >= CONTENT && found.is_none() => {
                found = Some((field, wire::delimited(&mut at)?));
            }
            _ => return None,
        }
    }
    let (dtype, shape, (field, values)) = (dtype?, dims.unwrap_or_default(), found?);
    let count = shape.iter().try_fold(1, |product: usize, size| product.checked_mul(*size))?;
    if count == 0 || dtype == Dtype::String {
        return None;
    }
    let values = match field {
        CONTENT => Values::content(dtype, count, values),
        field if field == dtype.field() => Values::packed(dtype, count, values),
        _ => None,
    };
    Some((dtype, shape, values?))
}

fn shape(mut at: Cursor<'_>) -> Option<Vec<usize>> {
    let mut dims = Vec::new();
    while at.left() > 0 {
        let (2, wire::LENGTH) = wire::tag(&mut at)? else { return None };
        let mut dim = wire::delimited(&mut at)?;
        let (1, wire::VARINT) = wire::tag(&mut dim)? else { return None };
        dims.push(usize::try_from(i64::try_from(wire::varint(&mut dim)?).ok()?).ok()?);
        if dim.left() > 0 || dims.len() > MAX_RANK {
            return None;
        }
    }
    Some(dims)
}

/// The functions of numpy that are used.
struct Numpy {
    empty: Py<PyAny>,
    dtype: Py<PyAny>,
}

fn numpy(py: Python<'_>) -> PyResult<&'static Numpy> {
    static FOUND: PyOnceLock<Numpy> = PyOnceLock::new();
    FOUND.get_or_try_init(py, || {
        let module = py.import("numpy")?;
        Ok(Numpy { empty: module.getattr("empty")?.unbind(), dtype: module.getattr("dtype")?.unbind() })
    })
}

fn dtype(py: Python<'_>, dtype: Dtype) -> PyResult<&Bound<'_, PyAny>> {
    static FOUND: [PyOnceLock<Py<PyAny>>; Dtype::COUNT] = [const { PyOnceLock::new() }; Dtype::COUNT];
    let look_up = || numpy(py)?.dtype.call1(py, (dtype.name(),));
    FOUND[dtype as usize].get_or_try_init(py, look_up).map(|found| found.bind(py))
}
