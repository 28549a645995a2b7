//! The parts of the decoders that the fuzz targets use.

pub use crate::client::fuzzing::{only_message, percent_decoded, read_outputs};
pub use crate::examples::fuzzing::{read_examples, read_multi};
pub use crate::grpc::{CallHeaders, Encoding, Frame, Framed, PREFIX, Status, decode_binary, encode_binary};
pub use crate::http::{Next, Requests};
pub use crate::http2::{Authority, Frames, LoneFrames};
pub use crate::open_inference::fuzzing::{UnderstoodInfer, UnderstoodInferBody, read_infer, read_infer_body};
pub use crate::predict::fuzzing::{Declared, Understood};
pub use crate::protobuf::{Dtype, Rope, Rows, Values, Writer};
pub use crate::rest::fuzzing::{UnderstoodBody, read_body, read_examples_body};
