//! How each kind of plain call is answered: the size of the response is computed, and then the response is written from
//! the outputs of the batch.

use std::ops::Range;
use std::sync::Arc;

use bytes::Bytes;
use pyo3::prelude::*;
use pyo3::types::{PyDict, PySlice};

use crate::bridge::{Examples, Infer, Inference, InferenceKind, Signature};
use crate::examples::{self, Table};
use crate::open_inference;
use crate::predict::{self, Output};
use crate::protobuf::{Dtype, Rows, Writer};

/// How a call is answered.
pub enum Protocol {
    Predict,
    Infer {
        infer: Arc<Infer>,
        id: Bytes,
    },
    /// Classify or Regress.
    Examples(Answer),
    /// One answer for each inference.
    MultiInference(Vec<Answer>),
}

/// One inference, and the common data of its signature's answers.
pub struct Answer {
    pub examples: Arc<Examples>,
    pub inference: Arc<Inference>,
    /// The number of Examples.
    pub rows: usize,
    /// For each of the inference's outputs, its position among the outputs of the signature that is run.
    pub outputs: Vec<usize>,
}

/// A response of known size, ready to be written.
pub enum Response<'a> {
    Predict(predict::Response<'a>),
    Infer(open_inference::Response<'a>),
    Examples(examples::Response<'a>),
}

impl Response<'_> {
    pub fn encoded_len(&self) -> usize {
        match self {
            Self::Predict(response) => response.encoded_len(),
            Self::Infer(response) => response.encoded_len(),
            Self::Examples(response) => response.encoded_len(),
        }
    }

    /// A text that describes the largest output.
    pub fn largest(&self) -> String {
        match self {
            Self::Predict(response) => response.largest(),
            Self::Infer(response) => response.largest(),
            Self::Examples(_) => String::new(),
        }
    }

    pub fn encode(&self, out: &mut Writer<'_>) {
        match self {
            Self::Predict(response) => response.encode(out),
            Self::Infer(response) => response.encode(out),
            Self::Examples(response) => response.encode(out),
        }
    }
}

impl Protocol {
    /// The text that the error for a full queue contains: the reason, or, for a ModelInfer, the request's ID.
    pub fn reason_of_full(&self, reason: &str) -> String {
        match self {
            Self::Infer { id, .. } if id.is_empty() => "<id_unknown>".to_owned(),
            Self::Infer { id, .. } => String::from_utf8_lossy(id).into_owned(),
            _ => reason.to_owned(),
        }
    }

    /// The response for these rows of a signature's outputs; None if the outputs do not fit.
    pub fn response<'a>(
        &'a self,
        signature: &'a Signature,
        outputs: &[Output<'a>],
        rows: Range<usize>,
    ) -> Option<Response<'a>> {
        Some(match self {
            Self::Predict => Response::Predict(predict::Response::new(&signature.format, outputs, rows)),
            Self::Infer { infer, id } => {
                Response::Infer(open_inference::Response::new(&infer.format, id, outputs, rows))
            }
            Self::Examples(answer) => {
                let result = answer.result(signature, outputs, &rows)?;
                Response::Examples(examples::Response::new(&answer.examples.format, result))
            }
            Self::MultiInference(answers) => {
                let result =
                    |answer: &'a Answer| Some((&answer.examples.format, answer.result(signature, outputs, &rows)?));
                let results = answers.iter().map(result).collect::<Option<Vec<_>>>()?;
                Response::Examples(examples::multi_response(results.into_iter()))
            }
        })
    }

    fn answers(&self) -> &[Answer] {
        match self {
            Self::Predict | Self::Infer { .. } => &[],
            Self::Examples(answer) => std::slice::from_ref(answer),
            Self::MultiInference(answers) => answers,
        }
    }

    /// The number of the call's Examples; None for a call without Examples.
    pub fn examples(&self) -> Option<usize> {
        self.answers().first().map(|answer| answer.rows)
    }

    /// Whether the outputs have the dtypes and shapes that an answer needs.
    pub fn fits(&self, signature: &Signature, outputs: &[Output<'_>], rows: &Range<usize>) -> bool {
        self.answers().iter().all(|answer| answer.result(signature, outputs, rows).is_some())
    }

    /// Makes Python raise an error that says how the outputs are wrong; `rows` are the call's own, and None means all.
    pub fn misfit(
        &self,
        signature: &Signature,
        outputs: &Bound<'_, PyDict>,
        rows: Option<Range<usize>>,
    ) -> PyResult<()> {
        self.answers().iter().try_for_each(|answer| answer.misfit(signature, outputs, rows.as_ref()))
    }
}

/// A call's own rows of an output: the number of rows, the rows, and the dimensions beyond axis 0.
struct Own<'a> {
    count: usize,
    rows: Rows<'a>,
    inner: &'a [usize],
}

impl Answer {
    /// Raises a Python exception that says why the outputs have no result for these rows; `None` means all rows.
    pub fn misfit(
        &self,
        signature: &Signature,
        outputs: &Bound<'_, PyDict>,
        rows: Option<&Range<usize>>,
    ) -> PyResult<()> {
        let py = outputs.py();
        let arrays = PyDict::new(py);
        for (source, place) in self.inference.sources().zip(&self.outputs) {
            let mut array = outputs.as_any().get_item(&signature.outputs[*place])?;
            if let Some(rows) = rows {
                array = array.get_item(PySlice::new(py, rows.start as isize, rows.end as isize, 1))?;
            }
            arrays.set_item(&source.alias, array)?;
        }
        self.inference.check.call1(py, (arrays, self.rows)).map(drop)
    }

    /// The result in these rows of the outputs; `None` if the outputs' shapes cannot be an answer. TF Serving:
    /// classifier.cc and regressor.cc define the shapes of an answer.
    pub fn result<'a>(
        &'a self,
        signature: &Signature,
        outputs: &[Output<'a>],
        rows: &Range<usize>,
    ) -> Option<examples::Result<'a>> {
        let mut places = self.outputs.iter();
        let mut own = |is_there: bool, dtype: Dtype| match is_there {
            true => own(&signature.outputs[*places.next()?], dtype, outputs, rows)
                .filter(|own| own.count == self.rows)
                .map(Some),
            false => Some(None),
        };
        let inference = &self.inference;
        let classes = own(inference.classes.is_some(), Dtype::String)?;
        let values = own(inference.values.is_some(), Dtype::Float)?;
        match &inference.result {
            InferenceKind::Values => {
                let values = values?;
                matches!(values.inner, [] | [1]).then_some(examples::Result::Values(values.rows.bytes))
            }
            InferenceKind::Classes { labels } => table(classes, values, labels, self.rows),
        }
    }
}

/// A call's rows of the output with this alias; None if the output is missing or has another dtype.
fn own<'a>(alias: &str, dtype: Dtype, outputs: &[Output<'a>], rows: &Range<usize>) -> Option<Own<'a>> {
    let output = outputs.iter().find(|output| output.alias == alias)?;
    let own = output.rows(rows);
    let (count, inner) = match own.rows {
        Some(rows) => (rows, own.inner),
        None => own.inner.split_first().map(|(rows, inner)| (*rows, inner))?,
    };
    (output.dtype == dtype).then_some(Own { count, rows: own, inner })
}

/// Combines classes and scores, one of which may be missing, into a table. None if both are missing, if their shapes
/// differ or are not rows of columns, if there are labels but not one for each column, or if a class is not UTF-8.
fn table<'a>(
    classes: Option<Own<'a>>,
    scores: Option<Own<'a>>,
    labels: &'a [Bytes],
    rows: usize,
) -> Option<examples::Result<'a>> {
    let labels = if classes.is_some() { &[] } else { labels };
    let &[columns] = scores.as_ref().or(classes.as_ref())?.inner else { return None };
    let both = [&classes, &scores];
    let fits = both.into_iter().flatten().all(|own| own.inner == [columns])
        && (labels.is_empty() || labels.len() == columns)
        && classes.iter().all(|own| own.rows.strings().all(|class| std::str::from_utf8(class).is_ok()));
    let table = Table {
        classes: classes.map(|own| (own.rows.bytes, own.rows.text)),
        scores: scores.map(|own| own.rows.bytes),
        columns,
        rows,
        labels,
    };
    fits.then_some(examples::Result::Classes(table))
}
