//! Converts headers to metadata for Python, and back.

use http::{HeaderMap, HeaderName, HeaderValue};
use pyo3::exceptions::PyValueError;
use pyo3::prelude::*;
use pyo3::types::{PyBytes, PyString, PyTuple};

use crate::grpc;

/// The metadata among the headers of a request.
pub fn to_python<'py>(py: Python<'py>, headers: &HeaderMap) -> PyResult<Bound<'py, PyTuple>> {
    let pairs: Vec<_> = headers.iter().filter(|(name, _)| is_metadata(name)).map(|pair| pair_of(py, pair)).collect();
    PyTuple::new(py, pairs)
}

/// Whether a header is metadata, and not one of HTTP's or gRPC's own.
fn is_metadata(name: &HeaderName) -> bool {
    let name = name.as_str();
    !matches!(name, "te" | "content-type" | "grpc-timeout" | "grpc-encoding" | "grpc-accept-encoding")
}

type Pair<'py> = (String, Bound<'py, PyAny>);

fn pair_of<'py>(py: Python<'py>, (name, value): (&HeaderName, &HeaderValue)) -> Pair<'py> {
    let value = value.as_bytes();
    let binary = name.as_str().ends_with("-bin").then(|| grpc::decode_binary(value)).flatten();
    let value = match binary {
        Some(bytes) => PyBytes::new(py, &bytes).into_any(),
        None => PyString::new(py, &String::from_utf8_lossy(value)).into_any(),
    };
    (name.as_str().to_owned(), value)
}

/// The headers of a response. Only values of names that end in -bin are encoded.
pub fn from_python(metadata: Vec<(String, Bound<'_, PyAny>)>) -> PyResult<HeaderMap> {
    let mut headers = HeaderMap::with_capacity(metadata.len());
    for (name, value) in metadata {
        let name = HeaderName::try_from(name).map_err(|error| PyValueError::new_err(error.to_string()))?;
        let value = match value.cast::<PyBytes>() {
            Ok(bytes) if name.as_str().ends_with("-bin") => grpc::encode_binary(bytes.as_bytes()).into_bytes(),
            Ok(bytes) => bytes.as_bytes().to_vec(),
            Err(_) => value.extract::<String>()?.into_bytes(),
        };
        let value = HeaderValue::try_from(value).map_err(|error| PyValueError::new_err(error.to_string()))?;
        headers.append(name, value);
    }
    Ok(headers)
}
