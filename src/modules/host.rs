//! What a module may do on a host: [`Host`] looks, [`HostMut`] also changes.
//!
//! A module's `observe` is given a [`Host`], which has no method that writes and runs only the programs on the module's
//! list; so check mode needs no care in any module. Tests make a [`Host`] over a temporary folder.

use std::cell::RefCell;
use std::ops::Deref;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::modules::outcome::{Fault, SuppliedFile};
use crate::sys::files::{self, Attributes, FileError, Replacement, Stat};
use crate::sys::packages::Packages;
use crate::sys::process::{Output, ProcessError, Program};
use crate::sys::users::{self, Group, User};

/// Runs programs in place of the operating system, in tests.
pub type Runner = Box<dyn Fn(&Program) -> Result<Output, ProcessError> + Send>;

/// A host as a module sees it while it only looks.
pub struct Host {
    root: PathBuf,
    environment: Vec<(String, String)>,
    allowed: &'static [&'static str],
    runner: Option<Runner>,
    packages: RefCell<Option<Arc<Packages>>>,
    files: Vec<SuppliedFile>,
    folders: Vec<String>,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Host")
            .field("root", &self.root)
            .field("allowed", &self.allowed)
            .finish_non_exhaustive()
    }
}

impl Host {
    /// The host that this process runs on.
    pub fn local() -> Host {
        Host::under("/")
    }

    /// A host whose file system is the folder `root`.
    pub fn under(root: impl Into<PathBuf>) -> Host {
        Host {
            root: root.into(),
            environment: Vec::new(),
            allowed: &[],
            runner: None,
            packages: RefCell::new(None),
            files: Vec::new(),
            folders: Vec::new(),
        }
    }

    /// Lets `runner` answer in place of every program.
    #[must_use]
    pub fn with_runner(mut self, runner: Runner) -> Host {
        self.runner = Some(runner);
        self
    }

    pub(super) fn begin(
        &mut self,
        environment: Vec<(String, String)>,
        files: Vec<SuppliedFile>,
        folders: Vec<String>,
        allowed: &'static [&'static str],
    ) {
        self.environment = environment;
        self.files = files;
        self.folders = folders;
        self.allowed = allowed;
    }

    /// Returns where a path of the host lies for this process.
    pub fn path(&self, path: impl AsRef<Path>) -> PathBuf {
        let path = path.as_ref();
        if self.root == Path::new("/") {
            return path.to_owned();
        }
        self.root.join(path.strip_prefix("/").unwrap_or(path))
    }

    /// Returns the path of the host for a path of this process.
    pub fn outside(&self, path: &Path) -> String {
        match path.strip_prefix(&self.root) {
            Ok(inner) if self.root != Path::new("/") => format!("/{}", inner.display()),
            _ => path.display().to_string(),
        }
    }

    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Returns whether this is the machine's own file system; live parts (kernel, systemd, servers) exist only there.
    pub fn is_live(&self) -> bool {
        self.root == Path::new("/")
    }

    /// Files of the controller that the step brought along.
    pub fn supplied(&self) -> &[SuppliedFile] {
        &self.files
    }

    /// Folders of a supplied folder, relative to it.
    pub fn supplied_folders(&self) -> &[String] {
        &self.folders
    }

    pub fn stat(&self, path: impl AsRef<Path>) -> Result<Option<Stat>, FileError> {
        files::stat(&self.path(path))
    }

    pub fn stat_followed(&self, path: impl AsRef<Path>) -> Result<Option<Stat>, FileError> {
        files::stat_followed(&self.path(path))
    }

    pub fn read(&self, path: impl AsRef<Path>) -> Result<Vec<u8>, FileError> {
        files::read(&self.path(path))
    }

    pub fn read_if_there(&self, path: impl AsRef<Path>) -> Result<Option<Vec<u8>>, FileError> {
        files::read_if_there(&self.path(path))
    }

    pub fn list(&self, folder: impl AsRef<Path>) -> Result<Vec<std::ffi::OsString>, FileError> {
        files::list(&self.path(folder))
    }

    pub fn user(&self, name: &str) -> Result<Option<User>, FileError> {
        users::find_user(&self.root, name)
    }

    pub fn group(&self, name: &str) -> Result<Option<Group>, FileError> {
        users::find_group(&self.root, name)
    }

    pub fn groups(&self) -> Result<Vec<Group>, FileError> {
        users::groups(&self.root)
    }

    /// Returns the package database, read once until it changes.
    pub fn packages(&self) -> Result<Arc<Packages>, Fault> {
        let mut kept = self.packages.borrow_mut();
        if let Some(packages) = kept.as_ref().filter(|p| p.is_current(&self.root)) {
            return Ok(Arc::clone(packages));
        }
        let read = Arc::new(Packages::read(&self.root)?);
        *kept = Some(Arc::clone(&read));
        Ok(read)
    }

    /// Returns a variable as the module's programs see it: the task's, else the process's own.
    pub fn variable(&self, name: &str) -> Option<String> {
        let own = self.environment.iter().rev().find(|(n, _)| n == name).map(|(_, value)| value.clone());
        own.or_else(|| std::env::var(name).ok())
    }

    /// Returns whether a program is there to be run.
    pub fn has_program(&self, name: &str) -> bool {
        self.runner.is_some() || crate::sys::process::is_installed(name)
    }

    /// Runs a program that only looks; one that is not on the module's list is refused.
    ///
    /// # Errors
    /// It is not on the list, not on the host, or over its limit. A bad exit status is for the caller to judge.
    pub fn look(&self, program: Program) -> Result<Output, Fault> {
        let argv = program.argv();
        let line = argv.join(" ");
        let listed =
            self.allowed.iter().any(|a| *a == "*" || line == *a || line.starts_with(&format!("{a} ")));
        if !listed {
            return Err(Fault::refused(format!(
                "`{line}` is not on the list of programs that this module may run to look; please report this"
            )));
        }
        self.start(program)
    }

    fn start(&self, program: Program) -> Result<Output, Fault> {
        let program = self.environment.iter().fold(program, |p, (name, value)| p.env(name, value));
        match &self.runner {
            Some(runner) => Ok(runner(&program)?),
            None => Ok(program.run()?),
        }
    }
}

/// A host that may be changed. All that a [`Host`] can see, it can see.
#[derive(Debug)]
pub struct HostMut<'a>(&'a Host);

impl Deref for HostMut<'_> {
    type Target = Host;
    fn deref(&self) -> &Host {
        self.0
    }
}

impl HostMut<'_> {
    pub(super) fn new(host: &mut Host) -> HostMut<'_> {
        HostMut(host)
    }

    /// Replaces a file in one step; see [`files::replace`].
    pub fn replace(
        &mut self,
        path: impl AsRef<Path>,
        content: &[u8],
        attributes: Attributes,
    ) -> Result<(), FileError> {
        files::replace(&self.path(path), content, attributes)
    }

    /// Writes a text beside its destination, for a program that validates it before it takes its place.
    pub fn prepare(
        &mut self,
        path: impl AsRef<Path>,
        content: &[u8],
        attributes: Attributes,
    ) -> Result<Replacement, FileError> {
        Replacement::prepare(&self.path(path), content, attributes)
    }

    pub fn set_mode(&mut self, path: impl AsRef<Path>, mode: u32) -> Result<(), FileError> {
        files::set_mode(&self.path(path), mode)
    }

    pub fn set_owner(
        &mut self,
        path: impl AsRef<Path>,
        uid: Option<u32>,
        gid: Option<u32>,
    ) -> Result<(), FileError> {
        files::set_owner(&self.path(path), uid, gid)
    }

    /// Makes a folder and those above it; returns those made, as paths of this process.
    pub fn make_folders(&mut self, path: impl AsRef<Path>) -> Result<Vec<PathBuf>, FileError> {
        files::make_folders(&self.path(path))
    }

    pub fn remove(&mut self, path: impl AsRef<Path>) -> Result<(), FileError> {
        files::remove(&self.path(path))
    }

    pub fn link(&mut self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<(), FileError> {
        files::link(target.as_ref(), &self.path(path))
    }

    pub fn hard_link(&mut self, target: impl AsRef<Path>, path: impl AsRef<Path>) -> Result<(), FileError> {
        files::hard_link(&self.path(target), &self.path(path))
    }

    pub fn touch(&mut self, path: impl AsRef<Path>) -> Result<(), FileError> {
        files::touch(&self.path(path))
    }

    pub fn write_kernel_file(&mut self, path: impl AsRef<Path>, text: &str) -> Result<(), FileError> {
        files::write_kernel_file(&self.path(path), text)
    }

    /// Runs a program that changes something.
    ///
    /// # Errors
    /// It is not on the host, or over its limit. A bad exit status is for the caller to judge.
    pub fn run(&mut self, program: Program) -> Result<Output, Fault> {
        let done = self.0.start(program);
        // Whatever it was may have been a package manager's hook.
        *self.0.packages.borrow_mut() = None;
        done
    }

    /// Runs a program that must end with 0; `tried` begins the message when it does not.
    ///
    /// # Errors
    /// As [`HostMut::run`], and a bad exit status.
    pub fn must(&mut self, program: Program, tried: &str) -> Result<Output, Fault> {
        let output = self.run(program.clone())?;
        if output.exit.is_success() { Ok(output) } else { Err(Fault::program(&program, &output, tried)) }
    }
}
