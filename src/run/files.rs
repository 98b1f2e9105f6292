//! Files of the controller that tasks name: found once, read once, known by their hash.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use sha2::{Digest, Sha256};

use crate::executor::wire::{FileUse, FolderFile, FoundFile};
use crate::input::deployment::{FileKind, file_candidates};
use crate::plan::program::Search;
use crate::run::worker::Connect;

/// Largest file that is read into memory to be sent.
const FILE_BYTES_MAX: u64 = 4 * 1024 * 1024 * 1024;

/// How many files a folder that is copied may hold.
const FOLDER_FILES_MAX: usize = 20_000;

/// Files found so far.
#[derive(Debug, Default)]
pub struct Files {
    found: BTreeMap<(FileUse, PathBuf), FoundFile>,
}

/// Lists where a task's relative file may be, the nearest role first.
pub fn candidates(kind: FileKind, name: &str, search: &Search) -> Vec<PathBuf> {
    let mut all = Vec::new();
    let roles = search.roles.iter().rev().map(|role| Some(role.as_path()));
    for role in roles.chain([None]) {
        let here = Some(search.here.as_path());
        for path in file_candidates(kind, name, role, here, &search.playbook) {
            if !all.contains(&path) {
                all.push(path);
            }
        }
    }
    all
}

impl Files {
    /// Finds what a task names.
    ///
    /// # Errors
    /// It is nowhere, cannot be read, or is too large; the text lists where it was sought.
    pub fn find(
        &mut self,
        usage: FileUse,
        name: &str,
        search: &Search,
        connect: &dyn Connect,
    ) -> Result<FoundFile, String> {
        let kind = match usage {
            FileUse::Template => FileKind::Template,
            FileUse::File => FileKind::File,
        };
        let candidates = candidates(kind, name, search);
        let Some(path) = candidates.iter().find(|path| path.exists()) else {
            let sought: Vec<String> = candidates.iter().map(|path| path.display().to_string()).collect();
            return Err(format!(
                "`{name}` was not found on the controller; looked for {}",
                sought.join(", ")
            ));
        };
        let key = (usage, path.clone());
        if let Some(found) = self.found.get(&key) {
            return Ok(with_contents(found.clone(), name));
        }
        let found = read(usage, path, connect)?;
        self.found.insert(key, found.clone());
        Ok(with_contents(found, name))
    }
}

/// A folder named with a final `/` means its contents, otherwise itself with them.
fn with_contents(found: FoundFile, name: &str) -> FoundFile {
    match found {
        FoundFile::Folder { path, mut folders, mut files } if !name.ends_with('/') => {
            let base = Path::new(&path).file_name().map(|base| base.to_string_lossy().into_owned());
            let base = base.unwrap_or_default();
            folders.iter_mut().for_each(|folder| *folder = format!("{base}/{folder}"));
            folders.insert(0, base.clone());
            files.iter_mut().for_each(|file| file.name = format!("{base}/{}", file.name));
            FoundFile::Folder { path, folders, files }
        }
        other => other,
    }
}

fn read(usage: FileUse, path: &Path, connect: &dyn Connect) -> Result<FoundFile, String> {
    let shown = path.to_string_lossy().into_owned();
    if usage == FileUse::Template {
        let text = std::fs::read_to_string(path).map_err(|error| format!("cannot read {shown}: {error}"))?;
        return Ok(FoundFile::Text { path: shown, text: Arc::from(text) });
    }
    if !path.is_dir() {
        let (sha256, size, mode) = sum(path)?;
        connect.offer(sha256, path);
        return Ok(FoundFile::File { path: shown, sha256, size, mode });
    }
    let mut folders = Vec::new();
    let mut files = Vec::new();
    let mut open = vec![path.to_path_buf()];
    while let Some(folder) = open.pop() {
        let entries = std::fs::read_dir(&folder)
            .map_err(|error| format!("cannot list {}: {error}", folder.display()))?;
        let mut entries: Vec<PathBuf> = entries.flatten().map(|entry| entry.path()).collect();
        entries.sort();
        for entry in entries {
            let name = entry.strip_prefix(path).unwrap_or(&entry).to_string_lossy().into_owned();
            if entry.is_dir() {
                folders.push(name);
                open.push(entry);
            } else {
                let (sha256, size, mode) = sum(&entry)?;
                connect.offer(sha256, &entry);
                files.push(FolderFile { name, sha256, size, mode });
            }
            if files.len() > FOLDER_FILES_MAX {
                return Err(format!(
                    "{shown} holds more than {FOLDER_FILES_MAX} files; pack them and use `unarchive`"
                ));
            }
        }
    }
    folders.sort();
    Ok(FoundFile::Folder { path: shown, folders, files })
}

fn sum(path: &Path) -> Result<([u8; 32], u64, u32), String> {
    let cannot = |error: std::io::Error| format!("cannot read {}: {error}", path.display());
    let mut file = std::fs::File::open(path).map_err(cannot)?;
    let meta = file.metadata().map_err(cannot)?;
    if meta.len() > FILE_BYTES_MAX {
        return Err(format!("{} is larger than {FILE_BYTES_MAX} bytes", path.display()));
    }
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 1 << 16];
    loop {
        let count = std::io::Read::read(&mut file, &mut buffer).map_err(cannot)?;
        match buffer.get(..count) {
            Some([]) | None => break,
            Some(bytes) => hash.update(bytes),
        }
    }
    Ok((hash.finalize().into(), meta.len(), meta.permissions().mode() & 0o7777))
}
