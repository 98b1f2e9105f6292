//! Whether a copy fits, found out before the data that is here is removed for it.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::agent::act::job::{JobError, Work};
use crate::agent::view::Origin;
use crate::postgres::basebackup::{self, Sizes, TablespaceSize};
use crate::sys::files::FileError;
use crate::sys::volume::{self, Volume};

/// What is written beside the data at least: the segment with the WAL of the copy, and one to start on.
const WAL_SEGMENTS: u64 = 2;

/// How long the source may take to tell how large it is; it looks at every one of its files.
const SIZE_LIMIT: Duration = Duration::from_secs(120);

/// Bytes that a copy writes to a place, or that a removal frees there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub path: PathBuf,
    pub bytes: u64,
}

/// A volume that a copy does not fit on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Lack {
    pub path: PathBuf,
    pub needed: u64,
    /// What is free, or would be once the data here is removed.
    pub there: u64,
}

impl Work {
    /// Asks how large the data of a source is; None where nobody is let in who may know.
    pub(super) async fn size_of(&self, source: &Origin) -> Option<Sizes> {
        let postgresql = &self.instance.config.postgresql;
        for user in [Some(&postgresql.superuser), postgresql.rewind.as_ref()].into_iter().flatten() {
            let sizes = async {
                let session = self.session_at(source, user, "Patroni basebackup").await?;
                Ok::<_, JobError>(basebackup::sizes(&session).await?)
            };
            match tokio::time::timeout(SIZE_LIMIT, sizes).await {
                Ok(Ok(sizes)) => return Some(sizes),
                Ok(Err(error)) => {
                    let (user, error) = (&user.username, crate::sys::chain(&error));
                    tracing::info!(%source, user, error = %error, "it is not told how large the data is");
                }
                Err(_) => return None,
            }
        }
        None
    }
}

/// Refuses a copy of these sizes for which there is no room even without what is here: data, tablespaces and WAL folder.
///
/// `options` are those of pg_basebackup, which say where tablespaces and WAL go.
///
/// # Errors
/// There is no room, or a volume does not answer.
pub(super) fn check(
    data_dir: &Path,
    sizes: &Sizes,
    options: &[(String, Option<String>)],
    here: &[PathBuf],
) -> Result<(), JobError> {
    let freed: Vec<Part> = here.iter().map(|path| Part { path: path.clone(), bytes: taken(path) }).collect();
    match lack(&parts(data_dir, sizes, options), &freed)? {
        None => Ok(()),
        Some(Lack { path, needed, there }) => Err(JobError::NoRoom { path, needed, there }),
    }
}

/// Says what a copy writes where.
fn parts(data_dir: &Path, sizes: &Sizes, options: &[(String, Option<String>)]) -> Vec<Part> {
    let values = |wanted: &'static str| {
        let named = options.iter().filter(move |(name, _)| name == wanted);
        named.filter_map(|(_, value)| value.as_deref())
    };
    let moved = |place: &str| {
        let pairs = values("tablespace-mapping").filter_map(|value| value.split_once('='));
        pairs.filter(|(from, _)| *from == place).map(|(_, to)| to.to_owned()).next()
    };
    let mut parts: Vec<Part> = sizes
        .tablespaces
        .iter()
        .map(|TablespaceSize { location, bytes }| {
            let path = match location {
                None => data_dir.to_owned(),
                Some(place) => moved(place).unwrap_or_else(|| place.clone()).into(),
            };
            Part { path, bytes: *bytes }
        })
        .collect();
    let wal = values("waldir").next().map_or_else(|| data_dir.to_owned(), PathBuf::from);
    parts.push(Part { path: wal, bytes: WAL_SEGMENTS * sizes.segment.bytes() });
    parts
}

/// Finds a volume that is too small.
fn lack(parts: &[Part], freed: &[Part]) -> Result<Option<Lack>, FileError> {
    let mut volumes: BTreeMap<u64, Lack> = BTreeMap::new();
    for Part { path, bytes } in parts {
        let Some(volume) = volume_of(path)? else { continue };
        let fresh = Lack { path: path.clone(), needed: 0, there: volume.free };
        volumes.entry(volume.device).or_insert(fresh).needed += bytes;
    }
    for Part { path, bytes } in freed {
        let lack = volume_of(path)?.and_then(|volume| volumes.get_mut(&volume.device));
        if let Some(lack) = lack {
            lack.there += bytes;
        }
    }
    Ok(volumes.into_values().find(|lack| lack.needed > lack.there))
}

/// Returns the volume of a path that may have to be made yet.
fn volume_of(path: &Path) -> Result<Option<Volume>, FileError> {
    for folder in path.ancestors() {
        if let Some(volume) = volume::of(folder)? {
            return Ok(Some(volume));
        }
    }
    Ok(None)
}

/// Counts the bytes that the files of a folder take; links are not followed.
fn taken(folder: &Path) -> u64 {
    let Ok(entries) = std::fs::read_dir(folder) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(meta) if meta.is_dir() => taken(&entry.path()),
        // st_blocks counts in units of 512 bytes, whatever the file system's own are.
        Ok(meta) => meta.blocks().saturating_mul(512),
        Err(_) => 0,
    });
    sizes.sum()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::cluster::SegmentSize;
    use crate::sys::files::{self, Attributes};

    const MB: u64 = 1 << 20;

    fn size(location: Option<&str>, bytes: u64) -> TablespaceSize {
        TablespaceSize { location: location.map(str::to_owned), bytes }
    }

    #[test]
    fn parts_go_where_the_options_of_the_copy_say() {
        let options = [
            ("tablespace-mapping".to_owned(), Some("/s/a=/s/b".to_owned())),
            ("waldir".to_owned(), Some("/wal".to_owned())),
        ];
        let tablespaces = vec![size(None, 5), size(Some("/s/a"), 6), size(Some("/s/c"), 7)];
        let sizes = Sizes { tablespaces, segment: SegmentSize::new(64 * MB).unwrap() };

        let parts = parts(Path::new("/data"), &sizes, &options);

        let told: Vec<(&str, u64)> =
            parts.iter().map(|part| (part.path.to_str().unwrap(), part.bytes)).collect();
        assert_eq!(told, [("/data", 5), ("/s/b", 6), ("/s/c", 7), ("/wal", 128 * MB)]);
    }

    #[test]
    fn what_a_removal_frees_counts_as_room() {
        let temp = tempfile::tempdir().unwrap();
        let old = temp.path().join("data/base");
        std::fs::create_dir_all(&old).unwrap();
        files::replace(&old.join("1"), &vec![1; 3 << 20], Attributes::default()).unwrap();
        files::link(Path::new("/usr"), &old.join("link")).unwrap();
        let data = temp.path().join("data");
        let freed = taken(&data);
        assert!((3 * MB..4 * MB).contains(&freed), "{freed}");

        let free = volume::of(temp.path()).unwrap().unwrap().free;
        let needs = |bytes| Part { path: data.join("not/made/yet"), bytes };
        let here = [Part { path: data.clone(), bytes: free }];

        assert_eq!(lack(&[needs(free / 2), needs(free)], &here).unwrap(), None);
        let lack = lack(&[needs(free * 2), needs(free)], &here).unwrap().expect("it does not fit");
        assert_eq!(lack.needed, free * 3);
    }
}
