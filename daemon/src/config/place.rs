//! Whether the paths of a configuration lead to what a process could use on this machine. Nothing
//! is changed, and what is only away for the moment, such as a disk that is read-only, is no mistake.

use std::io;
use std::os::unix::fs::FileTypeExt as _;
use std::path::Path;

use rustix::fs::{Access, access};

use super::Problems;

impl Problems<'_> {
    /// `path` is a directory that is written to, or will be made one with those above it.
    pub fn directory(&mut self, key: &str, path: &Path) {
        // Below a file nothing is. What can't be seen is looked at, to say why.
        let is_there = |path: &&Path| match path.symlink_metadata() {
            Ok(_) => true,
            Err(error) => !matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ),
        };
        let Some(found) = path.ancestors().find(is_there) else {
            return;
        };
        match found.metadata() {
            Ok(metadata) if metadata.is_dir() => self.writable(key, found),
            Ok(_) => self.add(
                key,
                format!("{} is not a directory", found.display()),
                if found == path {
                    "move away what lies there, or choose another path"
                } else {
                    "choose a path below a directory"
                },
            ),
            Err(error) => self.unseen(key, found, &error),
        }
    }

    /// A file is made at `path`, in a directory that has to be there: it should be chosen, and
    /// perhaps mounted, by somebody.
    pub fn new_file(&mut self, key: &str, path: &Path) {
        let Some(above) = path.parent() else { return };
        match above.metadata() {
            Ok(metadata) if metadata.is_dir() => self.writable(key, above),
            Ok(_) => self.add(
                key,
                format!("{} is not a directory", above.display()),
                "choose a path in a directory",
            ),
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.add(
                key,
                format!(
                    "the directory {} is missing, and no file can be made in it",
                    above.display()
                ),
                "make it, for this process's user alone, or mount what should be there",
            ),
            Err(error) => self.unseen(key, above, &error),
        }
    }

    /// What lies at `path`, if anything does, is a regular file.
    pub fn regular_file(&mut self, key: &str, path: &Path) {
        if let Ok(found) = path.metadata()
            && !found.is_file()
        {
            self.add(
                key,
                format!("{} is not a regular file", path.display()),
                "move away what lies there, or choose another path",
            );
        }
    }

    /// A Unix socket is bound at `path`, in a directory that is made if it is missing.
    pub fn socket(&mut self, key: &str, path: &Path) {
        if let Ok(found) = path.symlink_metadata()
            && !found.file_type().is_socket()
        {
            let kind = if found.is_dir() { "directory" } else { "file" };
            self.add(
                key,
                format!("{} is a {kind}, not a socket", path.display()),
                "move it away, or choose another path",
            );
        } else if let Some(above) = path.parent() {
            self.directory(key, above);
        }
    }

    fn writable(&mut self, key: &str, directory: &Path) {
        if access(directory, Access::WRITE_OK | Access::EXEC_OK) == Err(rustix::io::Errno::ACCESS) {
            self.add(
                key,
                format!("{} can't be written to", directory.display()),
                "let this process's user write there, or choose another path",
            );
        }
    }

    fn unseen(&mut self, key: &str, path: &Path, error: &io::Error) {
        self.add(
            key,
            format!("{}: {error}", path.display()),
            "let this process's user see it, or choose another path",
        );
    }
}

#[cfg(test)]
mod tests {
    use super::super::File;
    use super::*;

    type Outcome = Result<(), Box<dyn std::error::Error>>;

    /// What `look` notes, in a folder with a file, a directory and a socket in it.
    fn noted(
        look: impl Fn(&mut Problems<'_>, &Path),
    ) -> Result<String, Box<dyn std::error::Error>> {
        let folder = tempfile::tempdir()?;
        std::fs::write(folder.path().join("file"), "")?;
        std::fs::create_dir(folder.path().join("directory"))?;
        let _socket = std::os::unix::net::UnixListener::bind(folder.path().join("socket"))?;
        let file = File::from_text("x.toml", "key = 1\n")?;
        let mut problems = file.problems();
        look(&mut problems, folder.path());
        let said = problems
            .finish()
            .map_or_else(|error| error.to_string(), |()| String::new());
        Ok(said.replace(&folder.path().display().to_string(), ""))
    }

    #[test]
    fn what_can_be_used_or_made_passes() -> Outcome {
        let said = noted(|problems, at| {
            problems.directory("key", &at.join("directory"));
            problems.directory("key", &at.join("new/below/new"));
            problems.new_file("key", &at.join("directory/new"));
            problems.regular_file("key", &at.join("file"));
            problems.regular_file("key", &at.join("new"));
            problems.socket("key", &at.join("socket"));
            problems.socket("key", &at.join("new/socket"));
        })?;
        assert_eq!(said, "");
        Ok(())
    }

    #[test]
    fn each_path_of_the_wrong_kind_is_named_with_its_line_and_a_remedy() -> Outcome {
        type Look = fn(&mut Problems<'_>, &Path);
        let cases: [(Look, &str); 8] = [
            (
                |problems, at| problems.directory("key", &at.join("file")),
                "/file is not a directory; move away what lies there, or choose another path",
            ),
            (
                |problems, at| problems.directory("key", &at.join("file/below/that")),
                "/file is not a directory; choose a path below a directory",
            ),
            (
                |problems, at| problems.new_file("key", &at.join("file/new")),
                "/file is not a directory; choose a path in a directory",
            ),
            (
                |problems, at| problems.new_file("key", &at.join("new/new")),
                "the directory /new is missing, and no file can be made in it; make it, for this process's user alone, or mount what should be there",
            ),
            (
                |problems, at| problems.regular_file("key", &at.join("directory")),
                "/directory is not a regular file; move away what lies there, or choose another path",
            ),
            (
                |problems, at| problems.socket("key", &at.join("directory")),
                "/directory is a directory, not a socket; move it away, or choose another path",
            ),
            (
                |problems, at| problems.socket("key", &at.join("file")),
                "/file is a file, not a socket; move it away, or choose another path",
            ),
            (
                |problems, at| problems.socket("key", &at.join("file/socket")),
                "/file is not a directory; move away what lies there, or choose another path",
            ),
        ];
        for (look, expected) in cases {
            assert_eq!(noted(look)?, format!("x.toml:1: key: {expected}"));
        }
        Ok(())
    }
}
