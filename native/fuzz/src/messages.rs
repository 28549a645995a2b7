//! The messages of a Predict, a tensor and a ModelInfer for prost, with the field numbers of their .proto files.

use std::collections::HashMap;

use prost::Message;

#[derive(Clone, PartialEq, Message)]
pub struct PredictRequest {
    #[prost(message, optional, tag = "1")]
    pub model_spec: Option<ModelSpec>,
    #[prost(map = "string, message", tag = "2")]
    pub inputs: HashMap<String, TensorProto>,
    #[prost(string, repeated, tag = "3")]
    pub output_filter: Vec<String>,
}

#[derive(Clone, PartialEq, Message)]
pub struct PredictResponse {
    #[prost(map = "string, message", tag = "1")]
    pub outputs: HashMap<String, TensorProto>,
    #[prost(bytes = "vec", tag = "2")]
    pub model_spec: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelSpec {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(message, optional, tag = "2")]
    pub version: Option<Int64Value>,
    #[prost(string, tag = "3")]
    pub signature_name: String,
    #[prost(string, tag = "4")]
    pub version_label: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
pub struct Int64Value {
    #[prost(int64, tag = "1")]
    pub value: i64,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorProto {
    #[prost(int32, tag = "1")]
    pub dtype: i32,
    #[prost(message, optional, tag = "2")]
    pub tensor_shape: Option<TensorShapeProto>,
    #[prost(bytes = "vec", tag = "4")]
    pub tensor_content: Vec<u8>,
    #[prost(float, repeated, tag = "5")]
    pub float_val: Vec<f32>,
    #[prost(double, repeated, tag = "6")]
    pub double_val: Vec<f64>,
    #[prost(int32, repeated, tag = "7")]
    pub int_val: Vec<i32>,
    #[prost(bytes = "vec", repeated, tag = "8")]
    pub string_val: Vec<Vec<u8>>,
    #[prost(int64, repeated, tag = "10")]
    pub int64_val: Vec<i64>,
    #[prost(bool, repeated, tag = "11")]
    pub bool_val: Vec<bool>,
    #[prost(int32, repeated, tag = "13")]
    pub half_val: Vec<i32>,
    #[prost(uint32, repeated, tag = "16")]
    pub uint32_val: Vec<u32>,
    #[prost(uint64, repeated, tag = "17")]
    pub uint64_val: Vec<u64>,
}

#[derive(Clone, PartialEq, Message)]
pub struct TensorShapeProto {
    #[prost(message, repeated, tag = "2")]
    pub dim: Vec<Dim>,
    #[prost(bool, tag = "3")]
    pub unknown_rank: bool,
}

#[derive(Clone, PartialEq, Message)]
pub struct Dim {
    #[prost(int64, tag = "1")]
    pub size: i64,
    #[prost(string, tag = "2")]
    pub name: String,
}

impl TensorProto {
    /// The bytes of the tensor's array: tensor_content if there is any, otherwise the values of its dtype's field,
    /// narrowed to `size` bytes each.
    pub fn array_bytes(&self, size: usize) -> Vec<u8> {
        if !self.tensor_content.is_empty() {
            return self.tensor_content.clone();
        }
        let narrow = |values: &mut dyn Iterator<Item = u64>| -> Vec<u8> {
            values.flat_map(|value| value.to_le_bytes()[..size].to_vec()).collect()
        };
        match self.dtype {
            1 => self.float_val.iter().flat_map(|value| value.to_le_bytes()).collect(),
            2 => self.double_val.iter().flat_map(|value| value.to_le_bytes()).collect(),
            3..=6 | 17 => narrow(&mut self.int_val.iter().map(|value| *value as u64)),
            7 => self
                .string_val
                .iter()
                .flat_map(|text| [&(text.len() as u32).to_le_bytes()[..], text].concat())
                .collect(),
            9 => narrow(&mut self.int64_val.iter().map(|value| *value as u64)),
            10 => narrow(&mut self.bool_val.iter().map(|value| u64::from(*value))),
            19 => narrow(&mut self.half_val.iter().map(|value| *value as u64)),
            22 => narrow(&mut self.uint32_val.iter().map(|value| u64::from(*value))),
            23 => narrow(&mut self.uint64_val.iter().copied()),
            other => panic!("{other} is not a plain dtype"),
        }
    }
}

#[derive(Clone, PartialEq, Message)]
pub struct ModelInferRequest {
    #[prost(string, tag = "1")]
    pub model_name: String,
    #[prost(string, tag = "2")]
    pub model_version: String,
    #[prost(string, tag = "3")]
    pub id: String,
    #[prost(map = "string, bytes", tag = "4")]
    pub parameters: HashMap<String, Vec<u8>>,
    #[prost(message, repeated, tag = "5")]
    pub inputs: Vec<InferInput>,
    #[prost(message, repeated, tag = "6")]
    pub outputs: Vec<InferOutput>,
    #[prost(bytes = "vec", repeated, tag = "7")]
    pub raw_input_contents: Vec<Vec<u8>>,
}

/// Parameters and contents, as the bytes of their messages; plain requests have neither.
#[derive(Clone, PartialEq, Message)]
pub struct InferInput {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(string, tag = "2")]
    pub datatype: String,
    #[prost(int64, repeated, tag = "3")]
    pub shape: Vec<i64>,
    #[prost(map = "string, bytes", tag = "4")]
    pub parameters: HashMap<String, Vec<u8>>,
    #[prost(bytes = "vec", optional, tag = "5")]
    pub contents: Option<Vec<u8>>,
}

#[derive(Clone, PartialEq, Message)]
pub struct InferOutput {
    #[prost(string, tag = "1")]
    pub name: String,
    #[prost(map = "string, bytes", tag = "2")]
    pub parameters: HashMap<String, Vec<u8>>,
}
