//! The one way in which modules write a file: compare, write beside, validate, replace. `copy`, `template`, `lineinfile`
//! and the others differ only in how they come to the text.

use std::fmt;
use std::path::Path;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::modules::attributes::{self, AttributeChange, ModeSpec, Owned, PathFacts, Wanted};
use crate::modules::words;
use crate::modules::{Diff, Fault, FaultKind, Host, HostMut, Seen, Thing};
use crate::sys::files::{Attributes, FileKind, Stat};
use crate::sys::process::Program;

/// Texts above this are not shown in a diff.
const DIFF_BYTES_MAX: usize = 1024 * 1024;

/// What a file is to hold.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Desired {
    pub sha256: [u8; 32],
    pub size: u64,
    /// `None` while only the comparison is asked for.
    pub bytes: Option<Arc<[u8]>>,
}

impl Desired {
    pub fn new(bytes: impl Into<Arc<[u8]>>) -> Desired {
        let bytes = bytes.into();
        Desired { sha256: Sha256::digest(&bytes).into(), size: bytes.len() as u64, bytes: Some(bytes) }
    }
}

/// How a file is written.
#[derive(Debug, Clone, Copy, Default)]
pub struct Writing<'a> {
    /// A command line with `%s` for the text that is to be judged.
    pub validate: Option<&'a str>,
    /// Keep the old file beside it.
    pub backup: bool,
}

/// A file as it is found.
#[derive(Debug, Clone)]
pub struct TextFile {
    pub path: String,
    pub found: Option<Found>,
    pub wanted: Wanted,
}

/// What is there.
#[derive(Debug, Clone)]
pub struct Found {
    pub stat: Stat,
    pub names: (String, String),
    pub bytes: Arc<[u8]>,
    pub sha256: [u8; 32],
}

/// One difference of a file that is written whole.
#[derive(Debug)]
pub enum WriteChange {
    Create { bytes: u64 },
    Content { from: u64, to: u64 },
    Attribute(AttributeChange),
}

impl fmt::Display for WriteChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            WriteChange::Create { bytes } => write!(f, "write it, {bytes} bytes"),
            WriteChange::Content { from, to } => write!(f, "content, {from} → {to} bytes"),
            WriteChange::Attribute(change) => write!(f, "{change}"),
        }
    }
}

impl TextFile {
    /// Looks at a file that is to be written. A folder above it that is missing blocks.
    ///
    /// # Errors
    /// It is a folder or a device, or may not be read.
    pub fn observe(
        path: &str,
        mode: Option<&ModeSpec>,
        owner: Option<&str>,
        group: Option<&str>,
        host: &Host,
    ) -> Result<Seen<TextFile>, Fault> {
        let wanted = match Wanted::resolve(mode, owner, group, host)? {
            Ok(wanted) => wanted,
            Err(missing) => return Ok(Seen::Blocked(missing)),
        };
        let Some(stat) = host.stat_followed(path)? else {
            let folder = Path::new(path).parent().unwrap_or(Path::new("/"));
            return Ok(match host.stat_followed(folder)? {
                Some(_) => Seen::Now(TextFile { path: path.to_owned(), found: None, wanted }),
                None => Seen::Blocked(Thing::Path(folder.display().to_string())),
            });
        };
        if stat.kind != FileKind::File {
            let is = attributes::state_word(Some(stat.kind));
            return Err(Fault::refused(format!(
                "{path} is a {is}, not a regular file, and cannot be written as one"
            )));
        }
        let bytes: Arc<[u8]> = host.read(path)?.into();
        let names = attributes::names_of(host, stat.uid, stat.gid)?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok(Seen::Now(TextFile {
            path: path.to_owned(),
            found: Some(Found { stat, names, bytes, sha256 }),
            wanted,
        }))
    }

    /// Returns what is there as text, with what is not UTF-8 replaced; `None` if nothing is.
    pub fn text(&self) -> Option<String> {
        self.found.as_ref().map(|f| String::from_utf8_lossy(&f.bytes).into_owned())
    }

    /// Compares with what it is to hold; `None` leaves the content as it is.
    pub fn diff(&self, desired: Option<&Desired>) -> Vec<WriteChange> {
        let Some(found) = &self.found else {
            return desired.map(|d| WriteChange::Create { bytes: d.size }).into_iter().collect();
        };
        let mut changes = Vec::new();
        if let Some(desired) = desired.filter(|d| d.sha256 != found.sha256) {
            changes.push(WriteChange::Content { from: found.stat.size, to: desired.size });
        }
        let differ = self.wanted.differences(&Owned::from(&found.stat), false);
        changes.extend(differ.into_iter().map(WriteChange::Attribute));
        changes
    }

    /// Writes content and attributes in one step; returns where the old file was kept, if it was.
    ///
    /// # Errors
    /// The validation refuses the text, its bytes were not supplied, or the host refuses to write.
    pub fn write(
        &self,
        desired: Option<&Desired>,
        writing: Writing<'_>,
        host: &mut HostMut<'_>,
    ) -> Result<Option<String>, Fault> {
        let differs = |d: &&Desired| self.found.as_ref().is_none_or(|f| f.sha256 != d.sha256);
        let Some(desired) = desired.filter(differs) else {
            if let Some(found) = &self.found {
                self.wanted.give(&self.path, &Owned::from(&found.stat), FileKind::File, host)?;
            }
            return Ok(None);
        };
        let Some(bytes) = &desired.bytes else {
            return Err(Fault::new(
                FaultKind::NeedsContent(desired.sha256),
                "the file's content was not supplied",
            ));
        };
        let old_mode = self.found.as_ref().map_or_else(new_file_mode, |f| f.stat.mode);
        let replacement = host.prepare(&self.path, bytes, self.wanted.for_writing(old_mode))?;
        if let Some(command) = writing.validate {
            validate(command, replacement.path(), &self.path, host)?;
        }
        let mut kept = None;
        if let Some(found) = self.found.as_ref().filter(|_| writing.backup) {
            let time = crate::sys::clock::wall().strftime("%Y-%m-%d@%H:%M:%S").to_string();
            let path = format!("{}.{}.{time}~", self.path, std::process::id());
            let same = Attributes {
                mode: Some(found.stat.mode),
                uid: Some(found.stat.uid),
                gid: Some(found.stat.gid),
            };
            host.replace(&path, &found.bytes, same)?;
            kept = Some(path);
        }
        replacement.commit()?;
        Ok(kept)
    }

    /// Looks again at what was written.
    ///
    /// # Errors
    /// It cannot be read.
    pub fn again(&self, host: &Host) -> Result<TextFile, Fault> {
        let (path, wanted) = (self.path.clone(), self.wanted.clone());
        let Some(stat) = host.stat_followed(&path)? else {
            return Ok(TextFile { path, found: None, wanted });
        };
        let bytes: Arc<[u8]> = host.read(&path)?.into();
        let names = attributes::names_of(host, stat.uid, stat.gid)?;
        let sha256 = Sha256::digest(&bytes).into();
        Ok(TextFile { path, found: Some(Found { stat, names, bytes, sha256 }), wanted })
    }

    /// Returns the texts before and after, where both are short enough texts.
    pub fn texts(&self, desired: Option<&Desired>) -> Option<Diff> {
        let after = desired?.bytes.as_ref()?;
        let empty: Arc<[u8]> = Arc::from(Vec::new());
        let before = self.found.as_ref().map_or(&empty, |f| &f.bytes);
        if before.len().max(after.len()) > DIFF_BYTES_MAX || before.as_ref() == after.as_ref() {
            return None;
        }
        let (before, after) = (std::str::from_utf8(before).ok()?, std::str::from_utf8(after).ok()?);
        Some(Diff { header: self.path.clone(), before: before.to_owned(), after: after.to_owned() })
    }

    /// Describes it as Ansible's file modules do.
    pub fn facts(&self) -> PathFacts {
        let found = self.found.as_ref();
        attributes::path_facts(found.map(|f| &f.stat), found.map(|f| &f.names))
    }

    /// Returns the SHA-1 that Ansible shows as `checksum`.
    pub fn checksum(&self) -> Option<String> {
        self.found.as_ref().map(|f| sha1_of(&f.bytes))
    }
}

/// Returns the SHA-1 of bytes in hexadecimal, which is what Ansible calls the checksum of a file.
pub fn sha1_of(bytes: &[u8]) -> String {
    hex(&<sha1::Sha1 as sha1::Digest>::digest(bytes))
}

/// Writes bytes in hexadecimal.
pub fn hex(bytes: &[u8]) -> String {
    use fmt::Write;
    bytes.iter().fold(String::with_capacity(bytes.len() * 2), |mut text, byte| {
        // Writing to a String cannot fail.
        let _infallible = write!(text, "{byte:02x}");
        text
    })
}

/// The mode that a symbolic one starts from for a file that is made.
fn new_file_mode() -> u32 {
    0o644
}

fn validate(command: &str, temporary: &Path, path: &str, host: &mut HostMut<'_>) -> Result<(), Fault> {
    let words =
        words::split(command).map_err(|why| Fault::params(format!("`validate` cannot be read: {why}")))?;
    if !command.contains("%s") {
        return Err(Fault::params("`validate` needs `%s` where the path of the file to judge belongs"));
    }
    let temporary = temporary.display().to_string();
    let mut words = words.into_iter().map(|w| w.replace("%s", &temporary));
    let program = Program::new(words.next().unwrap_or_default()).args(words);
    let output = host.run(program.clone())?;
    if output.exit.is_success() {
        return Ok(());
    }
    let mut fault =
        Fault::program(&program, &output, &format!("the text for {path} was refused by its validation"));
    for line in &mut fault.lines {
        *line = line.replace(&temporary, path);
    }
    Err(fault.hint(format!("{path} was not touched")))
}
