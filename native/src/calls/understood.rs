//! The content of a plain request: its route, its arrays, and how it is answered.

use std::sync::Arc;

use bytes::Bytes;

use super::protocol::{Answer, Protocol};
use crate::bridge::{Choice, Examples, Inference, Lane, Route, Routes, Signature};
use crate::examples::{self, columns, serialized};
use crate::grpc::Status;
use crate::open_inference::{self, Regions, SharedTensor, Tensors};
use crate::predict::{self, Column, Request, Text, tensors};
use crate::protobuf::{Cursor, Dtype, Rope};

/// A plain request: its route, its arrays, its rows, and how it is answered.
pub struct Understood {
    pub signature: Arc<Signature>,
    pub lane: Lane,
    pub arrays: Arrays,
    pub rows: usize,
    /// The wanted outputs; None means all.
    pub choice: Option<Choice>,
    pub protocol: Protocol,
}

/// A request's arrays, in the order of its signature's inputs.
pub enum Arrays {
    /// The positions of the arrays in the message.
    Tensors(predict::Tensors),
    /// Arrays that were made from features of the message's Examples.
    Columns(Vec<Column>),
    /// Arrays in shared memory that the message names.
    Shared(Vec<SharedTensor>),
}

impl Arrays {
    /// The dimensions of one array beyond axis 0.
    pub fn inner(&self, input: usize) -> &[usize] {
        match self {
            Self::Tensors(tensors) => &tensors[input].inner,
            Self::Columns(columns) => &columns[input].inner,
            Self::Shared(tensors) => &tensors[input].inner,
        }
    }

    /// The dimensions of all arrays.
    pub fn shapes(&self, inputs: usize) -> impl Iterator<Item = &[usize]> + Clone {
        (0..inputs).map(|input| self.inner(input))
    }

    /// The number of bytes that the arrays need besides the message.
    pub fn held(&self) -> usize {
        match self {
            Self::Tensors(tensors) => tensors.iter().map(predict::Tensor::held).sum(),
            Self::Columns(columns) => columns.iter().map(Column::held).sum(),
            Self::Shared(_) => 0,
        }
    }

    /// Writes one array's bytes; `target` has exactly their size.
    pub fn copy_to(&self, message: &Rope, input: usize, dtype: Dtype, target: &mut [u8]) {
        match self {
            Self::Tensors(tensors) => tensors[input].copy_to(message, dtype, target),
            Self::Columns(columns) => target.copy_from_slice(&columns[input].bytes),
            Self::Shared(tensors) => tensors[input].part.copy_to(target),
        }
    }

    /// The reason why the request cannot be answered although its batch has run; None if it can.
    pub fn refusal(&self) -> Option<Status> {
        match self {
            Self::Tensors(_) | Self::Columns(_) => None,
            Self::Shared(tensors) => tensors.iter().find_map(|tensor| tensor.part.refusal()),
        }
    }

    /// Visits the strings of one array.
    pub fn strings(&self, message: &Rope, input: usize, visit: &mut dyn FnMut(&[u8])) {
        match self {
            Self::Tensors(tensors) => tensors[input].strings(message, visit),
            Self::Columns(columns) => columns[input].strings(visit),
            Self::Shared(_) => {} // tensors in shared memory are not strings
        }
    }
}

/// The method names by which a MultiInference says what each inference is.
pub struct MethodNames {
    pub classify: String,
    pub regress: String,
}

impl Understood {
    /// Parses a plain Predict.
    pub fn predict(routes: &Routes, at: Cursor<'_>) -> Option<Self> {
        let request = Request::read(at)?;
        let route = routes.find(&request.spec)?;
        let (signature, lane) = (route.signature.clone(), route.lane.clone());
        let (tensors, rows) = tensors(&request, &signature.inputs, signature.rows())?;
        let choice = if request.wanted.is_empty() { None } else { wanted(&request, &signature)? };
        Some(Self { signature, lane, arrays: Arrays::Tensors(tensors), rows, choice, protocol: Protocol::Predict })
    }

    /// Parses a plain ModelInfer, which is for the default signature.
    pub fn infer(routes: &Routes, regions: &Regions, at: Cursor<'_>) -> Option<Self> {
        let request = open_inference::Request::read(at)?;
        let route = routes.named(request.model, request.version.into(), &[])?;
        let infer = route.infer.clone().filter(|infer| request.wants(&infer.outputs))?;
        let signature = infer.signature.clone();
        let (tensors, rows) = Tensors::of(&request, &signature.inputs, signature.max_rows, regions)?;
        let arrays = match tensors {
            Tensors::Raw(tensors) => Arrays::Tensors(tensors),
            Tensors::Shared(tensors) => Arrays::Shared(tensors),
        };
        let protocol = Protocol::Infer { infer, id: Bytes::copy_from_slice(request.id) };
        Some(Self { signature, lane: route.lane.clone(), arrays, rows, choice: None, protocol })
    }

    /// Parses a plain Classify or Regress; `inference` chooses which of the two.
    pub fn examples(
        routes: &Routes,
        at: Cursor<'_>,
        inference: impl Fn(&Examples) -> Option<&Arc<Inference>>,
    ) -> Option<Self> {
        let request = examples::Request::read(at)?;
        let route = routes.find(&request.spec)?;
        let inference = inference(route.examples.as_ref()?)?;
        Self::of_examples(&route, &request.input, inference, &inference.signature)
    }

    /// Decodes Examples for one inference of a route. `signature` is that of the inference for calls over gRPC or over
    /// REST.
    pub fn of_examples(
        route: &Route,
        input: &examples::Input<'_>,
        inference: &Arc<Inference>,
        signature: &Arc<Signature>,
    ) -> Option<Self> {
        let (examples, inference, signature) = (route.examples.clone()?, inference.clone(), signature.clone());
        let outputs: Vec<_> = inference.sources().map(|source| source.output).collect();
        let choice = signature.choose(|number, _| outputs.contains(&number)).ok()?;
        let arrays = arrays(input, &examples, &signature)?;
        let protocol = Protocol::Examples(Answer { examples, inference, rows: input.rows, outputs });
        let rows = if signature.batched { input.rows } else { 1 };
        Some(Self { signature, lane: route.lane.clone(), arrays, rows, choice, protocol })
    }

    /// Parses a plain MultiInference whose inferences one run can serve.
    pub fn multi_inference(routes: &Routes, at: Cursor<'_>, names: &MethodNames) -> Option<Self> {
        let request = examples::MultiRequest::read(at)?;
        let specs: Vec<_> = request.inferences.iter().map(|inference| &inference.spec).collect();
        let name = specs.first()?.name.bytes()?;
        if specs.iter().any(|spec| spec.name.bytes() != Some(name)) {
            return None;
        }
        let routes = routes.several(&specs)?;
        let asked = asked(&routes, &request.inferences, names)?;
        let source = source(&asked)?;
        let tensors = &asked[source].0.tensors;
        let answer = |each: &Asked<'_>| {
            let place = |tensor: &str| tensors.iter().position(|name| name == tensor);
            let outputs = tensors_of(each).map(place).collect::<Option<_>>()?;
            Some(Answer { examples: each.0.clone(), inference: each.1.clone(), rows: request.input.rows, outputs })
        };
        let answers = asked.iter().map(answer).collect::<Option<Vec<_>>>()?;
        let signature = asked[source].0.multi.clone();
        let wants = |number: usize, _: &str| asked.iter().flat_map(tensors_of).any(|tensor| tensor == tensors[number]);
        let choice = signature.choose(wants).ok()?;
        let arrays = arrays(&request.input, asked[source].0, &signature)?;
        let rows = if signature.batched { request.input.rows } else { 1 };
        let lane = routes[source].lane.clone();
        Some(Self { signature, lane, arrays, rows, choice, protocol: Protocol::MultiInference(answers) })
    }
}

/// A signature's inputs, made from Examples.
fn arrays(input: &examples::Input<'_>, examples: &Examples, signature: &Signature) -> Option<Arrays> {
    if signature.rows().is_some_and(|most| input.rows > most) {
        return None;
    }
    let skipped = usize::from(!signature.batched);
    let mut columns =
        if examples.serialized { vec![serialized(input)?] } else { columns(input, &signature.inputs, skipped)? };
    if !signature.batched {
        // Without a batch axis, the number of rows is a dimension like any other.
        signature.inputs.iter().all(|own| own.takes_rows(input.rows)).then_some(())?;
        columns.iter_mut().for_each(|column| column.inner.insert(0, input.rows));
    }
    Some(Arrays::Columns(columns))
}

/// Chooses the outputs that a Predict names; Some(None) if these are all of them. None if it names an unknown output or
/// one of them twice, or if the signature has too many outputs for a choice.
fn wanted(request: &Request<'_>, signature: &Signature) -> Option<Option<Choice>> {
    let named = request.wanted.iter().map(Text::bytes).collect::<Option<Vec<_>>>()?;
    let count = |alias: &str| named.iter().filter(|name| **name == alias.as_bytes()).count();
    let found: usize = signature.outputs.iter().map(|alias| count(alias).min(1)).sum();
    (found == named.len()).then(|| signature.choose(|_, alias| count(alias) > 0).ok())?
}

/// A requested inference, and its signature.
type Asked<'a> = (&'a Arc<Examples>, &'a Arc<Inference>);

/// The inferences of a MultiInference; None if two of them name the same signature, or if one is not plain.
fn asked<'a>(
    routes: &'a [Arc<Route>],
    inferences: &[examples::Inference<'_>],
    names: &MethodNames,
) -> Option<Vec<Asked<'a>>> {
    let mut asked = Vec::with_capacity(routes.len());
    for (number, (route, inference)) in routes.iter().zip(inferences).enumerate() {
        let is_named_twice = routes[..number].iter().any(|other| Arc::ptr_eq(&other.signature, &route.signature));
        (!is_named_twice).then_some(())?;
        let (examples, method) = (route.examples.as_ref()?, inference.method.bytes()?);
        let inference = match method {
            method if method == names.classify.as_bytes() => &examples.classify,
            method if method == names.regress.as_bytes() => &examples.regress,
            _ => &None,
        };
        asked.push((examples, inference.as_ref()?));
    }
    Some(asked)
}

/// The model's names of the outputs that one inference needs.
fn tensors_of<'a>((examples, inference): &Asked<'a>) -> impl Iterator<Item = &'a str> + use<'a> {
    let examples: &'a Examples = examples;
    inference.sources().map(|source| examples.tensors[source.output].as_str())
}

/// The inference whose run serves all; None if several runs are needed. It is chosen as in
/// `services/tf_serving/examples/multi_inference.py`: of those that have all the inputs and outputs, the first one with
/// the most outputs.
fn source(asked: &[Asked<'_>]) -> Option<usize> {
    let of = |each: &Asked<'_>| {
        let has = |other: &Examples| {
            let is_given = |tensor: &str| other.tensors.iter().any(|name| name == tensor);
            other.inputs == each.0.inputs && tensors_of(each).all(is_given)
        };
        let covering = asked.iter().enumerate().filter(|(_, (other, _))| has(other));
        covering.rev().max_by_key(|(_, (other, _))| other.tensors.len()).map(|(number, _)| number)
    };
    let source = of(asked.first()?)?;
    asked.iter().all(|each| of(each) == Some(source)).then_some(source)
}
