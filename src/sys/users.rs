//! Users and groups, from the files and then from the program `getent`: never from libc, which in a static binary has no
//! directory services.

use std::path::Path;
use std::time::Duration;

use crate::sys::files::{self, FileError};
use crate::sys::process::Program;

/// A line of the user database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct User {
    pub name: String,
    pub uid: u32,
    pub gid: u32,
    pub comment: String,
    pub home: String,
    pub shell: String,
}

/// A line of the group database.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize, serde::Deserialize)]
pub struct Group {
    pub name: String,
    pub gid: u32,
    pub members: Vec<String>,
}

/// How long a directory service may take to answer.
const DIRECTORY_LIMIT: Duration = Duration::from_secs(10);

/// Reads a `passwd` line; `None` for comments, NIS lines and what is not one.
pub fn parse_user(line: &str) -> Option<User> {
    let mut fields = line.split(':');
    let (name, _password) = (fields.next()?, fields.next()?);
    let (uid, gid) = (fields.next()?.parse().ok()?, fields.next()?.parse().ok()?);
    let (comment, home, shell) = (fields.next()?, fields.next()?, fields.next()?);
    let owned = str::to_owned;
    Some(User {
        name: owned(name),
        uid,
        gid,
        comment: owned(comment),
        home: owned(home),
        shell: owned(shell.trim_end()),
    })
}

/// Reads a `group` line; `None` for comments, NIS lines and what is not one.
pub fn parse_group(line: &str) -> Option<Group> {
    let mut fields = line.split(':');
    let (name, _password, gid) = (fields.next()?, fields.next()?, fields.next()?.parse().ok()?);
    let members = fields.next()?.trim_end().split(',').filter(|m| !m.is_empty()).map(str::to_owned).collect();
    Some(Group { name: name.to_owned(), gid, members })
}

/// Reads all users of the file under `root` (`/` for the host itself).
///
/// # Errors
/// The file is there and may not be read.
pub fn users(root: &Path) -> Result<Vec<User>, FileError> {
    let text = files::read_if_there(&root.join("etc/passwd"))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse_user).collect())
}

/// Reads all groups of the file under `root`.
///
/// # Errors
/// The file is there and may not be read.
pub fn groups(root: &Path) -> Result<Vec<Group>, FileError> {
    let text = files::read_if_there(&root.join("etc/group"))?.unwrap_or_default();
    Ok(String::from_utf8_lossy(&text).lines().filter_map(parse_group).collect())
}

/// Finds a user by name or number: in the file, then by `getent` if the host has it.
///
/// # Errors
/// The file is there and may not be read.
pub fn find_user(root: &Path, name: &str) -> Result<Option<User>, FileError> {
    let number: Option<u32> = name.parse().ok();
    let all = users(root)?;
    if let Some(found) =
        all.iter().find(|u| u.name == name).or_else(|| all.iter().find(|u| Some(u.uid) == number))
    {
        return Ok(Some(found.clone()));
    }
    Ok(ask_directory(root, "passwd", name).and_then(|line| parse_user(&line)))
}

/// Finds a group by name or number: in the file, then by `getent` if the host has it.
///
/// # Errors
/// The file is there and may not be read.
pub fn find_group(root: &Path, name: &str) -> Result<Option<Group>, FileError> {
    let number: Option<u32> = name.parse().ok();
    let all = groups(root)?;
    if let Some(found) =
        all.iter().find(|g| g.name == name).or_else(|| all.iter().find(|g| Some(g.gid) == number))
    {
        return Ok(Some(found.clone()));
    }
    Ok(ask_directory(root, "group", name).and_then(|line| parse_group(&line)))
}

/// Whom a program runs as: numbers only, so that no name service is asked between fork and exec.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    pub uid: u32,
    pub gid: u32,
    /// Supplementary groups.
    pub groups: Vec<u32>,
}

/// Returns whom a program runs as when it runs as `user`: with the groups of the file that list the user.
///
/// # Errors
/// The file is there and may not be read.
pub fn identity(root: &Path, user: &User) -> Result<Identity, FileError> {
    let mut numbers = vec![user.gid];
    numbers.extend(groups(root)?.iter().filter(|g| g.members.contains(&user.name)).map(|g| g.gid));
    numbers.dedup();
    Ok(Identity { uid: user.uid, gid: user.gid, groups: numbers })
}

/// Asks the name services; a host without `getent`, or one whose directory does not answer, has no such entry.
fn ask_directory(root: &Path, database: &str, name: &str) -> Option<String> {
    if root != Path::new("/") {
        return None;
    }
    let output = Program::new("getent").args([database, "--", name]).limit(DIRECTORY_LIMIT).run().ok()?;
    if !output.exit.is_success() {
        return None;
    }
    output.stdout_text().lines().next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_found_by_name_and_by_number_with_the_groups_that_list_it() {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        let passwd =
            "root:x:0:0:root:/root:/bin/bash\n+nis\npostgres:x:104:106:PG,,,:/var/lib/postgresql:/bin/bash\n";
        files::replace(&root.path().join("etc/passwd"), passwd.as_bytes(), files::Attributes::default())
            .unwrap();
        let group = "ssl-cert:x:105:postgres\npostgres:x:106:\n";
        files::replace(&root.path().join("etc/group"), group.as_bytes(), files::Attributes::default())
            .unwrap();

        let user = find_user(root.path(), "postgres").unwrap().unwrap();

        assert_eq!(find_user(root.path(), "104").unwrap().unwrap(), user);
        assert_eq!(identity(root.path(), &user).unwrap().groups, [106, 105]);
        assert_eq!(find_user(root.path(), "nobody").unwrap(), None);
    }
}
