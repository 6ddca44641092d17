//! Protobuf over gRPC as tonic has it, with buffers that begin small.
//!
//! tonic gives each stream a buffer of 8 KiB in each direction as soon as it opens. Most
//! of ours are open for as long as a node lives and carry messages of a few hundred
//! bytes; where a large one comes, the buffer grows.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::BufferSettings;
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// First size of a buffer, in bytes.
const FIRST: usize = 512;
/// Above this, in bytes, what is encoded is handed on before more is encoded: tonic's own
/// value.
const YIELD: usize = 32 * 1024;

/// The codec of every generated service and client.
#[derive(Clone, Debug)]
pub struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> tonic::codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(FIRST, YIELD))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(FIRST, YIELD))
    }
}
