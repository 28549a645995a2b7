//! Joins the inputs of tasks that run without the interpreter; for ONNX sessions, in memory of the thread that runs them.

use std::cell::RefCell;

use smallvec::SmallVec;

use super::task::Waiting;
use crate::onnx::Feed;
use crate::protobuf::Dtype;

/// The alignment of joined inputs in bytes, which is enough for every numpy array.
const ALIGNMENT: usize = 64;

thread_local! {
    static JOINED: RefCell<Vec<Vec<u8>>> = const { RefCell::new(Vec::new()) };
}

type Shape = SmallVec<[usize; 4]>;

/// Calls a function with the joined inputs of at least one task, padded to this many rows; the inputs of a task without
/// a batch axis are passed unchanged.
pub fn with_inputs<T>(tasks: &[Waiting], padded: usize, call: impl FnOnce(&[Feed<'_>]) -> T) -> T {
    let signature = &tasks[0].0.signature;
    JOINED.with_borrow_mut(|joined| {
        joined.resize_with(joined.len().max(signature.inputs.len()), Vec::new);
        let mut feeds: SmallVec<[Feed<'_>; 2]> = SmallVec::new();
        for ((number, input), memory) in signature.inputs.iter().enumerate().zip(joined.iter_mut()) {
            let shape = shape(tasks, padded, number);
            let bytes = room(memory, shape.iter().product::<usize>() * input.dtype.size());
            if signature.batched {
                join(tasks, (number, input.dtype), bytes, bytes.len() / padded);
            } else {
                tasks[0].0.call.copy_to(number, input.dtype, bytes);
            }
            feeds.push(Feed { dtype: input.dtype, shape, bytes });
        }
        call(&feeds)
    })
}

/// Joins the rows of one input, each of this many bytes. As in `headrace_batching.batch.pad`, padding repeats the first
/// row of the last task.
pub fn join(tasks: &[Waiting], (input, dtype): (usize, Dtype), joined: &mut [u8], row: usize) {
    let (mut start, mut last) = (0, 0);
    for (task, _) in tasks {
        last = start;
        start += task.rows * row;
        task.call.copy_to(input, dtype, &mut joined[last..start]);
    }
    while start < joined.len() {
        joined.copy_within(last..last + row, start);
        start += row;
    }
}

/// The number of rows of the tasks together.
pub fn rows_of(tasks: &[Waiting]) -> usize {
    tasks.iter().map(|(task, _)| task.rows).sum()
}

/// The shapes of the joined inputs.
pub fn shapes(tasks: &[Waiting], padded: usize) -> Vec<Vec<usize>> {
    (0..tasks[0].0.signature.inputs.len()).map(|input| shape(tasks, padded, input).into_vec()).collect()
}

/// The shape of a joined input.
pub fn shape(tasks: &[Waiting], padded: usize, input: usize) -> Shape {
    let first = &tasks[0].0;
    let rows = first.signature.batched.then_some(padded);
    rows.into_iter().chain(first.call.inner(input).iter().copied()).collect()
}

/// Aligned memory of this size for a joined input.
fn room(memory: &mut Vec<u8>, size: usize) -> &mut [u8] {
    if memory.len() < size + ALIGNMENT {
        memory.resize(size + ALIGNMENT, 0);
    }
    let start = memory.as_ptr().align_offset(ALIGNMENT).min(ALIGNMENT);
    &mut memory[start..start + size]
}
