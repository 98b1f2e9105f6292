//! Owner, group and mode of files, as tasks write them and as modules compare them.

use std::borrow::Cow;
use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

use crate::modules::host::{Host, HostMut};
use crate::modules::outcome::{Fault, Thing};
use crate::sys::files::{Attributes, FileKind, Stat};

/// A mode as written: bits, `u=rwX,g=r`, or `preserve`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ModeSpec {
    Bits(u32),
    Symbolic(String),
    /// The mode that the source has.
    Preserve,
}

impl<'de> Deserialize<'de> for ModeSpec {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<ModeSpec, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = ModeSpec;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mode: 0644, '0644', 'u=rw,g=r' or preserve")
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<ModeSpec, E> {
                match u32::try_from(number) {
                    Ok(bits) if bits <= 0o7777 => Ok(ModeSpec::Bits(bits)),
                    _ => Err(E::custom(
                        "a mode is at most 07777; a number in YAML needs a leading zero to be octal",
                    )),
                }
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<ModeSpec, E> {
                self.visit_i64(i64::try_from(number).unwrap_or(-1))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<ModeSpec, E> {
                parse_mode(text).map_err(E::custom)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for ModeSpec {
    fn schema_name() -> Cow<'static, str> {
        "Mode".into()
    }
    fn json_schema(_: &mut schemars::SchemaGenerator) -> schemars::Schema {
        schemars::json_schema!({ "type": ["integer", "string"], "description": "0644, '0644', 'u=rw,g=r' or preserve" })
    }
}

fn parse_mode(text: &str) -> Result<ModeSpec, String> {
    let text = text.trim();
    if text == "preserve" {
        return Ok(ModeSpec::Preserve);
    }
    let digits = text.strip_prefix("0o").unwrap_or(text);
    if !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit()) {
        return match u32::from_str_radix(digits, 8) {
            Ok(bits) if bits <= 0o7777 => Ok(ModeSpec::Bits(bits)),
            _ => Err(format!("`{text}` is no octal mode up to 07777")),
        };
    }
    let spec = ModeSpec::Symbolic(text.to_owned());
    spec.resolve(0, false).map(|_| spec)
}

impl ModeSpec {
    /// Returns the bits that it means for something that has `old` bits. `Preserve` keeps them.
    ///
    /// # Errors
    /// The symbolic form cannot be read; the sentence says why.
    pub fn resolve(&self, old: u32, is_folder: bool) -> Result<u32, String> {
        match self {
            ModeSpec::Bits(bits) => Ok(*bits),
            ModeSpec::Preserve => Ok(old),
            ModeSpec::Symbolic(text) => {
                text.split(',').try_fold(old, |mode, clause| apply_clause(mode, clause, is_folder))
            }
        }
    }
}

/// Applies `[ugoa]*([-+=]([rwxXst]*|[ugo]))+` to a mode.
fn apply_clause(mode: u32, clause: &str, is_folder: bool) -> Result<u32, String> {
    let unreadable = || format!("`{clause}` is no mode; write it like 0644 or u=rw,g=r");
    let split = clause.find(['+', '-', '=']).ok_or_else(unreadable)?;
    let (who, mut rest) = clause.split_at(split);
    let who = if who.is_empty() || who.contains('a') { "ugo" } else { who };
    if !who.chars().all(|c| "ugo".contains(c)) {
        return Err(unreadable());
    }
    let mut mode = mode;
    while let Some(operation) = rest.chars().next() {
        let body = rest.get(1..).unwrap_or_default();
        let end = body.find(['+', '-', '=']).unwrap_or(body.len());
        let (permissions, next) = body.split_at(end);
        rest = next;
        for class in who.chars() {
            let shift = shift_of(class);
            let mut bits = 0_u32;
            let mut special = 0_u32;
            for permission in permissions.chars() {
                match permission {
                    'r' => bits |= 4,
                    'w' => bits |= 2,
                    'x' => bits |= 1,
                    'X' if is_folder || mode & 0o111 != 0 => bits |= 1,
                    'X' => {}
                    's' if class == 'u' => special |= 0o4000,
                    's' if class == 'g' => special |= 0o2000,
                    's' => {}
                    't' => special |= 0o1000,
                    'u' | 'g' | 'o' => bits |= (mode >> shift_of(permission)) & 7,
                    _ => return Err(unreadable()),
                }
            }
            let all = (bits << shift) | special;
            mode = match operation {
                '+' => mode | all,
                '-' => mode & !all,
                _ => (mode & !((7 << shift) | special_of(class))) | all,
            };
        }
    }
    Ok(mode)
}

fn shift_of(class: char) -> u32 {
    match class {
        'u' => 6,
        'g' => 3,
        _ => 0,
    }
}

fn special_of(class: char) -> u32 {
    match class {
        'u' => 0o4000,
        'g' => 0o2000,
        _ => 0o1000,
    }
}

/// Who and what bits something on the host has.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Owned {
    pub mode: u32,
    pub uid: u32,
    pub gid: u32,
}

impl From<&Stat> for Owned {
    fn from(stat: &Stat) -> Owned {
        Owned { mode: stat.mode, uid: stat.uid, gid: stat.gid }
    }
}

/// What a task asks for, as numbers; what it does not ask for is `None`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Wanted {
    pub mode: Option<ModeSpec>,
    pub uid: Option<(u32, String)>,
    pub gid: Option<(u32, String)>,
}

impl Wanted {
    /// Looks the names up.
    ///
    /// # Errors
    /// The user or group database may not be read.
    pub fn resolve(
        mode: Option<&ModeSpec>,
        owner: Option<&str>,
        group: Option<&str>,
        host: &Host,
    ) -> Result<Result<Wanted, Thing>, Fault> {
        let mut wanted = Wanted { mode: mode.cloned(), uid: None, gid: None };
        if let Some(name) = owner {
            match (host.user(name)?, name.parse()) {
                (Some(user), _) => wanted.uid = Some((user.uid, name.to_owned())),
                (None, Ok(number)) => wanted.uid = Some((number, name.to_owned())),
                (None, Err(_no_number)) => return Ok(Err(Thing::User(name.to_owned()))),
            }
        }
        if let Some(name) = group {
            match (host.group(name)?, name.parse()) {
                (Some(group), _) => wanted.gid = Some((group.gid, name.to_owned())),
                (None, Ok(number)) => wanted.gid = Some((number, name.to_owned())),
                (None, Err(_no_number)) => return Ok(Err(Thing::Group(name.to_owned()))),
            }
        }
        Ok(Ok(wanted))
    }

    /// Returns the bits asked for, given what is there (`old`).
    pub fn mode_for(&self, old: u32, is_folder: bool) -> Option<u32> {
        // A symbolic form that cannot be read was refused with the parameters.
        self.mode.as_ref().and_then(|m| m.resolve(old, is_folder).ok())
    }

    /// Compares with what is there.
    pub fn differences(&self, found: &Owned, is_folder: bool) -> Vec<AttributeChange> {
        let mut changes = Vec::new();
        if let Some(mode) = self.mode_for(found.mode, is_folder).filter(|m| *m != found.mode) {
            changes.push(AttributeChange::Mode { from: found.mode, to: mode });
        }
        if let Some((uid, name)) = self.uid.as_ref().filter(|(uid, _)| *uid != found.uid) {
            changes.push(AttributeChange::Owner { from: found.uid, to: *uid, name: name.clone() });
        }
        if let Some((gid, name)) = self.gid.as_ref().filter(|(gid, _)| *gid != found.gid) {
            changes.push(AttributeChange::Group { from: found.gid, to: *gid, name: name.clone() });
        }
        changes
    }

    /// Returns what a file that is written is to have; `old_mode` is what a symbolic mode starts from.
    pub fn for_writing(&self, old_mode: u32) -> Attributes {
        Attributes {
            mode: self.mode_for(old_mode, false),
            uid: self.uid.as_ref().map(|(uid, _)| *uid),
            gid: self.gid.as_ref().map(|(gid, _)| *gid),
        }
    }

    /// Gives them to what lies at `path`.
    ///
    /// # Errors
    /// The host refused.
    pub fn give(
        &self,
        path: &str,
        found: &Owned,
        kind: FileKind,
        host: &mut HostMut<'_>,
    ) -> Result<(), Fault> {
        host.set_owner(path, self.uid.as_ref().map(|(u, _)| *u), self.gid.as_ref().map(|(g, _)| *g))?;
        if kind == FileKind::Link {
            return Ok(());
        }
        // After the owner, and even if the bits are right: a change of owner takes setuid and setgid away.
        if let Some(mode) = self.mode_for(found.mode, kind == FileKind::Directory) {
            host.set_mode(path, mode)?;
        }
        Ok(())
    }
}

/// One difference of owner, group or mode.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum AttributeChange {
    Mode { from: u32, to: u32 },
    Owner { from: u32, to: u32, name: String },
    Group { from: u32, to: u32, name: String },
}

impl fmt::Display for AttributeChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            AttributeChange::Mode { from, to } => write!(f, "mode {from:04o} → {to:04o}"),
            AttributeChange::Owner { from, to, name } => write!(f, "owner {from} → {name} ({to})"),
            AttributeChange::Group { from, to, name } => write!(f, "group {from} → {name} ({to})"),
        }
    }
}

/// The fields that Ansible's file modules return of a path.
#[derive(Debug, Clone, Default, Serialize)]
pub struct PathFacts {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub gid: Option<u32>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub owner: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub group: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub size: Option<u64>,
    pub state: &'static str,
}

/// Returns Ansible's word for a kind of file.
pub fn state_word(kind: Option<FileKind>) -> &'static str {
    match kind {
        None => "absent",
        Some(FileKind::Directory) => "directory",
        Some(FileKind::Link) => "link",
        Some(_) => "file",
    }
}

/// Returns the names of a user and a group number; the number itself where nobody has it.
pub fn names_of(host: &Host, uid: u32, gid: u32) -> Result<(String, String), Fault> {
    let owner = host.user(&uid.to_string())?.map_or_else(|| uid.to_string(), |u| u.name);
    let group = host.group(&gid.to_string())?.map_or_else(|| gid.to_string(), |g| g.name);
    Ok((owner, group))
}

/// Describes a path as Ansible's file modules return it.
pub fn path_facts(stat: Option<&Stat>, names: Option<&(String, String)>) -> PathFacts {
    let Some(stat) = stat else { return PathFacts { state: "absent", ..PathFacts::default() } };
    PathFacts {
        mode: Some(format!("{:04o}", stat.mode)),
        uid: Some(stat.uid),
        gid: Some(stat.gid),
        owner: names.map(|(owner, _)| owner.clone()),
        group: names.map(|(_, group)| group.clone()),
        size: Some(stat.size),
        state: state_word(Some(stat.kind)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn symbolic_modes_mean_what_chmod_means() {
        for (text, old, is_folder, expected) in [
            ("u=rwX,g=rX,o=", 0o644, false, 0o640),
            ("u=rwX,g=rX,o=", 0o644, true, 0o750),
            ("a+x", 0o640, false, 0o751),
            ("+x,o-rwx", 0o644, false, 0o750),
            ("g=u", 0o604, false, 0o664),
            ("u+s,o+t", 0o755, false, 0o5755),
            ("go-w", 0o666, false, 0o644),
        ] {
            assert_eq!(ModeSpec::Symbolic(text.to_owned()).resolve(old, is_folder), Ok(expected), "{text}");
        }
    }

    #[test]
    fn modes_are_octal_in_texts_and_bits_in_numbers() {
        assert_eq!(parse_mode("0644"), Ok(ModeSpec::Bits(0o644)));
        assert_eq!(parse_mode("2775"), Ok(ModeSpec::Bits(0o2775)));
        assert!(parse_mode("0999").is_err());
        assert!(parse_mode("u=rz").is_err());
    }
}
