//! The client's decoders, without a connection: the values that they read from an answer, as owned bytes.

use super::outputs::read;
use crate::grpc::Status;
use crate::protobuf::Rope;

pub use super::answer::percent_decoded;

/// A decoded output: its name, its dtype's number, its shape, and the bytes of its array.
pub type UnderstoodOutput = (String, u64, Vec<usize>, Vec<u8>);

/// The message of an answer's body, or why there is none.
pub fn only_message(body: Rope, limit: usize) -> Result<Rope, Status> {
    super::answer::check_length(&body, limit)?;
    super::answer::only_message(body)
}

/// The outputs of an answer; None if the answer is left to Python.
pub fn read_outputs(message: &Rope) -> Option<Vec<UnderstoodOutput>> {
    let outputs = read(message)?;
    let owned = outputs.into_iter().map(|output| {
        let mut bytes = vec![0; output.shape.iter().product::<usize>() * output.dtype.size()];
        output.values.copy_to(message, output.dtype, &mut bytes);
        (output.alias, output.dtype.number(), output.shape, bytes)
    });
    Some(owned.collect())
}
