//! How messages become bytes: as `tonic` does it by itself, but with smaller buffers. Used by the
//! generated code only.

use std::marker::PhantomData;

use prost::Message;
use tonic::codec::{self, BufferSettings};
use tonic_prost::{ProstCodec, ProstDecoder, ProstEncoder};

/// The size of a new buffer, in bytes. A question is smaller, and so is a usual answer; larger messages
/// grow theirs. A watch keeps one for as long as it lasts, and `tonic`'s own have 8 KiB.
const BUFFER: usize = 1024;

/// How many bytes of several answers go into one frame: `tonic`'s own number.
const FRAME: usize = 32 * 1024;

/// Encodes `T`, and decodes `U`.
pub(super) struct Codec<T, U>(PhantomData<(T, U)>);

impl<T, U> Default for Codec<T, U> {
    fn default() -> Self {
        Self(PhantomData)
    }
}

impl<T, U> codec::Codec for Codec<T, U>
where
    T: Message + Send + 'static,
    U: Message + Default + Send + 'static,
{
    type Encode = T;
    type Decode = U;
    type Encoder = ProstEncoder<T>;
    type Decoder = ProstDecoder<U>;

    fn encoder(&mut self) -> Self::Encoder {
        ProstCodec::<T, U>::raw_encoder(BufferSettings::new(BUFFER, FRAME))
    }

    fn decoder(&mut self) -> Self::Decoder {
        ProstCodec::<T, U>::raw_decoder(BufferSettings::new(BUFFER, FRAME))
    }
}
