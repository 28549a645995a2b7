//! What the fuzz targets see of the decoders.

pub use crate::authority::Mender;
pub use crate::grpc::{Encoding, Frame, Framed, PREFIX, Status, decode_binary, encode_binary, is_grpc, timeout};
pub use crate::predict::fuzzing::{Declared, Understood};
pub use crate::rope::Rope;
pub use crate::stream::Frames;
pub use crate::tensor::{Dtype, Rows, Values};
