//! How a data directory is filled: by the methods of the configuration, in their order.

use std::path::{Path, PathBuf};

use crate::agent::act::job::{COPY_LIMIT, JobError, Work, ended_well};
use crate::agent::act::postgres::write_passfile;
use crate::agent::act::room;
use crate::agent::birth::{self, Birth};
use crate::agent::look::DYNAMIC_COPY;
use crate::cluster::MemberName;
use crate::contract::methods::{BASEBACKUP, Method};
use crate::postgres::basebackup::{self, Sizes, Source};
use crate::postgres::{conf, has_data, is_vacant, standby};
use crate::sys::files;
use crate::sys::process::Program;

impl Work {
    /// Copies another member.
    pub(super) fn copy_member(
        &self,
        source: &MemberName,
        replaces: bool,
        sizes: Option<Sizes>,
    ) -> Result<(), JobError> {
        let source = self.source(source, &self.instance.config.postgresql.replication)?;
        self.copy(Some(source), replaces, sizes)
    }

    /// Copies the cluster that this standby cluster follows.
    pub(super) fn copy_remote(&self, replaces: bool, sizes: Option<Sizes>) -> Result<(), JobError> {
        let standby::Upstream { host, port, user, passfile, options, .. } =
            self.instance.remote().ok_or(JobError::NoRemote)?;
        self.copy(Some(Source { host, port, user, passfile, options }), replaces, sizes)
    }

    /// Makes a replica's data by the first method that succeeds; without a source by those that need none. What is here is
    /// removed for it only where the copy fits, as far as its size is known.
    pub(super) fn copy(
        &self,
        source: Option<Source>,
        replaces: bool,
        sizes: Option<Sizes>,
    ) -> Result<(), JobError> {
        write_passfile(&self.instance)?;
        let mut failed = JobError::NoMethod;
        for method in self.instance.replica_methods() {
            if source.is_none() && !method.no_leader {
                continue;
            }
            match self.copy_by(&method, source.as_ref(), replaces, sizes.as_ref()) {
                Ok(()) => return self.settle_copy(),
                Err(error) => {
                    tracing::warn!(method = method.name, error = %crate::sys::chain(&error), "the method failed");
                    failed = error;
                }
            }
        }
        Err(failed)
    }

    fn copy_by(
        &self,
        method: &Method,
        source: Option<&Source>,
        replaces: bool,
        sizes: Option<&Sizes>,
    ) -> Result<(), JobError> {
        let instance = &self.instance;
        let data_dir = instance.data_dir();
        let built_in = method.name == BASEBACKUP;
        let keeps = method.keep_data && !built_in;
        let mut options = instance.basebackup_options();
        if !keeps && (replaces || !is_vacant(data_dir)) {
            let (wal, spaces) = (link_of(&data_dir.join("pg_wal")), tablespaces(data_dir));
            // A separate folder for WAL stays one.
            if let Some(wal) = &wal
                && !options.iter().any(|(name, _)| name == "waldir")
            {
                options.push(("waldir".to_owned(), Some(wal.display().to_string())));
            }
            if let Some(sizes) = sizes {
                let here: Vec<PathBuf> =
                    spaces.iter().chain(&wal).cloned().chain([data_dir.to_owned()]).collect();
                room::check(data_dir, sizes, &options, &here)?;
            }
            for folder in &spaces {
                files::remove(folder)?;
            }
            if let Some(wal) = &wal {
                empty(wal)?;
            }
            empty(data_dir)?;
        }
        if let (true, Some(source)) = (built_in, source) {
            basebackup::copy(&instance.installation, data_dir, source, &options, COPY_LIMIT)?;
            return Ok(());
        }
        let folder = data_dir.display().to_string();
        let connection = source.map(Source::as_text).unwrap_or_default();
        let scope = instance.config.scope.as_str();
        let given =
            [("scope", scope), ("role", "replica"), ("datadir", &folder), ("connstring", &connection)];
        self.run_method(method, method.words(&given))
    }

    /// Makes a cluster by the user's program in initdb's place.
    pub(super) fn restore(&self, method: &Method) -> Result<(), JobError> {
        let data_dir = self.instance.data_dir();
        let folder = data_dir.display().to_string();
        let scope = self.instance.config.scope.as_str();
        self.run_method(method, method.words(&[("scope", scope), ("datadir", &folder)]))?;
        conf::restore_copies(&self.instance.place)?;
        files::remove(&data_dir.join(PROMOTE_FILE))?;
        files::remove(&data_dir.join(DYNAMIC_COPY))?;
        if !method.keep_existing_recovery_conf {
            standby::unsignal(data_dir)?;
            conf::clean_auto(data_dir)?;
        }
        birth::begin(data_dir, Birth::Restored)?;
        Ok(())
    }

    fn run_method(&self, method: &Method, words: Vec<String>) -> Result<(), JobError> {
        let mut words = words.into_iter();
        let Some(program) = words.next() else {
            return Err(JobError::NothingThere(method.name.clone()));
        };
        tracing::info!(method = method.name, program, "a method of the configuration is run");
        let output = Program::new(program)
            .args(words)
            .env("PGPASSFILE", self.instance.passfile())
            .limit(COPY_LIMIT)
            .leash(&self.leash)
            .run()?;
        ended_well(method.name.clone(), &output)?;
        if !has_data(self.instance.data_dir()) {
            return Err(JobError::NothingThere(method.name.clone()));
        }
        Ok(())
    }

    /// Makes a replica of a copy: whatever it was taken from, it starts in recovery.
    fn settle_copy(&self) -> Result<(), JobError> {
        let data_dir = self.instance.data_dir();
        birth::end(data_dir)?;
        files::remove(&data_dir.join(PROMOTE_FILE))?;
        files::remove(&data_dir.join(DYNAMIC_COPY))?;
        conf::clean_auto(data_dir)?;
        conf::restore_copies(&self.instance.place)?;
        standby::signal(data_dir)?;
        Ok(())
    }
}

/// Makes a server in recovery leave it; one that was copied along must not.
const PROMOTE_FILE: &str = "promote";

/// Returns where a link points; None: it is none.
fn link_of(path: &Path) -> Option<PathBuf> {
    let target = files::stat(path).ok()??.target?;
    target.is_absolute().then_some(target)
}

/// Returns the folders outside a data directory that hold its tablespaces: in each the one of its own version, for
/// servers of other versions may use the same tablespace.
fn tablespaces(data_dir: &Path) -> Vec<PathBuf> {
    let version = files::read(&data_dir.join("PG_VERSION")).unwrap_or_default();
    let own = format!("PG_{}_", String::from_utf8_lossy(&version).trim());
    let folder = data_dir.join("pg_tblspc");
    let links = files::list(&folder).unwrap_or_default();
    let places = links.iter().filter_map(|name| link_of(&folder.join(name)));
    let inside = places.flat_map(|place| {
        let names = files::list(&place).unwrap_or_default();
        names.into_iter().map(move |name| place.join(name))
    });
    inside.filter(|path| path.file_name().is_some_and(|n| n.to_string_lossy().starts_with(&own))).collect()
}

/// Removes everything in a folder; the folder itself may be a mount point and stays.
fn empty(folder: &Path) -> Result<(), JobError> {
    let wrong = |path: &Path| {
        let path = path.to_owned();
        move |source| JobError::Remove(path, source)
    };
    let entries = match std::fs::read_dir(folder) {
        Ok(entries) => entries,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(wrong(folder)(error)),
    };
    for entry in entries {
        let path = entry.map_err(wrong(folder))?.path();
        if path.file_name().is_some_and(|name| name == "lost+found") {
            continue;
        }
        let removed = match path.symlink_metadata() {
            Ok(meta) if meta.is_dir() => std::fs::remove_dir_all(&path),
            Ok(_) => std::fs::remove_file(&path),
            Err(error) => Err(error),
        };
        removed.map_err(wrong(&path))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_a_tablespace_only_the_folder_of_the_own_version_is_this_cluster() {
        let temp = tempfile::tempdir().unwrap();
        let (data, place) = (temp.path().join("data"), temp.path().join("space"));
        for folder in [data.join("pg_tblspc"), place.join("PG_15_202209061"), place.join("PG_16_202307071")] {
            std::fs::create_dir_all(folder).unwrap();
        }
        files::replace(&data.join("PG_VERSION"), b"15\n", files::Attributes::default()).unwrap();
        files::link(&place, &data.join("pg_tblspc/16384")).unwrap();

        assert_eq!(tablespaces(&data), [place.join("PG_15_202209061")]);
        assert_eq!(link_of(&data.join("pg_tblspc/16384")), Some(place));
        assert_eq!(link_of(&data.join("pg_tblspc")), None);
    }

    #[test]
    fn emptying_leaves_the_folder() {
        let temp = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(temp.path().join("base/1")).unwrap();
        std::fs::create_dir(temp.path().join("lost+found")).unwrap();

        empty(temp.path()).unwrap();

        assert!(crate::postgres::is_vacant(temp.path()));
    }
}
