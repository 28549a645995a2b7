//! What is understood of a plain request: where it goes, its arrays, and how it is answered.

use std::sync::Arc;

use bytes::Bytes;

use super::protocol::{Answer, Protocol};
use crate::bridge::{Choice, Examples, Inference, Lane, Route, Routes, Signature};
use crate::examples::{self, columns};
use crate::open_inference;
use crate::predict::{Column, Request, Tensor, tensors};
use crate::protobuf::{Cursor, Dtype, Rope};

/// A plain request: where it goes, its arrays, its rows, and how it is answered.
pub struct Understood {
    pub signature: Arc<Signature>,
    pub lane: Lane,
    pub arrays: Arrays,
    pub rows: usize,
    /// The outputs that are wanted; None for all.
    pub choice: Option<Choice>,
    pub protocol: Protocol,
}

/// A request's arrays, in the order of its signature's inputs.
pub enum Arrays {
    /// Where they lie in the message.
    Tensors(Vec<Tensor>),
    /// Made of features of the message's Examples.
    Columns(Vec<Column>),
}

impl Arrays {
    /// The dimensions of one beyond axis 0.
    pub fn inner(&self, input: usize) -> &[usize] {
        match self {
            Self::Tensors(tensors) => &tensors[input].inner,
            Self::Columns(columns) => &columns[input].inner,
        }
    }

    /// Those of all.
    pub fn shapes(&self, inputs: usize) -> impl Iterator<Item = &[usize]> + Clone {
        (0..inputs).map(|input| self.inner(input))
    }

    /// Bytes that they take beside the message.
    pub fn held(&self) -> usize {
        match self {
            Self::Tensors(_) => 0,
            Self::Columns(columns) => columns.iter().map(|column| column.bytes.len()).sum(),
        }
    }

    /// Writes one as an array's bytes; `target` has room for exactly all.
    pub fn copy_to(&self, message: &Rope, input: usize, dtype: Dtype, target: &mut [u8]) {
        match self {
            Self::Tensors(tensors) => tensors[input].values.copy_to(message, dtype, target),
            Self::Columns(columns) => target.copy_from_slice(&columns[input].bytes),
        }
    }
}

/// The names that signatures are exported under, by which a MultiInference says what it asks for.
pub struct MethodNames {
    pub classify: String,
    pub regress: String,
}

impl Understood {
    /// Understands a plain Predict.
    pub fn predict(routes: &Routes, at: Cursor<'_>) -> Option<Self> {
        let request = Request::read(at)?;
        let Route { signature, lane, .. } = routes.find(&request.spec)?;
        let (tensors, rows) = tensors(&request, &signature.inputs, signature.max_rows)?;
        let arrays = Arrays::Tensors(tensors);
        Some(Self { signature, lane, arrays, rows, choice: None, protocol: Protocol::Predict })
    }

    /// Understands a plain ModelInfer, which is for the default signature.
    pub fn infer(routes: &Routes, at: Cursor<'_>) -> Option<Self> {
        let request = open_inference::Request::read(at)?;
        let route = routes.named(request.model, request.version, &[])?;
        let infer = route.infer.filter(|infer| request.wants(&infer.outputs))?;
        let signature = infer.signature.clone();
        let (tensors, rows) = open_inference::tensors(&request, &signature.inputs, signature.max_rows)?;
        let protocol = Protocol::Infer { infer, id: Bytes::copy_from_slice(request.id) };
        Some(Self { signature, lane: route.lane, arrays: Arrays::Tensors(tensors), rows, choice: None, protocol })
    }

    /// Understands a plain Classify or Regress, whichever `inference` gives.
    pub fn examples(
        routes: &Routes,
        at: Cursor<'_>,
        inference: impl Fn(&Examples) -> Option<&Arc<Inference>>,
    ) -> Option<Self> {
        let request = examples::Request::read(at)?;
        let Route { examples, lane, .. } = routes.find(&request.spec)?;
        let examples = examples?;
        let inference = inference(&examples)?.clone();
        let (signature, output) = (inference.signature.clone(), inference.output);
        let choice = signature.choose(|number, _| number == output).ok()?;
        let protocol = Protocol::Examples(Answer { examples, inference, output });
        Self::of_examples(signature, lane, choice, &request.input, protocol)
    }

    /// Understands a plain MultiInference of inferences that one run can serve.
    pub fn multi_inference(routes: &Routes, at: Cursor<'_>, names: &MethodNames) -> Option<Self> {
        let request = examples::MultiRequest::read(at)?;
        let specs: Vec<_> = request.inferences.iter().map(|inference| &inference.spec).collect();
        let name = specs.first()?.name.bytes()?;
        if specs.iter().any(|spec| spec.name.bytes() != Some(name)) {
            return None;
        }
        let routes = routes.several(&specs)?;
        let mut asked = Vec::with_capacity(routes.len());
        for (number, (route, inference)) in routes.iter().zip(&request.inferences).enumerate() {
            let is_named_twice = routes[..number].iter().any(|other| Arc::ptr_eq(&other.signature, &route.signature));
            let (examples, method) = (route.examples.as_ref()?, inference.method.bytes()?);
            let inference = match method {
                method if method == names.classify.as_bytes() => &examples.classify,
                method if method == names.regress.as_bytes() => &examples.regress,
                _ => &None,
            };
            (!is_named_twice).then_some(())?;
            asked.push((examples, inference.as_ref()?));
        }
        let source = source(&asked)?;
        let tensors = &asked[source].0.tensors;
        let answer = |each: &Asked<'_>| {
            let output = tensors.iter().position(|name| name == tensor(each))?;
            Some(Answer { examples: each.0.clone(), inference: each.1.clone(), output })
        };
        let answers = asked.iter().map(answer).collect::<Option<Vec<_>>>()?;
        let signature = asked[source].0.multi.clone();
        let wants = |number: usize, _: &str| asked.iter().any(|each| tensor(each) == tensors[number]);
        let choice = signature.choose(wants).ok()?;
        let lane = routes[source].lane.clone();
        Self::of_examples(signature, lane, choice, &request.input, Protocol::MultiInference(answers))
    }

    fn of_examples(
        signature: Arc<Signature>,
        lane: Lane,
        choice: Option<Choice>,
        input: &examples::Input<'_>,
        protocol: Protocol,
    ) -> Option<Self> {
        if input.rows > signature.max_rows {
            return None;
        }
        let arrays = Arrays::Columns(columns(input, &signature.inputs)?);
        Some(Self { signature, lane, arrays, rows: input.rows, choice, protocol })
    }
}

/// An inference that is asked for, and its signature.
type Asked<'a> = (&'a Arc<Examples>, &'a Arc<Inference>);

/// The model's name of the output that one needs.
fn tensor<'a>((examples, inference): &Asked<'a>) -> &'a str {
    &examples.tensors[inference.output]
}

/// The one whose run serves all; None where it takes several. As `services/tf_serving/examples/multi_inference.py`
/// chooses it: of those that have the inputs and the output, the one with the most outputs, the first of these.
fn source(asked: &[Asked<'_>]) -> Option<usize> {
    let of = |each: &Asked<'_>| {
        let has =
            |other: &Examples| other.inputs == each.0.inputs && other.tensors.iter().any(|name| name == tensor(each));
        let covering = asked.iter().enumerate().filter(|(_, (other, _))| has(other));
        covering.rev().max_by_key(|(_, (other, _))| other.tensors.len()).map(|(number, _)| number)
    };
    let source = of(asked.first()?)?;
    asked.iter().all(|each| of(each) == Some(source)).then_some(source)
}
