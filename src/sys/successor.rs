//! Going on in another program: same process, the descriptors that it is given, and a sealed document that says what
//! they are.
//!
//! The document lies in a memfd: `{"version": N, "fds": [...], "body": {...}}`. `version` and `fds` keep their meaning
//! for ever; a program that does not know the version closes what `fds` names and goes on without.

use std::ffi::CString;
use std::fs::File;
use std::io::{self, Read, Seek, Write};
use std::os::fd::{AsFd, AsRawFd, BorrowedFd, FromRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, FdFlag, SealFlag, fcntl};
use nix::sys::memfd::{MFdFlags, memfd_create};
use nix::sys::signal::{SigSet, SigmaskHow, Signal, sigprocmask};
use serde::{Deserialize, Serialize};

/// Names the process that is meant, so that none of its children takes the document for its own, and the descriptor.
const VARIABLE: &str = "KEDDAH_HANDOVER";

/// Descriptors handed over lie above those that everybody uses.
const LOWEST: RawFd = 10;

#[derive(Debug, Serialize, Deserialize)]
struct Envelope<B> {
    version: u32,
    fds: Vec<RawFd>,
    body: B,
}

/// What the next program gets. Dropped, this program keeps all that it had.
#[derive(Debug, Default)]
pub struct Estate {
    /// Copies that an exec does not close.
    copies: Vec<OwnedFd>,
}

impl Estate {
    /// Gives a descriptor, and returns its number in the next program.
    ///
    /// # Errors
    /// The process has as many descriptors as it may have.
    pub fn give(&mut self, fd: BorrowedFd<'_>) -> io::Result<RawFd> {
        let number = fcntl(fd, FcntlArg::F_DUPFD(LOWEST))?;
        self.copies.push(own(number));
        Ok(number)
    }

    /// Executes `program` in place of this one, with `arguments` (the first is its name) and this estate. Signals that
    /// come meanwhile, but for an alarm, wait for [`unblock_signals`]. Returns only if it failed.
    pub fn execute(
        mut self,
        program: &Path,
        arguments: &[String],
        version: u32,
        body: &impl Serialize,
    ) -> io::Error {
        match self.prepare(program, arguments, version, body) {
            Ok((program, arguments, environment)) => {
                let (mut before, mut waiting) = (SigSet::empty(), SigSet::all());
                waiting.remove(Signal::SIGALRM);
                if let Err(errno) = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&waiting), Some(&mut before)) {
                    return errno.into();
                }
                let error =
                    nix::unistd::execve(&program, &arguments, &environment).err().unwrap_or(Errno::EINVAL);
                let _as_it_was = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&before), None);
                error.into()
            }
            Err(error) => error,
        }
    }

    fn prepare(
        &mut self,
        program: &Path,
        arguments: &[String],
        version: u32,
        body: &impl Serialize,
    ) -> io::Result<(CString, Vec<CString>, Vec<CString>)> {
        let fds = self.copies.iter().map(AsRawFd::as_raw_fd).collect();
        let document = sealed(&serde_json::to_vec(&Envelope { version, fds, body })?)?;
        let number = self.give(document.as_fd())?;
        let text = |bytes: Vec<u8>| CString::new(bytes).map_err(io::Error::other);
        let arguments = arguments
            .iter()
            .map(|argument| text(argument.clone().into_bytes()))
            .collect::<io::Result<_>>()?;
        let mut environment = Vec::new();
        for (name, value) in std::env::vars_os().filter(|(name, _)| name != VARIABLE) {
            environment.push(text([name.into_vec(), value.into_vec()].join(&b'='))?);
        }
        environment.push(text(format!("{VARIABLE}={}:{number}", std::process::id()).into_bytes())?);
        Ok((text(program.as_os_str().as_bytes().to_vec())?, arguments, environment))
    }
}

fn own(number: RawFd) -> OwnedFd {
    #[expect(unsafe_code, reason = "the kernel and the document answer bare numbers")]
    // SAFETY: callers pass a number that the kernel has just answered, or that a sealed document of this process hands
    // over to nobody else.
    unsafe {
        OwnedFd::from_raw_fd(number)
    }
}

fn sealed(content: &[u8]) -> io::Result<OwnedFd> {
    let mut file =
        File::from(memfd_create(c"keddah-handover", MFdFlags::MFD_CLOEXEC | MFdFlags::MFD_ALLOW_SEALING)?);
    file.write_all(content)?;
    fcntl(&file, FcntlArg::F_ADD_SEALS(seals()))?;
    Ok(file.into())
}

fn seals() -> SealFlag {
    SealFlag::F_SEAL_WRITE | SealFlag::F_SEAL_SHRINK | SealFlag::F_SEAL_GROW | SealFlag::F_SEAL_SEAL
}

/// What the program before left to this one. What is not taken is closed with it.
#[derive(Debug)]
pub struct Inherited {
    version: u32,
    body: serde_json::Value,
    fds: Vec<OwnedFd>,
}

impl Inherited {
    /// Returns what this process was left by the program that it was before; None where it is a new one.
    pub fn receive() -> Option<Inherited> {
        let value = std::env::var(VARIABLE).ok()?;
        let (pid, number) = value.split_once(':')?;
        if pid.parse() != Ok(std::process::id()) {
            return None;
        }
        Inherited::read(number.parse().ok()?)
    }

    fn read(number: RawFd) -> Option<Inherited> {
        #[expect(unsafe_code, reason = "a number from the environment is looked at before it is believed")]
        // SAFETY: borrowed only for this question, which a closed or strange descriptor answers with an error.
        let asked = fcntl(unsafe { BorrowedFd::borrow_raw(number) }, FcntlArg::F_GET_SEALS);
        if asked != Ok(seals().bits()) {
            return None;
        }
        let mut file = File::from(own(number));
        let mut text = Vec::new();
        file.rewind().and_then(|()| file.read_to_end(&mut text)).ok()?;
        let envelope: Envelope<serde_json::Value> = serde_json::from_slice(&text).ok()?;
        let mut fds = Vec::new();
        for number in envelope.fds {
            #[expect(unsafe_code, reason = "as above")]
            // SAFETY: as above.
            let borrowed = unsafe { BorrowedFd::borrow_raw(number) };
            if fcntl(borrowed, FcntlArg::F_SETFD(FdFlag::FD_CLOEXEC)).is_ok() {
                fds.push(own(number));
            }
        }
        Some(Inherited { version: envelope.version, body: envelope.body, fds })
    }

    /// Returns the version that the document was written in.
    pub fn version(&self) -> u32 {
        self.version
    }

    /// Reads the document.
    ///
    /// # Errors
    /// It is not of this kind.
    pub fn body<T: serde::de::DeserializeOwned>(&self) -> serde_json::Result<T> {
        T::deserialize(&self.body)
    }

    /// Takes the descriptor of this number.
    pub fn take(&mut self, number: RawFd) -> Option<OwnedFd> {
        let at = self.fds.iter().position(|fd| fd.as_raw_fd() == number)?;
        Some(self.fds.swap_remove(at))
    }
}

/// Lets signals through that waited since the program before executed this one.
pub fn unblock_signals() {
    let _as_before = sigprocmask(SigmaskHow::SIG_SETMASK, Some(&SigSet::empty()), None);
}

#[cfg(test)]
mod tests {
    use std::os::fd::IntoRawFd;

    use super::*;

    #[test]
    fn what_was_given_is_taken_by_its_number_and_the_rest_is_closed() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut estate = Estate::default();
        let first = estate.give(reader.as_fd()).unwrap();
        let second = estate.give(writer.as_fd()).unwrap();
        drop(writer);
        let fds = vec![first, second, 9_999];
        let text = serde_json::to_vec(&Envelope { version: 7, fds, body: "all of it" }).unwrap();
        let document = sealed(&text).unwrap().into_raw_fd();
        // The next program owns them.
        estate.copies.drain(..).for_each(|fd| assert!(fd.into_raw_fd() >= LOWEST));

        let mut inherited = Inherited::read(document).unwrap();

        assert_eq!((inherited.version(), inherited.body::<String>().unwrap().as_str()), (7, "all of it"));
        assert!(inherited.body::<u64>().is_err());
        let taken = inherited.take(first).unwrap();
        assert!(inherited.take(first).is_none() && inherited.take(9_999).is_none());
        drop(inherited);
        assert_eq!(nix::unistd::read(&taken, &mut [0; 1]), Ok(0), "nobody can write any more");
    }

    #[test]
    fn nothing_but_a_sealed_document_is_believed() {
        let (end, _other) = nix::unistd::pipe().unwrap();
        let plain = memfd_create(c"plain", MFdFlags::MFD_ALLOW_SEALING).unwrap();

        assert!(Inherited::read(end.as_raw_fd()).is_none());
        assert!(Inherited::read(plain.as_raw_fd()).is_none());
        assert!(Inherited::read(9_999).is_none());
    }

    #[test]
    fn an_exec_that_fails_leaves_everything_as_it_was() {
        let (reader, writer) = nix::unistd::pipe().unwrap();
        let mut estate = Estate::default();
        estate.give(writer.as_fd()).unwrap();
        drop(writer);

        let error = estate.execute(Path::new("/nowhere/keddah"), &["keddah".to_owned()], 1, &());

        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert_eq!(nix::unistd::read(&reader, &mut [0; 1]), Ok(0), "the copy is closed");
        let mut mask = SigSet::all();
        sigprocmask(SigmaskHow::SIG_BLOCK, None, Some(&mut mask)).unwrap();
        assert!(!mask.contains(Signal::SIGTERM));
    }
}
