//! Files, places in them, and values that remember their place.

use std::path::{Path, PathBuf};
use std::sync::Arc;

/// A file of a [`SourceMap`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct FileId(pub u32);

/// A half-open range of byte offsets in one file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
pub struct Span {
    pub file: FileId,
    pub start: u32,
    pub end: u32,
}

impl Span {
    pub fn new(file: FileId, start: usize, end: usize) -> Span {
        let clamp = |offset: usize| u32::try_from(offset).unwrap_or(u32::MAX);
        Span { file, start: clamp(start), end: clamp(end.max(start)) }
    }
}

/// A value and where it was written.
#[derive(Debug, Clone, PartialEq)]
pub struct Spanned<T> {
    pub value: T,
    pub span: Span,
}

impl<T> Spanned<T> {
    pub fn new(value: T, span: Span) -> Spanned<T> {
        Spanned { value, span }
    }
}

/// A place as people read it; `line` and `column` count from 1, columns in characters.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Location {
    pub path: PathBuf,
    pub line: usize,
    pub column: usize,
}

impl std::fmt::Display for Location {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let Location { path, line, column } = self;
        write!(f, "{}:{line}:{column}", path.display())
    }
}

#[derive(Debug)]
struct SourceFile {
    path: PathBuf,
    text: Arc<str>,
    line_starts: Vec<u32>,
    /// Whether its lines are kept from being shown.
    hidden: bool,
}

/// The texts of all files read in one run. Offsets become lines and columns only when something is shown.
#[derive(Debug, Default)]
pub struct SourceMap {
    files: Vec<SourceFile>,
}

impl SourceMap {
    /// Keeps `text` under `path`, which is shown as it is given.
    pub fn add(&mut self, path: impl Into<PathBuf>, text: impl Into<Arc<str>>) -> FileId {
        let text = text.into();
        let starts = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1));
        let line_starts = starts.map(|i| u32::try_from(i).unwrap_or(u32::MAX)).collect();
        let id = FileId(u32::try_from(self.files.len()).unwrap_or(u32::MAX));
        self.files.push(SourceFile { path: path.into(), text, line_starts, hidden: false });
        id
    }

    fn file(&self, id: FileId) -> Option<&SourceFile> {
        self.files.get(id.0 as usize)
    }

    pub fn path(&self, id: FileId) -> Option<&Path> {
        self.file(id).map(|f| f.path.as_path())
    }

    pub fn text(&self, id: FileId) -> Option<&Arc<str>> {
        self.file(id).map(|f| &f.text)
    }

    /// Returns the place where `span` begins, or `None` if its file is not of this map.
    pub fn location(&self, span: Span) -> Option<Location> {
        let file = self.file(span.file)?;
        let line_index = file.line_starts.partition_point(|start| *start <= span.start).saturating_sub(1);
        let line_start = *file.line_starts.get(line_index)? as usize;
        let before =
            file.text.get(line_start..(span.start as usize).min(file.text.len())).unwrap_or_default();
        Some(Location { path: file.path.clone(), line: line_index + 1, column: before.chars().count() + 1 })
    }

    /// Keeps the file's lines from being shown: it holds secrets in clear. Places in it are still told.
    pub fn hide(&mut self, id: FileId) {
        if let Some(file) = self.files.get_mut(id.0 as usize) {
            file.hidden = true;
        }
    }

    /// Returns the text of the line (counted from 1), without its line end; `None` for a hidden file.
    pub fn line(&self, id: FileId, line: usize) -> Option<&str> {
        let file = self.file(id).filter(|file| !file.hidden)?;
        let start = *file.line_starts.get(line.checked_sub(1)?)? as usize;
        file.text.get(start..)?.lines().next().or(Some(""))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_place_counts_lines_and_characters_from_one() {
        let mut map = SourceMap::default();
        let file = map.add("a.yml", "one\nzwei: ü x\n");

        let place = map.location(Span::new(file, 13, 14)).unwrap();

        assert_eq!((place.line, place.column), (2, 9));
        assert_eq!(map.line(file, 2), Some("zwei: ü x"));
    }
}
