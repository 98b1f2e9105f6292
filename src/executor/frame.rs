//! Messages as bytes: four bytes of length, then postcard. Both ends are one build, so nothing here has versions.

use std::io::{self, Read, Write};

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};

/// Most bytes of one message. A segment with all its variables is far below; a call that brings a program along, to the
/// process of another identity on the same host, is the largest.
pub const MESSAGE_BYTES_MAX: u32 = 256 * 1024 * 1024;

/// Bytes of one part of a file's content: small enough that a cancel behind it is soon read.
pub const PART_BYTES: usize = 128 * 1024;

/// Names a content: its SHA-256.
pub type Sha256 = [u8; 32];

/// To a process that does the work: the executor, or its child of another identity.
#[derive(Debug, Serialize, Deserialize)]
pub enum Down<T> {
    /// The first message.
    Begin(Begin),
    Work(T),
    /// Answers [`Up::Need`], in order and without gaps.
    Part {
        sha256: Sha256,
        #[serde(with = "as_bytes")]
        bytes: Vec<u8>,
        last: bool,
    },
    /// Answers [`Up::Need`]: there is no such content, and why.
    Missing {
        sha256: Sha256,
        why: String,
    },
    /// Finish the change in flight, start nothing more.
    Cancel,
    /// End the programs in flight as well.
    Kill,
}

/// Writes bytes in one piece; serde would take them one by one.
mod as_bytes {
    use std::fmt;

    use serde::de::{Error, Visitor};
    use serde::{Deserializer, Serializer};

    pub(super) fn serialize<S: Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
        to.serialize_bytes(bytes)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(from: D) -> Result<Vec<u8>, D::Error> {
        struct Bytes;
        impl Visitor<'_> for Bytes {
            type Value = Vec<u8>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("bytes")
            }

            fn visit_bytes<E: Error>(self, bytes: &[u8]) -> Result<Vec<u8>, E> {
                Ok(bytes.to_vec())
            }
        }
        from.deserialize_bytes(Bytes)
    }
}

/// What a process must know before its first work.
#[derive(Serialize, Deserialize, Default)]
pub struct Begin {
    /// The password for `sudo`, if the user gave one.
    pub become_password: Option<String>,
}

impl std::fmt::Debug for Begin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Self { become_password } = self;
        f.debug_struct("Begin").field("become_password", &become_password.as_ref().map(|_| "***")).finish()
    }
}

/// From a process that does the work.
#[derive(Debug, Serialize, Deserialize)]
pub enum Up<T> {
    Work(T),
    /// The content of a file that the work names is needed here.
    Need {
        sha256: Sha256,
    },
}

/// Why a message could not be sent or read.
#[derive(Debug, thiserror::Error)]
pub enum FrameError {
    #[error("the connection broke")]
    Io(#[from] io::Error),
    #[error("a message of {0} bytes is above the limit of {MESSAGE_BYTES_MAX}")]
    TooLong(u64),
    #[error("a message cannot be read: {0}; both ends must be the same build")]
    Garbled(postcard::Error),
    #[error("a message cannot be written: {0}")]
    Unwritable(postcard::Error),
}

/// Returns the bytes of `message` with its length before them.
///
/// # Errors
/// The message is above [`MESSAGE_BYTES_MAX`].
pub fn encode<T: Serialize>(message: &T) -> Result<Vec<u8>, FrameError> {
    let mut bytes = postcard::to_extend(message, vec![0; 4]).map_err(FrameError::Unwritable)?;
    let length = bytes.len() - 4;
    let short = u32::try_from(length).ok().filter(|length| *length <= MESSAGE_BYTES_MAX);
    let Some(short) = short else { return Err(FrameError::TooLong(length as u64)) };
    // Four bytes are there: the vector began with them.
    bytes[..4].copy_from_slice(&short.to_le_bytes());
    Ok(bytes)
}

/// Writes one message and flushes it.
///
/// # Errors
/// The other end is gone, or the message is too long.
pub fn write<T: Serialize>(out: &mut impl Write, message: &T) -> Result<(), FrameError> {
    out.write_all(&encode(message)?)?;
    Ok(out.flush()?)
}

/// Reads one message; none at the end of the stream between two messages.
///
/// # Errors
/// The stream ended within a message, or holds something else than messages.
pub fn read<T: DeserializeOwned>(input: &mut impl Read) -> Result<Option<T>, FrameError> {
    let mut head = [0; 4];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..]) {
            Ok(0) if have == 0 => return Ok(None),
            Ok(0) => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            Ok(more) => have += more,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error.into()),
        }
    }
    let mut body = vec![0; body_length(head)?];
    input.read_exact(&mut body)?;
    postcard::from_bytes(&body).map(Some).map_err(FrameError::Garbled)
}

/// Does what [`write`] does on the controller.
///
/// # Errors
/// As [`write`].
pub fn write_async<T: Serialize>(
    out: &mut (impl AsyncWrite + Unpin + Send),
    message: &T,
) -> impl Future<Output = Result<(), FrameError>> + Send {
    // Encoded before anything is awaited, so that the message need not be shared between threads.
    let bytes = encode(message);
    async move {
        out.write_all(&bytes?).await?;
        Ok(out.flush().await?)
    }
}

/// Does what [`read`] does on the controller.
///
/// # Errors
/// As [`read`].
pub async fn read_async<T: DeserializeOwned>(
    input: &mut (impl AsyncRead + Unpin),
) -> Result<Option<T>, FrameError> {
    let mut head = [0; 4];
    let mut have = 0;
    while have < head.len() {
        match input.read(&mut head[have..]).await? {
            0 if have == 0 => return Ok(None),
            0 => return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into()),
            more => have += more,
        }
    }
    let mut body = vec![0; body_length(head)?];
    input.read_exact(&mut body).await?;
    postcard::from_bytes(&body).map(Some).map_err(FrameError::Garbled)
}

fn body_length(head: [u8; 4]) -> Result<usize, FrameError> {
    let length = u32::from_le_bytes(head);
    if length > MESSAGE_BYTES_MAX {
        return Err(FrameError::TooLong(length.into()));
    }
    Ok(length as usize)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn messages_come_out_as_they_went_in_one_after_the_other() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Down::Work("one".to_owned())).unwrap();
        write(&mut bytes, &Down::<String>::Missing { sha256: [7; 32], why: "gone".to_owned() }).unwrap();
        let mut input = bytes.as_slice();

        assert!(matches!(read::<Down<String>>(&mut input).unwrap(), Some(Down::Work(text)) if text == "one"));
        assert!(
            matches!(read::<Down<String>>(&mut input).unwrap(), Some(Down::Missing { why, .. }) if why == "gone")
        );
        assert!(read::<Down<String>>(&mut input).unwrap().is_none());
    }

    #[test]
    fn parts_of_files_keep_every_byte() {
        let content: Vec<u8> = (0..=255).collect();
        let part = Down::<String>::Part { sha256: [1; 32], bytes: content.clone(), last: true };
        let read: Down<String> = read(&mut encode(&part).unwrap().as_slice()).unwrap().unwrap();
        assert!(matches!(read, Down::Part { bytes, last: true, .. } if bytes == content));
    }

    #[test]
    fn a_stream_that_ends_within_a_message_is_an_error() {
        let mut bytes = Vec::new();
        write(&mut bytes, &Up::Work("text".to_owned())).unwrap();
        bytes.pop();

        assert!(matches!(read::<Up<String>>(&mut bytes.as_slice()), Err(FrameError::Io(_))));
        assert!(matches!(read::<Up<String>>(&mut [1_u8, 0].as_slice()), Err(FrameError::Io(_))));
    }

    #[test]
    fn a_length_above_the_limit_is_refused_before_memory_is_taken() {
        assert!(matches!(read::<Up<String>>(&mut [255_u8; 8].as_slice()), Err(FrameError::TooLong(_))));
    }

    #[test]
    fn passwords_do_not_show() {
        let begin = Begin { become_password: Some("hunter2".to_owned()) };
        assert!(!format!("{begin:?}").contains("hunter2"));
    }
}
