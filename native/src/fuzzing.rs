//! What the fuzz targets see of the decoders.

pub use crate::grpc::{Encoding, Frame, Framed, PREFIX, Status, decode_binary, encode_binary, is_grpc, timeout};
pub use crate::http2::stream::Frames;
pub use crate::http2::unix_authority::Mender;
pub use crate::predict::fuzzing::{Declared, Understood};
pub use crate::protobuf::rope::Rope;
pub use crate::protobuf::tensor::{Dtype, Rows, Values};
