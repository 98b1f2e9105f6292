//! A text in a person's editor.

use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use nix::unistd::mkdtemp;

use crate::contract::methods::split_words;
use crate::sys::files::{self, Attributes};
use crate::sys::process::{Program, is_installed};

/// A text that a person changes: a file in a folder of its own, which only this user can open, and in which an editor's
/// own copies are gone with it.
#[derive(Debug)]
pub struct Draft {
    folder: PathBuf,
    path: PathBuf,
}

impl Draft {
    /// Writes the text; the ending of `name` tells the editor what it is.
    ///
    /// # Errors
    /// There is no room for it.
    pub fn new(name: &str, text: &str) -> anyhow::Result<Draft> {
        // mkdtemp puts letters of its own in the place of six X.
        let template = std::env::temp_dir().join(format!("keddah-{}", "X".repeat(6)));
        let folder = mkdtemp(&template).context("no folder can be made for the text that is to be edited")?;
        let path = folder.join(name.replace('/', "_"));
        let draft = Draft { folder, path };
        files::replace(&draft.path, text.as_bytes(), Attributes::OWNER_ONLY)?;
        Ok(draft)
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Opens the text in the editor, and returns what it is then.
    ///
    /// # Errors
    /// There is no editor, it fails, or what it leaves is no text.
    pub fn edit(&self) -> anyhow::Result<String> {
        let editor = editor()?;
        let [program, words @ ..] = editor.as_slice() else { bail!("EDITOR names no program") };
        let exit = Program::new(program).args(words).arg(&self.path).run_for_a_person()?;
        if !exit.is_success() {
            bail!("Editor exited with return code {}", exit.code());
        }
        String::from_utf8(files::read(&self.path)?).context("the edited text is not UTF-8")
    }
}

impl Drop for Draft {
    fn drop(&mut self) {
        // What cannot be removed lies where only this user can read it.
        let _left = std::fs::remove_dir_all(&self.folder);
    }
}

/// Returns the person's editor with its arguments, or one that the system has.
fn editor() -> anyhow::Result<Vec<String>> {
    let chosen = ["EDITOR", "VISUAL"].into_iter().filter_map(|name| std::env::var(name).ok());
    if let Some(chosen) = chosen.map(|text| split_words(&text)).find(|words| !words.is_empty()) {
        return Ok(chosen);
    }
    let usual = ["editor", "vi"].into_iter().find(|program| is_installed(program));
    match usual {
        Some(program) => Ok(vec![program.to_owned()]),
        None => bail!("EDITOR environment variable is not set. editor or vi are not available"),
    }
}
