//! Who may connect: `pg_hba.conf` and `pg_ident.conf`, whole files of ours where the configuration names lines.

use crate::postgres::conf::{ConfigPlace, replace_if_different};
use crate::sys::files::FileError;

const HEADER: &str =
    "# Written by the node agent and overwritten by it: change `postgresql.pg_hba` or `pg_ident` instead.";

/// Writes `pg_hba.conf` if it differs. Returns whether it did; a reload makes it count.
///
/// # Errors
/// The folder may not be written.
pub fn write(place: &ConfigPlace, lines: &[String]) -> Result<bool, FileError> {
    replace_if_different(&place.config_dir.join("pg_hba.conf"), text(lines).as_bytes())
}

/// Writes `pg_ident.conf` if it differs. Returns whether it did; a reload makes it count.
///
/// # Errors
/// The folder may not be written.
pub fn write_ident(place: &ConfigPlace, lines: &[String]) -> Result<bool, FileError> {
    replace_if_different(&place.config_dir.join("pg_ident.conf"), text(lines).as_bytes())
}

fn text(lines: &[String]) -> String {
    let mut text = format!("{HEADER}\n");
    for line in lines {
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_kept_in_their_order_and_written_once() {
        let temp = tempfile::tempdir().unwrap();
        let place = ConfigPlace::inside(temp.path());
        let lines = ["local all all trust".to_owned(), "host all all all md5 ".to_owned()];

        assert!(write(&place, &lines).unwrap());
        assert!(!write(&place, &lines).unwrap());

        let written = std::fs::read_to_string(temp.path().join("pg_hba.conf")).unwrap();
        assert_eq!(written, format!("{HEADER}\nlocal all all trust\nhost all all all md5\n"));
    }
}
