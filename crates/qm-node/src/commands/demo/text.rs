//! What the demonstration sends: the lines of a real text.

use std::fs;
use std::path::{Path, PathBuf};

use bytes::Bytes;

use crate::exit::Failure;

/// Lines that a text must have when it is not the user's own.
pub(super) const LINES_MIN: usize = 50_000;
/// Larger files are data, not text that somebody wrote.
const FILE_BYTES_MAX: u64 = 1 << 20;
/// What is kept in a directory that is the root of a project.
const ROOT_MARKS: &[&str] = &[".git", "Cargo.lock"];
/// Directories of things that were made from the text.
const MADE: &[&str] = &["target", "node_modules"];
/// The text for those who stand in no project.
const BUILT_IN: &[&str] = &[
    include_str!("../../../README.md"),
    include_str!("../../../qm-node.example.toml"),
    include_str!("../../cli.rs"),
];

/// A text cut into lines, without their line feeds.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) lines: Vec<Bytes>,
    /// With the line feeds.
    pub(super) bytes: u64,
    /// Where it comes from, in a few words.
    pub(super) origin: String,
}

impl Text {
    /// The lines of a file, or else those of the project around a directory, or else built in.
    pub(super) fn find(file: Option<&Path>, here: &Path) -> Result<Self, Failure> {
        if let Some(file) = file {
            let bytes = fs::read(file).map_err(|e| Failure::io(file.display(), &e))?;
            let text = Self::of(bytes.into(), file.display().to_string());
            if text.lines.is_empty() {
                let cause = format!("{} has no line", file.display());
                return Err(Failure::usage(cause, "name a file with at least one line"));
            }
            return Ok(text);
        }
        let project = root(here).map(|root| (Files::below(&root), root));
        if let Some((files, root)) = project
            && files.lines > 0
        {
            let origin = format!("{} files of {}", files.count, root.display());
            return Ok(Self::of_at_least(LINES_MIN, files.text, origin));
        }
        let origin = "text of this program, because this is no project's directory".to_owned();
        Ok(Self::of_at_least(
            LINES_MIN,
            BUILT_IN.concat().into(),
            origin,
        ))
    }

    /// The text if it is long enough; else as often as needed, every line with its place.
    fn of_at_least(lines_min: usize, text: Vec<u8>, origin: String) -> Self {
        let once = Self::of(text.into(), origin);
        if once.lines.len() >= lines_min {
            return once;
        }
        let rounds = lines_min.div_ceil(once.lines.len().max(1));
        let mut all = Vec::new();
        for round in 1..=rounds {
            for (n, line) in once.lines.iter().enumerate() {
                all.extend_from_slice(format!("{round}:{}: ", n + 1).as_bytes());
                all.extend_from_slice(line);
                all.push(b'\n');
            }
        }
        let origin = format!("{}, {rounds} times, numbered", once.origin);
        Self::of(all.into(), origin)
    }

    fn of(text: Bytes, origin: String) -> Self {
        let mut lines = Vec::new();
        let mut from = 0;
        let ends = text.iter().enumerate().filter(|(_, byte)| **byte == b'\n');
        for (end, _) in ends {
            lines.push(text.slice(from..end));
            from = end + 1;
        }
        if from < text.len() {
            lines.push(text.slice(from..));
        }
        let bytes = text.len() as u64;
        Self {
            lines,
            bytes,
            origin,
        }
    }
}

/// The nearest directory upwards that is the root of a project.
fn root(here: &Path) -> Option<PathBuf> {
    let is_root = |dir: &&Path| ROOT_MARKS.iter().any(|mark| dir.join(mark).exists());
    here.ancestors().find(is_root).map(Path::to_owned)
}

/// The texts of a project one after the other, by name, until there are lines enough.
#[derive(Debug, Default)]
struct Files {
    text: Vec<u8>,
    lines: usize,
    count: usize,
}

impl Files {
    fn below(root: &Path) -> Self {
        let mut files = Self::default();
        files.add_directory(root);
        files
    }

    fn add_directory(&mut self, dir: &Path) {
        let Ok(entries) = fs::read_dir(dir) else {
            return;
        };
        let mut entries: Vec<_> = entries.flatten().collect();
        entries.sort_by_key(fs::DirEntry::file_name);
        for entry in entries {
            if self.lines >= LINES_MIN {
                return;
            }
            let name = entry.file_name();
            let name = name.to_string_lossy();
            // Of a link neither is true, so none leads out of the project or round in it.
            let Ok(kind) = entry.file_type() else {
                continue;
            };
            if name.starts_with('.') || MADE.contains(&&*name) {
                continue;
            } else if kind.is_dir() {
                self.add_directory(&entry.path());
            } else if kind.is_file() {
                self.add_file(&entry);
            }
        }
    }

    fn add_file(&mut self, entry: &fs::DirEntry) {
        let small = |metadata: fs::Metadata| metadata.len() <= FILE_BYTES_MAX;
        if !entry.metadata().is_ok_and(small) {
            return;
        }
        let Ok(text) = fs::read_to_string(entry.path()) else {
            return;
        };
        if text.is_empty() || text.contains('\0') {
            return;
        }
        self.count += 1;
        self.lines += text.lines().count();
        self.text.extend_from_slice(text.as_bytes());
        if !text.ends_with('\n') {
            self.text.push(b'\n');
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_cut_where_they_end() {
        for (text, lines) in [
            ("", &[][..]),
            ("a", &["a"]),
            ("a\n", &["a"]),
            ("a\n\nb\r\n c", &["a", "", "b\r", " c"]),
        ] {
            let cut = Text::of(text.into(), String::new());
            assert_eq!(cut.lines, lines, "{text:?}");
            assert_eq!(cut.bytes, text.len() as u64);
        }
    }

    #[test]
    fn a_short_text_is_repeated_with_numbers() {
        let text = Text::of_at_least(5, b"a\nb\n".to_vec(), "two lines".to_owned());
        assert_eq!(
            text.lines,
            ["1:1: a", "1:2: b", "2:1: a", "2:2: b", "3:1: a", "3:2: b"]
        );
        assert_eq!(text.origin, "two lines, 3 times, numbered");
        let text = Text::of_at_least(2, b"a\nb\n".to_vec(), "two lines".to_owned());
        assert_eq!((text.lines.len(), &*text.origin), (2, "two lines"));
    }

    #[test]
    fn a_project_is_read_without_what_was_made_from_it() {
        let dir = tempfile::tempdir().unwrap();
        let write = |name: &str, text: &[u8]| {
            let path = dir.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        write("Cargo.lock", b"lock\n");
        write("b/main.rs", b"fn main() {}");
        write("a.md", b"# A\n\ntext\n");
        write("data.bin", b"a\0b\n");
        write("latin.txt", b"\xe4\n");
        write("target/made.rs", b"made\n");
        write(".hidden/x", b"hidden\n");
        std::os::unix::fs::symlink(dir.path(), dir.path().join("round")).unwrap();
        let files = Files::below(dir.path());
        assert_eq!(files.text, b"lock\n# A\n\ntext\nfn main() {}\n");
        assert_eq!((files.count, files.lines), (3, 5));

        let text = Text::find(None, &dir.path().join("b")).unwrap();
        assert!(text.lines.len() >= LINES_MIN);
        assert_eq!(text.lines[1], "1:2: # A");
        assert!(text.origin.starts_with("3 files of "), "{}", text.origin);
    }

    #[test]
    fn outside_of_a_project_the_program_has_a_text() {
        let text = Text::find(None, Path::new("/proc")).unwrap();
        assert!(text.lines.len() >= LINES_MIN);
        assert!(
            text.origin.starts_with("text of this program"),
            "{}",
            text.origin
        );
    }

    #[test]
    fn a_file_must_have_lines() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("empty");
        fs::write(&file, b"").unwrap();
        let failure = Text::find(Some(&file), dir.path()).unwrap_err();
        assert_eq!(failure.code, "usage");
        let failure = Text::find(Some(&dir.path().join("none")), dir.path()).unwrap_err();
        assert_eq!(failure.code, "io");
    }
}
