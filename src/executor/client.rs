//! The controller's half: exchanges messages with an executor over two byte streams, and sends the files that it asks for.
//!
//! Start at [`start`], which gets the executor going. How the streams come about is the transport's matter.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, Read, Seek, SeekFrom};
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt};
use tokio::sync::mpsc;

use crate::executor::frame::{self, Begin, Down, FrameError, PART_BYTES, Sha256, Up};

mod start;

pub use start::{StartError, start};

/// Messages that may wait for the connection before the sender does.
const QUEUE: usize = 16;

/// A program's standard streams on a host.
pub struct Streams {
    pub stdin: Box<dyn AsyncWrite + Send + Unpin>,
    pub stdout: Box<dyn AsyncRead + Send + Unpin>,
    pub ending: Ending,
}

impl fmt::Debug for Streams {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Streams").field("ending", &self.ending).finish_non_exhaustive()
    }
}

/// What is known about the end of a program on a host: filled by the transport, read when the streams end.
#[derive(Debug, Clone, Default)]
pub struct Ending(Arc<Mutex<EndingState>>);

#[derive(Debug, Default)]
struct EndingState {
    stderr: Vec<u8>,
    status: Option<String>,
}

/// Most bytes of a session's standard error that are kept: the last screenful.
const STDERR_BYTES_KEPT: usize = 4096;

impl Ending {
    /// Adds what the program wrote to its standard error; only the last part is kept.
    pub fn stderr(&self, bytes: &[u8]) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        state.stderr.extend_from_slice(bytes);
        let surplus = state.stderr.len().saturating_sub(STDERR_BYTES_KEPT);
        state.stderr.drain(..surplus);
    }

    /// Notes how the program or its connection ended, in words. The first word stays.
    pub fn ended(&self, how: impl Into<String>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).status.get_or_insert(how.into());
    }

    /// Whether it is known how the program or its connection ended.
    fn is_known(&self) -> bool {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).status.is_some()
    }

    fn text(&self) -> String {
        let state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let mut text = state.status.clone().unwrap_or_else(|| "the connection was closed".to_owned());
        let stderr = String::from_utf8_lossy(&state.stderr);
        if !stderr.trim().is_empty() {
            text.push_str("; it wrote: ");
            text.push_str(stderr.trim());
        }
        text
    }
}

/// The executor is gone; what was under way is finished on the host, and nothing more is started there.
#[derive(Debug, Clone, thiserror::Error)]
#[error("the connection to the executor is lost: {0}")]
pub struct Lost(pub String);

/// Files of the controller that hosts may ask for, by their content's hash.
#[derive(Debug, Clone, Default)]
pub struct Offers(Arc<Mutex<BTreeMap<Sha256, PathBuf>>>);

impl Offers {
    /// Lets hosts ask for the file at `path`, whose content has this hash.
    pub fn add(&self, sha256: Sha256, path: impl Into<PathBuf>) {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).insert(sha256, path.into());
    }

    fn find(&self, sha256: &Sha256) -> Option<PathBuf> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(sha256).cloned()
    }
}

/// A running executor, as the controller sees it. Dropping it closes the connection.
#[derive(Debug)]
pub struct Client<O, I> {
    to_host: Sender<O>,
    from_host: mpsc::UnboundedReceiver<Result<I, Lost>>,
    tasks: tokio::task::JoinSet<()>,
}

/// Speaks to an executor; may be cloned.
#[derive(Debug)]
pub struct Sender<O> {
    queue: mpsc::Sender<Down<O>>,
    ending: Ending,
}

impl<O> Clone for Sender<O> {
    fn clone(&self) -> Sender<O> {
        Sender { queue: self.queue.clone(), ending: self.ending.clone() }
    }
}

impl<O> Sender<O> {
    /// Sends one message of work.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send(&self, message: O) -> Result<(), Lost> {
        self.put(Down::Work(message)).await
    }

    /// Asks the host to finish the change in flight and to start nothing more.
    ///
    /// # Errors
    /// The connection is lost: then it does so by itself.
    pub async fn cancel(&self) -> Result<(), Lost> {
        self.put(Down::Cancel).await
    }

    /// Asks the host to end the programs in flight too.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn kill(&self) -> Result<(), Lost> {
        self.put(Down::Kill).await
    }

    async fn put(&self, message: Down<O>) -> Result<(), Lost> {
        self.queue.send(message).await.map_err(|_| Lost(self.ending.text()))
    }
}

impl<O, I> Client<O, I> {
    /// Returns what speaks to this executor, for other tasks.
    pub fn sender(&self) -> Sender<O> {
        self.to_host.clone()
    }

    /// Sends one message of work.
    ///
    /// # Errors
    /// The connection is lost.
    pub async fn send(&self, message: O) -> Result<(), Lost> {
        self.to_host.send(message).await
    }

    /// Waits for the next message from the host. Safe to drop while it waits.
    ///
    /// # Errors
    /// The connection is lost, or the executor ended.
    pub async fn next(&mut self) -> Result<I, Lost> {
        match self.from_host.recv().await {
            Some(message) => message,
            None => Err(Lost(self.to_host.ending.text())),
        }
    }

    /// Closes the connection and waits until the executor has ended: what it did is done.
    pub async fn close(self) {
        let Client { to_host, mut from_host, mut tasks } = self;
        drop(to_host);
        while from_host.recv().await.is_some() {}
        while tasks.join_next().await.is_some() {}
    }
}

/// Begins the exchange of messages over streams at whose other end an executor listens.
async fn exchange<O, I>(
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    stdout: impl AsyncRead + Send + Unpin + 'static,
    ending: Ending,
    begin: Begin,
    offers: Offers,
) -> Result<Client<O, I>, FrameError>
where
    O: Serialize + Send + 'static,
    I: DeserializeOwned + Send + 'static,
{
    frame::write_async(&mut stdin, &Down::<O>::Begin(begin)).await?;
    let (queue, outgoing) = mpsc::channel(QUEUE);
    let (incoming, from_host) = mpsc::unbounded_channel();
    let (wanted, wants) = mpsc::unbounded_channel();
    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(write_messages(stdin, outgoing, wants, offers));
    tasks.spawn(read_messages(stdout, incoming, wanted, ending.clone()));
    Ok(Client { to_host: Sender { queue, ending }, from_host, tasks })
}

/// Writes what is sent, and the contents that the host asked for between other messages.
async fn write_messages<O: Serialize>(
    mut stdin: Box<dyn AsyncWrite + Send + Unpin>,
    mut outgoing: mpsc::Receiver<Down<O>>,
    mut wants: mpsc::UnboundedReceiver<Sha256>,
    offers: Offers,
) {
    let mut sending: Option<Content> = None;
    loop {
        let message = tokio::select! {
            biased;
            message = outgoing.recv() => match message {
                Some(message) => message,
                None => break,
            },
            part = next_part(&mut sending), if sending.is_some() => part,
            Some(sha256) = wants.recv(), if sending.is_none() => {
                match Content::open(sha256, &offers) {
                    Ok(content) => {
                        sending = Some(content);
                        continue;
                    }
                    Err(why) => Down::Missing { sha256, why },
                }
            }
        };
        if frame::write_async(&mut stdin, &message).await.is_err() {
            // The reader learns of the end too, and says it to whoever waits.
            break;
        }
    }
    stdin.shutdown().await.ok();
}

/// A content on its way.
struct Content {
    sha256: Sha256,
    file: Arc<std::fs::File>,
    at: u64,
}

impl Content {
    fn open(sha256: Sha256, offers: &Offers) -> Result<Content, String> {
        let path = offers.find(&sha256).ok_or("the controller does not know this content")?;
        let file =
            std::fs::File::open(&path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
        Ok(Content { sha256, file: Arc::new(file), at: 0 })
    }
}

async fn next_part<O>(sending: &mut Option<Content>) -> Down<O> {
    let Some(content) = sending else { return std::future::pending().await };
    let (sha256, file, at) = (content.sha256, Arc::clone(&content.file), content.at);
    let read = tokio::task::spawn_blocking(move || read_part(&file, at)).await;
    let message = match read {
        Ok(Ok(bytes)) => {
            content.at += bytes.len() as u64;
            let last = bytes.len() < PART_BYTES;
            Down::Part { sha256, bytes, last }
        }
        Ok(Err(error)) => Down::Missing { sha256, why: format!("reading it failed: {error}") },
        Err(stopped) => Down::Missing { sha256, why: format!("reading it was stopped: {stopped}") },
    };
    if !matches!(message, Down::Part { last: false, .. }) {
        *sending = None;
    }
    message
}

/// Reads a whole part, unless the file ends.
fn read_part(mut file: &std::fs::File, at: u64) -> io::Result<Vec<u8>> {
    file.seek(SeekFrom::Start(at))?;
    let mut bytes = Vec::with_capacity(PART_BYTES);
    file.take(PART_BYTES as u64).read_to_end(&mut bytes)?;
    Ok(bytes)
}

async fn read_messages<I: DeserializeOwned>(
    mut stdout: impl AsyncRead + Unpin,
    incoming: mpsc::UnboundedSender<Result<I, Lost>>,
    wanted: mpsc::UnboundedSender<Sha256>,
    ending: Ending,
) {
    loop {
        match frame::read_async::<Up<I>>(&mut stdout).await {
            Ok(Some(Up::Work(message))) => {
                // Whoever does not listen any more has closed the session.
                if incoming.send(Ok(message)).is_err() {
                    return;
                }
            }
            Ok(Some(Up::Need { sha256 })) => {
                wanted.send(sha256).ok();
            }
            Ok(None) => break,
            Err(error) => {
                ending.ended(format!("{error}"));
                break;
            }
        }
    }
    incoming.send(Err(Lost(ending.text()))).ok();
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use crate::executor::upload::{Marker, Payload};

    use super::*;

    /// A host that says it is ready, wants one file, then says that it has it.
    async fn host_that_wants(
        sha256: Sha256,
        host: tokio::io::DuplexStream,
        marker: Marker,
    ) -> Vec<Down<String>> {
        let (mut input, mut output) = tokio::io::split(host);
        output.write_all(format!("motd\n{} ready\n", marker.as_str()).as_bytes()).await.unwrap();
        frame::write_async(&mut output, &Up::<String>::Need { sha256 }).await.unwrap();
        let mut heard = Vec::new();
        loop {
            let message = frame::read_async::<Down<String>>(&mut input).await.unwrap().unwrap();
            let end = matches!(message, Down::Part { last: true, .. } | Down::Missing { .. });
            heard.push(message);
            if end {
                frame::write_async(&mut output, &Up::Work("thanks".to_owned())).await.unwrap();
                return heard;
            }
        }
    }

    async fn heard_by_host(sha256: Sha256, offers: Offers) -> Vec<Down<String>> {
        let (ours, theirs) = tokio::io::duplex(1000);
        let (stdout, stdin) = tokio::io::split(ours);
        let marker = Marker::random();
        let streams = Streams { stdin: Box::new(stdin), stdout: Box::new(stdout), ending: Ending::default() };
        let host = tokio::spawn(host_that_wants(sha256, theirs, marker.clone()));
        let payload = Arc::new(Payload::of_this_program().unwrap());
        let patience = Duration::from_secs(10);
        let begin = Begin { become_password: Some("secret".to_owned()) };
        let started = start::<String, String>(streams, &marker, &payload, begin, offers, patience).await;
        let mut client = started.unwrap();
        assert_eq!(client.next().await.unwrap(), "thanks");
        let heard = host.await.unwrap();
        assert!(client.next().await.unwrap_err().to_string().contains("lost"));
        heard
    }

    #[tokio::test]
    async fn a_file_that_the_host_wants_goes_in_parts_after_the_first_message() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("file");
        let content: Vec<u8> = (0..PART_BYTES * 2 + 7).map(|at| u8::try_from(at % 251).unwrap()).collect();
        crate::sys::files::replace(&path, &content, crate::sys::files::Attributes::default()).unwrap();
        let offers = Offers::default();
        offers.add([3; 32], &path);

        let heard = heard_by_host([3; 32], offers).await;

        assert!(matches!(heard.first(), Some(Down::Begin(begin)) if begin.become_password.is_some()));
        let mut arrived = Vec::new();
        for message in heard.iter().skip(1) {
            let Down::Part { bytes, .. } = message else { panic!("{message:?}") };
            arrived.extend_from_slice(bytes);
        }
        assert!(arrived == content && heard.len() == 4);
    }

    #[tokio::test]
    async fn a_file_that_nobody_offered_is_refused_with_the_reason() {
        let heard = heard_by_host([4; 32], Offers::default()).await;
        assert!(matches!(heard.last(), Some(Down::Missing { why, .. }) if why.contains("does not know")));
    }
}
