//! Which host keys are believed: OpenSSH's known_hosts files, read for each connection, added to when asked.

use std::fmt;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use russh::keys::{Algorithm, PublicKey, PublicKeyBase64};
use sha1::{Digest, Sha1};

/// `StrictHostKeyChecking`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Checking {
    /// Only known keys. `ask` is this too: nobody is asked.
    Strict,
    /// Unknown keys are stored, changed ones refused.
    AcceptNew,
    /// Unknown keys are stored, changed ones accepted with a warning.
    Off,
}

/// One line of a known_hosts file that speaks of a host.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Known {
    pub file: PathBuf,
    /// Counted from 1.
    pub line: usize,
    pub key: PublicKey,
    pub revoked: bool,
    /// Matches the name only without its port.
    portless: bool,
}

/// Why a host's key is not believed.
#[derive(Debug, thiserror::Error)]
pub enum HostKeyError {
    Unknown {
        name: String,
        key: String,
        fingerprint: String,
        stored_in: PathBuf,
    },
    Changed {
        name: String,
        fingerprint: String,
        file: PathBuf,
        line: usize,
    },
    Revoked {
        name: String,
        fingerprint: String,
        file: PathBuf,
        line: usize,
    },
    /// The host proves itself with a certificate of an authority, which is not supported.
    Certificate {
        name: String,
    },
    File {
        file: PathBuf,
        #[source]
        source: io::Error,
    },
}

impl fmt::Display for HostKeyError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            HostKeyError::Unknown { name, key, fingerprint, stored_in } => write!(
                f,
                "the host key of {name} is not known ({fingerprint}); compare it with the host's, then accept it with \
                 `echo '{name} {key}' >> {}`, or let new keys be stored with \
                 `--ssh-common-args '-o StrictHostKeyChecking=accept-new'`",
                stored_in.display()
            ),
            HostKeyError::Changed { name, fingerprint, file, line } => write!(
                f,
                "the host key of {name} has changed: the host shows {fingerprint}, and {}:{line} holds another; if the \
                 host was made anew, remove the old key with `ssh-keygen -f {} -R '{name}'`, otherwise somebody may be \
                 between you and it",
                file.display(),
                file.display()
            ),
            HostKeyError::Revoked { name, fingerprint, file, line } => write!(
                f,
                "the host key of {name} ({fingerprint}) is revoked by {}:{line}; the host needs another key",
                file.display()
            ),
            HostKeyError::Certificate { name } => write!(
                f,
                "{name} is known only through a certificate authority (@cert-authority), which is not supported; \
                 add the host's own key to a known_hosts file"
            ),
            HostKeyError::File { file, .. } => write!(f, "cannot use {}", file.display()),
        }
    }
}

/// What the known_hosts files say about one host.
#[derive(Debug)]
pub struct HostKeys {
    name: String,
    checking: Checking,
    store: PathBuf,
    known: Vec<Known>,
    by_authority: bool,
}

impl HostKeys {
    /// Reads `files` for `host`; new keys are stored in the first of them.
    ///
    /// # Errors
    /// A file is there and cannot be read.
    pub fn read(
        host: &str,
        port: u16,
        checking: Checking,
        files: &[PathBuf],
    ) -> Result<HostKeys, HostKeyError> {
        let plain = host.to_lowercase();
        let name = if port == 22 { plain.clone() } else { format!("[{plain}]:{port}") };
        let store = files.first().cloned().unwrap_or_else(|| PathBuf::from("/dev/null"));
        let mut keys = HostKeys { name, checking, store, known: Vec::new(), by_authority: false };
        for file in files {
            let text = match std::fs::read(file) {
                Ok(bytes) => String::from_utf8_lossy(&bytes).into_owned(),
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(source) => return Err(HostKeyError::File { file: file.clone(), source }),
            };
            keys.take(file, &text, &plain);
        }
        Ok(keys)
    }

    fn take(&mut self, file: &Path, text: &str, plain: &str) {
        for (index, line) in text.lines().enumerate() {
            let mut words = line.split_ascii_whitespace();
            let Some(first) = words.next().filter(|word| !word.starts_with('#')) else { continue };
            let (mark, patterns) =
                if first.starts_with('@') { (Some(first), words.next()) } else { (None, Some(first)) };
            let Some(patterns) = patterns else { continue };
            let exact = matches(patterns, &self.name);
            let portless = !exact && plain != self.name && matches(patterns, plain);
            if !exact && !portless {
                continue;
            }
            let (Some(_), Some(blob)) = (words.next(), words.next()) else { continue };
            // A key of a type that this program does not know cannot be what the host will show.
            let Ok(key) = russh::keys::parse_public_key_base64(blob) else { continue };
            match mark {
                Some("@cert-authority") => self.by_authority = true,
                Some("@revoked") | None => self.known.push(Known {
                    file: file.to_owned(),
                    line: index + 1,
                    key,
                    revoked: mark.is_some(),
                    portless,
                }),
                Some(_) => {}
            }
        }
    }

    /// Returns the algorithms of the keys that are known, for asking the host for one of them.
    pub fn algorithms(&self) -> Vec<Algorithm> {
        let mut found = Vec::new();
        for known in self.known.iter().filter(|known| !known.revoked) {
            let algorithm = known.key.algorithm();
            if !found.contains(&algorithm) {
                found.push(algorithm);
            }
        }
        found
    }

    /// Judges the key that the host shows, and stores it if it is new and new ones are to be accepted.
    ///
    /// # Errors
    /// The key is not to be believed, or could not be stored.
    pub fn judge(&self, shown: &PublicKey) -> Result<(), HostKeyError> {
        let fingerprint = || fingerprint(shown);
        let same = |known: &&Known| known.key.key_data() == shown.key_data();
        if let Some(Known { file, line, .. }) = self.known.iter().filter(|known| known.revoked).find(same) {
            let (file, line) = (file.clone(), *line);
            return Err(HostKeyError::Revoked {
                name: self.name.clone(),
                fingerprint: fingerprint(),
                file,
                line,
            });
        }
        if self.known.iter().any(|known| same(&known)) {
            return Ok(());
        }
        // Like OpenSSH: an entry without the port vouches for a key, but speaks against none.
        let other = self.known.iter().find(|known| !known.revoked && !known.portless);
        if let Some(Known { file, line, .. }) = other {
            if self.checking == Checking::Off {
                tracing::warn!(host = %self.name, file = %file.display(), line, "host key has changed; accepted as StrictHostKeyChecking=no says");
                return Ok(());
            }
            let (file, line) = (file.clone(), *line);
            return Err(HostKeyError::Changed {
                name: self.name.clone(),
                fingerprint: fingerprint(),
                file,
                line,
            });
        }
        match self.checking {
            Checking::AcceptNew | Checking::Off => {
                let line = format!("{} {}\n", self.name, openssh(shown));
                append(&self.store, &line)
                    .map_err(|source| HostKeyError::File { file: self.store.clone(), source })
            }
            Checking::Strict if self.by_authority => {
                Err(HostKeyError::Certificate { name: self.name.clone() })
            }
            Checking::Strict => Err(HostKeyError::Unknown {
                name: self.name.clone(),
                key: openssh(shown),
                fingerprint: fingerprint(),
                stored_in: self.store.clone(),
            }),
        }
    }
}

fn fingerprint(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.fingerprint(russh::keys::HashAlg::Sha256))
}

fn openssh(key: &PublicKey) -> String {
    format!("{} {}", key.algorithm(), key.public_key_base64())
}

/// Adds a line in one write, so that connections made at the same time do not mix theirs.
fn append(path: &Path, line: &str) -> io::Result<()> {
    if let Some(folder) = path.parent() {
        std::fs::create_dir_all(folder)?;
    }
    let mut file = OpenOptions::new().read(true).append(true).create(true).open(path)?;
    let glue = if ends_in_newline(&mut file)? { "" } else { "\n" };
    file.write_all(format!("{glue}{line}").as_bytes())
}

fn ends_in_newline(file: &mut File) -> io::Result<bool> {
    if !file.metadata()?.is_file() || file.metadata()?.len() == 0 {
        return Ok(true);
    }
    let mut last = [0];
    file.seek(SeekFrom::End(-1))?;
    file.read_exact(&mut last)?;
    Ok(last == *b"\n")
}

/// Tells whether a line's list of patterns means `name`, which is in lower case.
fn matches(patterns: &str, name: &str) -> bool {
    let mut found = false;
    for pattern in patterns.split(',') {
        if let Some(refused) = pattern.strip_prefix('!') {
            if wildcard(&refused.to_lowercase(), name) {
                return false;
            }
        } else if pattern.starts_with("|1|") {
            found |= hashed(pattern, name);
        } else {
            found |= wildcard(&pattern.to_lowercase(), name);
        }
    }
    found
}

/// Tells whether `|1|SALT|HASH` is the hash of `name`.
fn hashed(pattern: &str, name: &str) -> bool {
    let mut parts = pattern.split('|').skip(2);
    let (Some(salt), Some(hash)) = (parts.next(), parts.next()) else { return false };
    let (Ok(salt), Ok(hash)) = (BASE64.decode(salt), BASE64.decode(hash)) else { return false };
    hmac_sha1(&salt, name.as_bytes()).as_slice() == hash
}

/// HMAC of RFC 2104 with SHA-1, which is what OpenSSH hashes names with. Salts are 20 bytes, far below a block.
fn hmac_sha1(key: &[u8], text: &[u8]) -> Vec<u8> {
    const BLOCK: usize = 64;
    let mut padded = if key.len() > BLOCK { Sha1::digest(key).to_vec() } else { key.to_vec() };
    padded.resize(BLOCK, 0);
    let with = |mask: u8| padded.iter().map(|byte| byte ^ mask).collect::<Vec<u8>>();
    let inner = Sha1::new().chain_update(with(0x36)).chain_update(text).finalize();
    Sha1::new().chain_update(with(0x5c)).chain_update(inner).finalize().to_vec()
}

/// Matches `*` and `?` as OpenSSH does: they stand for any characters, dots included.
pub(crate) fn wildcard(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<char>, Vec<char>) = (pattern.chars().collect(), text.chars().collect());
    // reached[i]: the pattern so far can end at the i-th character.
    let mut reached = vec![false; text.len() + 1];
    if let Some(first) = reached.first_mut() {
        *first = true;
    }
    for wanted in pattern {
        let mut next = vec![false; text.len() + 1];
        let mut any_before = false;
        for at in 0..=text.len() {
            let here = reached.get(at).copied().unwrap_or(false);
            any_before |= here;
            if wanted == '*' {
                if let Some(slot) = next.get_mut(at) {
                    *slot = any_before;
                }
            } else if here
                && text.get(at).is_some_and(|found| wanted == '?' || wanted == *found)
                && let Some(slot) = next.get_mut(at + 1)
            {
                *slot = true;
            }
        }
        reached = next;
    }
    reached.last().copied().unwrap_or(false)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ONE: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIJdD7y3aLq454yWBdwLWbieU1ebz9/cu7/QEXn9OIeZJ";
    const TWO: &str = "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAIA6rWI3G1sz07DnfFlrouTcysQlj2P+jpNSOEWD9OJ3X";
    const HASHED: &str = "|1|O33ESRMWPVkMYIwJ1Uw+n877jTo=|nuuC5vEqXlEZ/8BXQR7m619W6Ak= ssh-ed25519 AAAAC3NzaC1lZDI1NTE5AAAAILIG2T/B0l0gaqj3puu510tu9N1OkQ4znY3LYuEm5zCF";

    struct Files {
        folder: tempfile::TempDir,
    }

    impl Files {
        fn holding(text: &str) -> Files {
            let files = Files { folder: tempfile::tempdir().unwrap() };
            File::create(files.path()).unwrap().write_all(text.as_bytes()).unwrap();
            files
        }

        fn path(&self) -> PathBuf {
            self.folder.path().join("known_hosts")
        }

        fn text(&self) -> String {
            std::fs::read_to_string(self.path()).unwrap()
        }

        fn judge(&self, host: &str, port: u16, checking: Checking, key: &str) -> Result<(), HostKeyError> {
            HostKeys::read(host, port, checking, &[self.path()]).unwrap().judge(&parse(key))
        }
    }

    fn parse(line: &str) -> PublicKey {
        russh::keys::parse_public_key_base64(line.split_whitespace().last().unwrap()).unwrap()
    }

    #[test]
    fn a_known_key_is_believed_by_name_alias_port_wildcard_and_hash() {
        let files = Files::holding(&format!(
            "# comment\n\ndb1,10.0.0.1 {ONE}\n[db2]:2222 {ONE}\n*.example.com,!bad.example.com {ONE}\n{HASHED}\n"
        ));
        let key = |line: &str| files.judge(line, 22, Checking::Strict, ONE);

        assert!(key("DB1").is_ok());
        assert!(key("10.0.0.1").is_ok());
        assert!(key("x.example.com").is_ok());
        assert!(matches!(key("bad.example.com"), Err(HostKeyError::Unknown { .. })));
        assert!(matches!(key("db2"), Err(HostKeyError::Unknown { .. })));
        assert!(files.judge("db2", 2222, Checking::Strict, ONE).is_ok());
        assert!(files.judge("example.com", 22, Checking::Strict, HASHED).is_ok());
    }

    #[test]
    fn several_keys_of_one_host_are_all_believed() {
        let files = Files::holding(&format!("db1 {ONE}\ndb1 {TWO}\n"));
        assert!(files.judge("db1", 22, Checking::Strict, TWO).is_ok());
        assert!(files.judge("db1", 22, Checking::Strict, ONE).is_ok());
    }

    #[test]
    fn an_entry_without_the_port_vouches_but_does_not_accuse() {
        let files = Files::holding(&format!("db1 {ONE}\n"));
        assert!(files.judge("db1", 2222, Checking::Strict, ONE).is_ok());
        assert!(matches!(
            files.judge("db1", 2222, Checking::Strict, TWO),
            Err(HostKeyError::Unknown { name, .. }) if name == "[db1]:2222"
        ));
    }

    #[test]
    fn a_changed_key_names_the_line_and_the_command_whatever_is_accepted() {
        let files = Files::holding(&format!("# first\ndb1 {ONE}\n"));
        for checking in [Checking::Strict, Checking::AcceptNew] {
            let error = files.judge("db1", 22, checking, TWO).unwrap_err();
            assert!(matches!(error, HostKeyError::Changed { line: 2, .. }));
            let text = error.to_string();
            assert!(
                text.contains("known_hosts:2") && text.contains("ssh-keygen -f") && text.contains("-R 'db1'")
            );
        }
        assert!(files.judge("db1", 22, Checking::Off, TWO).is_ok());
    }

    #[test]
    fn a_revoked_key_is_refused_even_when_another_line_believes_it() {
        let files = Files::holding(&format!("db1 {ONE}\n@revoked * {ONE}\n"));
        let error = files.judge("db1", 22, Checking::Off, ONE).unwrap_err();
        assert!(matches!(error, HostKeyError::Revoked { line: 2, .. }));
    }

    #[test]
    fn an_authority_alone_is_named_as_what_is_not_supported() {
        let files = Files::holding(&format!("@cert-authority *.example.com {ONE}\n"));
        let error = files.judge("a.example.com", 22, Checking::Strict, TWO).unwrap_err();
        assert!(matches!(error, HostKeyError::Certificate { .. }));
    }

    #[test]
    fn a_new_key_is_stored_once_and_believed_from_then_on() {
        let files = Files::holding(&format!("db1 {ONE}"));

        files.judge("db2", 2200, Checking::AcceptNew, TWO).unwrap();

        assert_eq!(files.text(), format!("db1 {ONE}\n[db2]:2200 {TWO}\n"));
        assert!(files.judge("db2", 2200, Checking::Strict, TWO).is_ok());
    }

    #[test]
    fn the_algorithms_of_known_keys_are_told() {
        let files = Files::holding(&format!("db1 {ONE}\n"));
        let keys = HostKeys::read("db1", 22, Checking::Strict, &[files.path()]).unwrap();
        assert_eq!(keys.algorithms(), vec![Algorithm::Ed25519]);
    }
}
