//! The start of the executor: a login's noise is passed over until the host speaks, and the program goes there if it asks for it.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::executor::frame::{Begin, FrameError, PART_BYTES};
use crate::executor::upload::{Marker, Payload, Refusal, Said, said};

use super::{Client, Ending, Offers, Streams, exchange};

/// Most bytes of what a login prints before the executor starts; more than any banner has.
const NOISE_BYTES_MAX: usize = 4 * 1024 * 1024;

/// Why the executor did not start on a host.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    #[error("the session ended before the executor started: {how}{}", after_noise(.noise))]
    Ended { how: String, noise: String },
    #[error("the login shell did not start the executor within {} s{}", .after.as_secs(), after_noise(.noise))]
    Silent { after: Duration, noise: String },
    #[error("the login printed more than {NOISE_BYTES_MAX} bytes and did not start the executor")]
    Noisy,
    #[error("the host is {theirs}, and this binary runs on {ours}; run a keddah built for {theirs}")]
    OtherSystem { theirs: String, ours: String },
    #[error("no folder of the host can hold the executor: {}", folders(.0))]
    NoFolder(Vec<(String, Refusal)>),
    #[error("the executor did not arrive whole in {folder}: {why}")]
    Upload { folder: String, why: String },
    #[error("cannot read this program to send it")]
    Payload(#[source] io::Error),
    #[error("the connection broke while the executor started")]
    Frame(#[from] FrameError),
}

fn after_noise(noise: &str) -> String {
    if noise.trim().is_empty() { String::new() } else { format!("; the login printed: {}", noise.trim()) }
}

fn folders(refused: &[(String, Refusal)]) -> String {
    let list: Vec<String> = refused.iter().map(|(folder, why)| format!("{folder} {why}")).collect();
    format!("{}; allow one of them to hold and run programs", list.join(", "))
}

/// Starts the executor over `streams`, which run [`crate::executor::upload::command_line`] (or `keddah executor MARKER` itself),
/// sending `payload` if the host asks for it.
///
/// `silence` is the longest time to wait for the host's next word; the transfer of the file is not counted.
///
/// # Errors
/// The session ended, is silent, or refuses to hold or run the file.
pub async fn start<O, I>(
    mut streams: Streams,
    marker: &Marker,
    payload: &Arc<Payload>,
    begin: Begin,
    offers: Offers,
    silence: Duration,
) -> Result<Client<O, I>, StartError>
where
    O: Serialize + Send + 'static,
    I: DeserializeOwned + Send + 'static,
{
    let mut input = Listener { noise: Vec::new(), marker: marker.clone() };
    let mut word = input.next(&mut streams, silence).await?;
    if let Said::Need { system, .. } = &word {
        if *system != Payload::system() {
            return Err(StartError::OtherSystem { theirs: system.clone(), ours: Payload::system() });
        }
        word = send_payload(&mut streams, &mut input, payload, silence).await?;
    }
    match word {
        Said::Ready => {}
        Said::Refused(folders) => return Err(StartError::NoFolder(folders)),
        Said::Failed { folder, why } => return Err(StartError::Upload { folder, why }),
        Said::Need { folder, .. } => {
            return Err(StartError::Upload { folder, why: "the host asked for it twice".to_owned() });
        }
    }
    let Streams { stdin, stdout, ending } = streams;
    let rest = AsyncReadExt::chain(io::Cursor::new(input.noise), stdout);
    Ok(exchange(stdin, rest, ending, begin, offers).await?)
}

/// Sends the file and returns what the host says after it. A host that gives up in between is heard.
async fn send_payload(
    streams: &mut Streams,
    input: &mut Listener,
    payload: &Arc<Payload>,
    silence: Duration,
) -> Result<Said, StartError> {
    let shared = Arc::clone(payload);
    let packed = tokio::task::spawn_blocking(move || shared.packed().map(<[u8]>::len)).await;
    let length = packed.map_err(io::Error::other).and_then(|length| length).map_err(StartError::Payload)?;
    streams.stdin.write_all(format!("{length}\n").as_bytes()).await.map_err(FrameError::from)?;
    let mut sent = 0;
    let bytes = payload.packed().map_err(StartError::Payload)?;
    while let Some(part) = bytes.get(sent..).filter(|part| !part.is_empty()) {
        let part = part.get(..part.len().min(PART_BYTES)).unwrap_or(part);
        tokio::select! {
            biased;
            written = streams.stdin.write(part) => match written {
                Ok(0) | Err(_) => break,
                Ok(length) => sent += length,
            },
            read = streams.stdout.read_buf(&mut input.noise) => {
                if matches!(read, Ok(0) | Err(_)) || input.noise.len() > NOISE_BYTES_MAX {
                    break;
                }
            }
        }
    }
    streams.stdin.flush().await.ok();
    // Unpacking and verifying take the host a while.
    input.next(streams, silence * 4).await
}

/// Reads what a session prints until the marker, and the line that follows it.
struct Listener {
    /// What was read and is not yet used; after the last word, the first bytes of messages.
    noise: Vec<u8>,
    marker: Marker,
}

impl Listener {
    async fn next(&mut self, streams: &mut Streams, silence: Duration) -> Result<Said, StartError> {
        loop {
            if let Some(word) = self.take_word() {
                return Ok(word);
            }
            if self.noise.len() > NOISE_BYTES_MAX {
                return Err(StartError::Noisy);
            }
            let read = streams.stdout.read_buf(&mut self.noise);
            let Ok(read) = tokio::time::timeout(silence, read).await else {
                return Err(StartError::Silent { after: silence, noise: self.tail() });
            };
            match read {
                Ok(0) => return Err(self.ended(&streams.ending).await),
                Ok(_) => {}
                Err(error) => {
                    streams.ending.ended(error.to_string());
                    return Err(self.ended(&streams.ending).await);
                }
            }
        }
    }

    async fn ended(&self, ending: &Ending) -> StartError {
        // The exit status arrives after the end of the stream, on a connection that is still there.
        for _ in 0..20 {
            if ending.is_known() {
                break;
            }
            tokio::time::sleep(Duration::from_millis(25)).await;
        }
        StartError::Ended { how: ending.text(), noise: self.tail() }
    }

    fn take_word(&mut self) -> Option<Said> {
        let marker = self.marker.as_str().as_bytes();
        let mut from = 0;
        while let Some(at) = find(self.noise.get(from..)?, marker) {
            let begin = from + at + marker.len();
            let line = self.noise.get(begin..)?;
            let end = begin + line.iter().position(|byte| *byte == b'\n')?;
            let word = said(&String::from_utf8_lossy(self.noise.get(begin..end)?));
            if word.is_some() {
                self.noise.drain(..=end);
                return word;
            }
            from = begin;
        }
        None
    }

    /// Returns the last lines of the noise, for an error.
    fn tail(&self) -> String {
        let text = String::from_utf8_lossy(&self.noise);
        let lines: Vec<&str> = text.lines().collect();
        lines.get(lines.len().saturating_sub(5)..).unwrap_or_default().join("\n")
    }
}

fn find(text: &[u8], wanted: &[u8]) -> Option<usize> {
    text.windows(wanted.len()).position(|window| window == wanted)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listener(marker: &Marker, noise: &str) -> Listener {
        Listener { noise: noise.as_bytes().to_vec(), marker: marker.clone() }
    }

    #[test]
    fn what_the_login_prints_is_skipped_and_the_first_message_is_kept() {
        let marker = Marker::random();
        let text = format!("Welcome to db1\n{0} said the cat\nmail{0} ready\nXYZ", marker.as_str());
        let mut input = listener(&marker, &text);

        assert_eq!(input.take_word(), Some(Said::Ready));
        assert_eq!(input.noise, b"XYZ");
    }

    #[test]
    fn half_an_answer_is_waited_for() {
        let marker = Marker::random();
        let mut input = listener(&marker, &format!("{} rea", marker.as_str()));
        assert_eq!(input.take_word(), None);
        input.noise.extend_from_slice(b"dy\n");
        assert_eq!(input.take_word(), Some(Said::Ready));
    }
}
