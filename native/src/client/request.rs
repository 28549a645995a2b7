//! A request to be sent: its path, and its message after gRPC's prefix.

use bytes::{BufMut, Bytes, BytesMut};
use http::uri::PathAndQuery;
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use super::inputs::Inputs;
use crate::grpc::{PREFIX, prefix_of};

/// A message for a method.
#[derive(Clone, Debug)]
pub struct Message {
    pub path: PathAndQuery,
    /// The message with its prefix.
    pub body: Vec<Bytes>,
    /// The length of the message in bytes, without the prefix.
    pub length: usize,
}

/// A request, which Python keeps until it has been sent, perhaps several times.
#[pyclass(frozen, module = "headrace_native")]
pub struct ClientRequest {
    pub message: Message,
    /// Whether the answer is a PredictResponse whose outputs are to become arrays.
    pub arrays: bool,
}

#[pymethods]
impl ClientRequest {
    /// Makes a request for a full path. The message is `message`, followed by a Predict's `inputs`, arrays by name.
    /// Raises BufferError for an array that cannot be encoded here: a scalar, or one that is not contiguous or whose
    /// dtype is not supported. With `arrays`, the answer is a PredictResponse whose outputs are wanted as arrays.
    #[new]
    #[pyo3(signature = (path, message, inputs=None, arrays=false))]
    fn new(path: &str, message: &[u8], inputs: Option<&Bound<'_, PyDict>>, arrays: bool) -> PyResult<Self> {
        let inputs = inputs.map_or_else(|| Ok(Inputs::default()), Inputs::of)?;
        let length = message.len() + inputs.encoded_len();
        if u32::try_from(length).is_err() {
            return Err(PyValueError::new_err("a message in gRPC must be smaller than 4 GiB"));
        }
        let path = PathAndQuery::try_from(path).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let mut out = BytesMut::with_capacity(PREFIX + message.len() + inputs.copied_len());
        out.put_slice(&prefix_of(false, length));
        out.put_slice(message);
        Ok(Self { message: Message { path, body: inputs.encode(out), length }, arrays })
    }

    /// The length of the message in bytes.
    fn __len__(&self) -> usize {
        self.message.length
    }
}
