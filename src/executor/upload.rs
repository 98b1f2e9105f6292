//! How this binary gets to a host: one `sh` line that starts it where it is, and otherwise receives it.
//!
//! Start at [`command_line`]; the controller's half of the conversation is in [`super::client`].
//!
//! The file is named by its SHA-256 and verified once, when it arrives. It lies in [`SHARED_FOLDER`] when the login
//! user is root, else in the user's cache, else in `/var/tmp/keddah-UID`.

use std::fmt;
use std::fs::{File, Permissions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use flate2::Compression;
use flate2::write::GzEncoder;
use sha2::Digest;

use crate::executor::frame::Sha256;

/// Where root's sessions keep the file; others use what they find there.
pub const SHARED_FOLDER: &str = "/usr/local/libexec/keddah";

/// The script that every session begins with, in one line of POSIX `sh`.
///
/// Without single quotes, backslashes and `!`, so that bash, fish and csh hand it over unharmed. What it says begins
/// with the marker; its own text holds the marker only in two halves, so an echo of the command is not taken for an answer.
/// Nothing is sent after the file until the executor has said `ready`, so it does not matter whether `head` reads ahead.
const SCRIPT: &str = concat!(
    r#"h=@HASH@;m=@HEAD@""@TAIL@;i=$(id -u);s=/usr/local/libexec/keddah;"#,
    r#"u="${XDG_CACHE_HOME:-${HOME:-/nonexistent}/.cache}/keddah";v=/var/tmp/keddah-$i;"#,
    r#"mine(){ if [ -L "$1" ];then return 1;fi;[ -O "$1" ];};"#,
    // The usual case: it is there.
    r#"for d in "$s" "$u" "$v";do if [ -x "$d/$h" ]&&{ [ "$d" = "$s" ]||mine "$d";};then exec "$d/$h" executor "$m";fi;done;"#,
    // Find a place for it: a folder of our own in which an (empty) program can be started.
    r#"if [ "$i" = 0 ];then umask 022;else s=;umask 077;fi;a=;r=;"#,
    r#"for d in $s "$u" "$v";do mkdir -p "$d" 2>/dev/null;"#,
    r#"if mine "$d";then :;else r="$r|$d=unwritable";continue;fi;t="$d/.$h.$$";"#,
    r#"if (: >"$t") 2>/dev/null;then :;else r="$r|$d=unwritable";continue;fi;"#,
    r#"chmod 700 "$t";if "$t" </dev/null >/dev/null 2>&1;then a="$d";break;fi;r="$r|$d=noexec";rm -f "$t";done;"#,
    r#"if [ -z "$a" ];then echo "$m refused$r";exit 1;fi;"#,
    // Receive it.
    r#"echo "$m need|$(uname -s)-$(uname -m)|$a";read -r n;"#,
    r#"e=$({ head -c "$n"|gzip -dc >"$t";} 2>&1);c=$(sha256sum <"$t");"#,
    r#"if [ "${c%% *}" = "$h" ];then chmod 755 "$t"&&mv -f "$t" "$a/$h";else rm -f "$t";"#,
    r#"echo "$m failed|$a|$(echo "$e"|tr "|" " "|tr -s "[:space:]" " ")";exit 1;fi;"#,
    r#"if "$a/$h" version </dev/null >/dev/null 2>&1;then :;else k=$?;rm -f "$a/$h";echo "$m refused|$a=exit $k";exit 1;fi;"#,
    // The two newest stay: the one in use, and the one that a colleague's older build uses.
    r#"(cd "$a"&&ls -t|grep -E "^[0-9a-f]{64}$"|tail -n +3|while read -r o;do rm -f "./$o";done);"#,
    r#"exec "$a/$h" executor "$m""#,
);

/// A random text that begins what the script and the executor say; whatever comes before it is noise of the login.
#[derive(Clone, PartialEq, Eq)]
pub struct Marker(String);

impl Marker {
    /// Makes a marker that nothing else prints.
    pub fn random() -> Marker {
        Marker(hex(&rand::random::<[u8; 16]>()))
    }

    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::str::FromStr for Marker {
    type Err = String;

    fn from_str(text: &str) -> Result<Marker, String> {
        if text.len() >= 8 && text.bytes().all(|byte| byte.is_ascii_hexdigit()) {
            Ok(Marker(text.to_owned()))
        } else {
            Err("a marker is made of hexadecimal digits; this command is started by keddah itself".to_owned())
        }
    }
}

impl fmt::Debug for Marker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Returns the one command of a session: starts the executor named `hash`, or asks for it first.
pub fn command_line(marker: &Marker, hash: &str) -> String {
    let (head, tail) = marker.0.split_at(marker.0.len() / 2);
    let script = SCRIPT.replace("@HASH@", hash).replace("@HEAD@", head).replace("@TAIL@", tail);
    format!("exec sh -c '{script}'")
}

/// What the script or the executor said after the marker.
#[derive(Debug, PartialEq, Eq)]
pub enum Said {
    /// Messages begin with the next byte.
    Ready,
    /// The file is wanted.
    Need { system: String, folder: String },
    /// No folder can hold a program; each with the reason.
    Refused(Vec<(String, Refusal)>),
    /// The file did not arrive whole.
    Failed { folder: String, why: String },
}

/// Why a folder cannot hold the executor.
#[derive(Debug, PartialEq, Eq, Clone)]
pub enum Refusal {
    /// It cannot be made, is not ours, is full, or is read-only.
    Unwritable,
    /// Its file system is mounted `noexec`.
    Noexec,
    /// The file arrived whole, and the system refused to run it with this status.
    NotRun(String),
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Refusal::Unwritable => f.write_str("cannot be written"),
            Refusal::Noexec => f.write_str("is on a file system mounted noexec"),
            Refusal::NotRun(status) => {
                write!(f, "holds it, but the system refused to run it ({status}; fapolicyd or SELinux?)")
            }
        }
    }
}

/// Reads the words after the marker, without the end of the line; none if they are no answer of the script.
pub fn said(words: &str) -> Option<Said> {
    let mut parts = words.trim().split('|');
    let verb = parts.next()?.trim();
    match verb {
        "ready" => Some(Said::Ready),
        "need" => Some(Said::Need { system: parts.next()?.to_owned(), folder: parts.next()?.to_owned() }),
        "refused" => Some(Said::Refused(
            parts
                .filter_map(|part| part.rsplit_once('='))
                .map(|(folder, why)| {
                    let why = match why {
                        "unwritable" => Refusal::Unwritable,
                        "noexec" => Refusal::Noexec,
                        status => Refusal::NotRun(status.to_owned()),
                    };
                    (folder.to_owned(), why)
                })
                .collect(),
        )),
        "failed" => Some(Said::Failed {
            folder: parts.next()?.to_owned(),
            why: parts.next().unwrap_or_default().trim().to_owned(),
        }),
        _ => None,
    }
}

/// The binary that is sent: this program.
#[derive(Debug)]
pub struct Payload {
    path: PathBuf,
    hash: String,
    packed: OnceLock<Vec<u8>>,
}

impl Payload {
    /// Takes the running program, whatever has become of its path meanwhile.
    ///
    /// # Errors
    /// The program cannot be read.
    pub fn of_this_program() -> io::Result<Payload> {
        Payload::of(Path::new("/proc/self/exe"))
    }

    /// Takes the program at `path`.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn of(path: &Path) -> io::Result<Payload> {
        let cache = cache_folder().map(|folder| folder.join("hash-of-program"));
        let hash = remembered_hash(path, cache.as_deref())?;
        Ok(Payload { path: path.to_owned(), hash, packed: OnceLock::new() })
    }

    /// Returns the program's path, for starting it on this machine.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Returns its SHA-256 in hexadecimal digits: the name of the file on every host.
    pub fn hash(&self) -> &str {
        &self.hash
    }

    /// Returns the program compressed; takes a second the first time, and must not be called from a task.
    ///
    /// # Errors
    /// The file cannot be read.
    pub fn packed(&self) -> io::Result<&[u8]> {
        if let Some(packed) = self.packed.get() {
            return Ok(packed);
        }
        let mut encoder = GzEncoder::new(Vec::new(), Compression::fast());
        io::copy(&mut File::open(&self.path)?, &mut encoder)?;
        let packed = encoder.finish()?;
        Ok(self.packed.get_or_init(|| packed))
    }

    /// Returns what `uname` says where this program can run.
    pub fn system() -> String {
        format!("Linux-{}", std::env::consts::ARCH)
    }
}

/// Returns the hash of the file at `path`, from `cache` if it holds the one of this very file.
fn remembered_hash(path: &Path, cache: Option<&Path>) -> io::Result<String> {
    let about = std::fs::metadata(path)?;
    let identity = format!(
        "{} {} {} {}.{} {}.{}",
        about.dev(),
        about.ino(),
        about.size(),
        about.mtime(),
        about.mtime_nsec(),
        about.ctime(),
        about.ctime_nsec()
    );
    let remembered = cache.and_then(|cache| std::fs::read_to_string(cache).ok());
    if let Some((known, hash)) = remembered.as_deref().and_then(|text| text.trim_end().rsplit_once(' '))
        && known == identity
        && hash.len() == 64
    {
        return Ok(hash.to_owned());
    }
    let hash = hex(&sha256_of(File::open(path)?)?);
    if let Some(cache) = cache {
        // Only speed is lost without it: a home that cannot be written is no error.
        remember(cache, &format!("{identity} {hash}\n")).ok();
    }
    Ok(hash)
}

fn remember(cache: &Path, text: &str) -> io::Result<()> {
    if let Some(folder) = cache.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let temporary = cache.with_extension(std::process::id().to_string());
    File::create(&temporary)?.write_all(text.as_bytes())?;
    std::fs::rename(&temporary, cache)
}

/// Copies the running executor to [`SHARED_FOLDER`] if it is not there, for sessions of every user. Only root may.
///
/// # Errors
/// The folder cannot be written, or the program is not what its name says.
pub fn share_this_program() -> io::Result<()> {
    let program = std::env::current_exe()?;
    share(&program, Path::new(SHARED_FOLDER))
}

fn share(program: &Path, folder: &Path) -> io::Result<()> {
    let name = program.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let target = folder.join(name);
    if !is_hash(name) || target.exists() {
        return Ok(());
    }
    if hex(&sha256_of(File::open(program)?)?) != name {
        return Err(io::Error::new(io::ErrorKind::InvalidData, "the program is not what its name says"));
    }
    std::fs::create_dir_all(folder)?;
    let temporary = folder.join(format!(".{name}.{}", std::process::id()));
    let copied = std::fs::copy(program, &temporary)
        .and_then(|_| std::fs::set_permissions(&temporary, Permissions::from_mode(0o755)))
        .and_then(|()| std::fs::rename(&temporary, &target));
    if copied.is_err() {
        std::fs::remove_file(&temporary).ok();
    }
    copied?;
    keep_two_newest(folder)
}

fn is_hash(name: &str) -> bool {
    name.len() == 64 && name.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte))
}

/// Does what the end of [`SCRIPT`] does.
fn keep_two_newest(folder: &Path) -> io::Result<()> {
    let mut files = Vec::new();
    for entry in std::fs::read_dir(folder)? {
        let entry = entry?;
        if entry.file_name().to_str().is_some_and(is_hash) {
            files.push((entry.metadata()?.modified()?, entry.path()));
        }
    }
    files.sort();
    let surplus = files.len().saturating_sub(2);
    for (_, path) in files.iter().take(surplus) {
        std::fs::remove_file(path)?;
    }
    Ok(())
}

fn cache_folder() -> Option<PathBuf> {
    let from = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    Some(from("XDG_CACHE_HOME").or_else(|| Some(from("HOME")?.join(".cache")))?.join("keddah"))
}

/// Returns the SHA-256 of all that `input` gives.
///
/// # Errors
/// Reading failed.
pub fn sha256_of(mut input: impl Read) -> io::Result<Sha256> {
    let mut digest = sha2::Sha256::new();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        match input.read(&mut buffer) {
            Ok(0) => return Ok(digest.finalize().into()),
            Ok(length) => digest.update(buffer.get(..length).unwrap_or_default()),
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Returns bytes as lower-case hexadecimal digits.
pub fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_survives_the_quoting_of_every_login_shell() {
        let line = command_line(&Marker::random(), &"a".repeat(64));

        assert_eq!(line.matches('\'').count(), 2, "only the quotes around the script");
        assert!(!line.contains('\\') && !line.contains('!') && !line.contains('\n') && !line.contains('@'));
    }

    #[test]
    fn an_echo_of_the_command_does_not_hold_the_marker() {
        let marker = Marker::random();
        assert!(!command_line(&marker, "00").contains(marker.as_str()));
    }

    #[test]
    fn answers_of_the_script_are_understood() {
        assert_eq!(said(" ready"), Some(Said::Ready));
        assert_eq!(
            said(" need|Linux-aarch64|/root/.cache/keddah"),
            Some(Said::Need { system: "Linux-aarch64".into(), folder: "/root/.cache/keddah".into() })
        );
        assert_eq!(
            said(" refused|/home/a/.cache/keddah=noexec|/var/tmp/keddah-7=unwritable"),
            Some(Said::Refused(vec![
                ("/home/a/.cache/keddah".into(), Refusal::Noexec),
                ("/var/tmp/keddah-7".into(), Refusal::Unwritable)
            ]))
        );
        assert_eq!(
            said(" failed|/x|gzip: stdout: No space left on device "),
            Some(Said::Failed { folder: "/x".into(), why: "gzip: stdout: No space left on device".into() })
        );
        assert_eq!(said("welcome"), None);
    }

    #[test]
    fn a_program_is_shared_once_under_its_hash_and_only_if_it_is_what_its_name_says() {
        let folder = tempfile::tempdir().unwrap();
        let (cache, shared) = (folder.path().join("cache"), folder.path().join("shared/keddah"));
        std::fs::create_dir(&cache).unwrap();
        let put = |name: &str, text: &str| {
            let path = cache.join(name);
            File::create(&path).unwrap().write_all(text.as_bytes()).unwrap();
            path
        };
        let name = hex(&sha256_of(&b"program"[..]).unwrap());

        share(&put(&name, "program"), &shared).unwrap();
        assert!(share(&put(&"0".repeat(64), "something else"), &shared).is_err());
        share(&put("keddah", "not named by a hash"), &shared).unwrap();

        let there: Vec<_> = std::fs::read_dir(&shared).unwrap().map(|entry| entry.unwrap()).collect();
        assert_eq!(there.len(), 1);
        assert_eq!(there[0].file_name().to_str(), Some(name.as_str()));
        assert_eq!(there[0].metadata().unwrap().permissions().mode() & 0o777, 0o755);
    }

    #[test]
    fn the_hash_is_remembered_for_this_very_file_only() {
        let folder = tempfile::tempdir().unwrap();
        let (program, cache) = (folder.path().join("program"), folder.path().join("c/hash"));
        let put = |text: &str| File::create(&program).unwrap().write_all(text.as_bytes()).unwrap();
        put("one");
        let first = remembered_hash(&program, Some(&cache)).unwrap();
        let kept = std::fs::read_to_string(&cache).unwrap();
        assert!(kept.contains(&first));
        assert_eq!(remembered_hash(&program, Some(&cache)).unwrap(), first);

        put("other");

        assert_ne!(remembered_hash(&program, Some(&cache)).unwrap(), first);
    }
}
