//! A child's own part in changing the user: the numbers that root gives it, and becoming them before its first work.

use nix::unistd::Uid;

/// Whom a child of root's becomes before its first work: `UID:GID:GROUP,GROUP`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Numbers {
    uid: u32,
    gid: u32,
    groups: Vec<u32>,
}

impl std::str::FromStr for Numbers {
    type Err = String;

    fn from_str(text: &str) -> Result<Numbers, String> {
        let bad = || format!("`{text}` is not UID:GID:GROUP,GROUP");
        let number = |text: &str| text.parse::<u32>().map_err(|_| bad());
        let parts: Vec<&str> = text.split(':').collect();
        let [uid, gid, groups] = parts.as_slice() else { return Err(bad()) };
        let groups =
            groups.split(',').filter(|group| !group.is_empty()).map(number).collect::<Result<_, _>>()?;
        Ok(Numbers { uid: number(uid)?, gid: number(gid)?, groups })
    }
}

/// Changes this process to another user for good, and to a folder that this user may be in.
///
/// # Errors
/// This process is not root.
pub fn become_numbers(numbers: &Numbers) -> nix::Result<()> {
    let groups: Vec<nix::unistd::Gid> =
        numbers.groups.iter().map(|group| nix::unistd::Gid::from_raw(*group)).collect();
    nix::unistd::setgroups(&groups)?;
    nix::unistd::setgid(nix::unistd::Gid::from_raw(numbers.gid))?;
    nix::unistd::setuid(Uid::from_raw(numbers.uid))?;
    if std::fs::read_dir(".").is_err() {
        let home = std::env::var_os("HOME").unwrap_or_else(|| "/".into());
        nix::unistd::chdir(home.as_os_str()).or_else(|_| nix::unistd::chdir("/"))?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_of_a_user_are_read_and_nothing_else() {
        let numbers: Numbers = "105:112:112,27".parse().unwrap();
        assert_eq!(numbers, Numbers { uid: 105, gid: 112, groups: vec![112, 27] });
        assert!("postgres".parse::<Numbers>().is_err());
        assert!("1:2".parse::<Numbers>().is_err());
    }
}
