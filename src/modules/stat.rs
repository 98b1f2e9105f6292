//! Tells what a path is.
//!
//! # What it manages
//! Nothing; it only tells.
//!
//! # Example
//! ```yaml
//! stat:
//!   path: /var/lib/postgresql/15/main/PG_VERSION
//! ```
//!
//! # What it observes
//! The path by `lstat`, or by `stat` with `follow`; its bytes for the checksum.
//!
//! # What it never does
//! It fails for no path that is merely missing: that is `exists: false`.

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::text_file;
use crate::modules::{Fault, Host, Kind, Module, Never, Seen, attributes};
use crate::sys::files::{self, FileKind};

/// Files above this are not read for a checksum that was not asked for by name.
const CHECKSUM_BYTES_MAX: u64 = 256 * 1024 * 1024;

#[derive(Debug)]
pub struct Stat;

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Deserialize, JsonSchema)]
#[serde(rename_all = "lowercase")]
pub enum Algorithm {
    #[default]
    #[serde(alias = "sha")]
    Sha1,
    Sha256,
    Md5,
}

#[derive(Debug, Deserialize, JsonSchema)]
#[serde(deny_unknown_fields)]
pub struct Params {
    #[serde(alias = "dest", alias = "name")]
    path: String,
    /// Whether a link's target is described.
    #[serde(default)]
    follow: bool,
    #[serde(default = "yes")]
    get_checksum: bool,
    #[serde(default, alias = "checksum", alias = "checksum_algo")]
    checksum_algorithm: Algorithm,
    /// Accepted for Ansible's sake: the type by content is not told.
    #[serde(default = "yes", rename = "get_mime", alias = "mime", alias = "mime_type", alias = "mime-type")]
    _get_mime: bool,
    /// Accepted for Ansible's sake: attributes of `lsattr` are not told.
    #[serde(default = "yes", rename = "get_attributes", alias = "attr", alias = "attributes")]
    _get_attributes: bool,
    /// Accepted for old roles; without effect in Ansible, too.
    #[serde(rename = "get_md5")]
    _get_md5: Option<bool>,
}

fn yes() -> bool {
    true
}

#[derive(Debug)]
pub struct State {
    found: Option<(files::Stat, (String, String))>,
    checksum: Option<String>,
    is_readable: bool,
    source: Option<String>,
}

#[derive(Debug, Serialize)]
pub struct Output {
    stat: Facts,
}

#[derive(Debug, Serialize)]
#[serde(untagged)]
pub enum Facts {
    Absent { exists: bool },
    There(Box<There>),
}

#[derive(Debug, Serialize)]
pub struct There {
    exists: bool,
    path: String,
    mode: String,
    isdir: bool,
    ischr: bool,
    isblk: bool,
    isreg: bool,
    isfifo: bool,
    islnk: bool,
    issock: bool,
    uid: u32,
    gid: u32,
    size: u64,
    inode: u64,
    dev: u64,
    nlink: u64,
    atime: f64,
    mtime: f64,
    ctime: f64,
    wusr: bool,
    rusr: bool,
    xusr: bool,
    wgrp: bool,
    rgrp: bool,
    xgrp: bool,
    woth: bool,
    roth: bool,
    xoth: bool,
    isuid: bool,
    isgid: bool,
    readable: bool,
    executable: bool,
    pw_name: String,
    gr_name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    lnk_source: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    lnk_target: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    checksum: Option<String>,
}

impl Module for Stat {
    const NAME: &'static str = "stat";
    const KIND: Kind = Kind::Query;
    type Params = Params;
    type State = State;
    type Change = Never;
    type Output = Output;

    fn observe(params: &Params, host: &Host) -> Result<Seen<State>, Fault> {
        let stat = if params.follow { host.stat_followed(&params.path)? } else { host.stat(&params.path)? };
        let Some(stat) = stat else {
            return Ok(Seen::Now(State { found: None, checksum: None, is_readable: false, source: None }));
        };
        let mut checksum = None;
        let mut is_readable = true;
        if stat.kind == FileKind::File && params.get_checksum && stat.size <= CHECKSUM_BYTES_MAX {
            match host.read(&params.path) {
                Ok(bytes) => checksum = Some(digest(params.checksum_algorithm, &bytes)),
                Err(error) if error.source.kind() == std::io::ErrorKind::PermissionDenied => {
                    is_readable = false;
                }
                Err(error) => return Err(error.into()),
            }
        }
        let source = match stat.kind {
            FileKind::Link => std::fs::canonicalize(host.path(&params.path)).ok().map(|p| host.outside(&p)),
            _ => None,
        };
        let names = attributes::names_of(host, stat.uid, stat.gid)?;
        Ok(Seen::Now(State { found: Some((stat, names)), checksum, is_readable, source }))
    }

    fn diff(_params: &Params, _found: &State) -> Vec<Never> {
        Vec::new()
    }

    fn output(params: &Params, before: &State, _after: Option<&State>, _changes: &[Never]) -> Output {
        let Some((stat, (owner, group))) = &before.found else {
            return Output { stat: Facts::Absent { exists: false } };
        };
        let bit = |mask: u32| stat.mode & mask != 0;
        Output {
            stat: Facts::There(Box::new(There {
                exists: true,
                path: params.path.clone(),
                mode: format!("{:04o}", stat.mode),
                isdir: stat.kind == FileKind::Directory,
                ischr: stat.kind == FileKind::CharDevice,
                isblk: stat.kind == FileKind::BlockDevice,
                isreg: stat.kind == FileKind::File,
                isfifo: stat.kind == FileKind::Fifo,
                islnk: stat.kind == FileKind::Link,
                issock: stat.kind == FileKind::Socket,
                uid: stat.uid,
                gid: stat.gid,
                size: stat.size,
                inode: stat.inode,
                dev: stat.device,
                nlink: stat.links,
                atime: stat.accessed,
                mtime: stat.modified,
                ctime: stat.changed,
                rusr: bit(0o400),
                wusr: bit(0o200),
                xusr: bit(0o100),
                rgrp: bit(0o040),
                wgrp: bit(0o020),
                xgrp: bit(0o010),
                roth: bit(0o004),
                woth: bit(0o002),
                xoth: bit(0o001),
                isuid: bit(0o4000),
                isgid: bit(0o2000),
                readable: before.is_readable,
                executable: bit(0o111),
                pw_name: owner.clone(),
                gr_name: group.clone(),
                lnk_source: before.source.clone(),
                lnk_target: stat.target.as_ref().map(|t| t.display().to_string()),
                checksum: before.checksum.clone(),
            })),
        }
    }
}

fn digest(algorithm: Algorithm, bytes: &[u8]) -> String {
    match algorithm {
        Algorithm::Sha1 => text_file::sha1_of(bytes),
        Algorithm::Sha256 => text_file::hex(&<sha2::Sha256 as sha2::Digest>::digest(bytes)),
        Algorithm::Md5 => text_file::hex(&<md5::Md5 as md5::Digest>::digest(bytes)),
    }
}
