//! Atomic file writes: a file appears whole or not at all, whenever the process or the node ends.

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
    time::Duration,
};

/// Begins the names of temporary files.
const PREFIX: &str = ".half-written-";

/// No write takes this long: an older temporary file was left by a crash.
const STALE_AFTER: Duration = Duration::from_mins(10);

/// Writes `parts` as one file, with these permission bits, and replaces the file that `path` names.
///
/// The bytes go to a temporary file in the same directory, which is synced and then renamed; the directory is
/// synced last.
pub fn write(path: &Path, mode: u32, parts: &[&[u8]]) -> io::Result<()> {
    let directory = path.parent().unwrap_or(Path::new("."));
    // Only the kind of this error is kept, since its text would reveal the path.
    let file = tempfile::Builder::new().prefix(PREFIX).tempfile_in(directory);
    let mut file = file.map_err(|error| error.kind())?;
    for part in parts {
        file.write_all(part)?;
    }
    file.as_file().set_permissions(fs::Permissions::from_mode(mode))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}

/// Removes the temporary files that crashes left in `directory`. Younger ones stay: another agent may be writing
/// them, since two share the directory while a DaemonSet replaces its Pods.
pub fn remove_stale(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory)?.flatten() {
        if is_temporary(&entry) && is_stale(&entry) {
            match fs::remove_file(entry.path()) {
                // That other agent may have removed it first.
                Err(error) if error.kind() == io::ErrorKind::NotFound => {}
                outcome => outcome?,
            }
        }
    }
    Ok(())
}

/// Recognizes the temporary files of [`write`].
pub fn is_temporary(entry: &fs::DirEntry) -> bool {
    entry.file_name().to_str().is_some_and(|name| name.starts_with(PREFIX))
}

/// Reports whether nobody has written to a file for ten minutes.
pub fn is_stale(entry: &fs::DirEntry) -> bool {
    let modified = entry.metadata().and_then(|metadata| metadata.modified());
    modified.ok().and_then(|modified| modified.elapsed().ok()).is_some_and(|age| age > STALE_AFTER)
}

#[cfg(test)]
mod tests {
    use std::time::SystemTime;

    use super::*;

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_no_other() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        for (mode, parts, whole) in
            [(0o400, [&b"a long "[..], b"file"], "a long file"), (0o600, [b"short", b""], "short")]
        {
            write(&path, mode, &parts).unwrap();
            assert_eq!(fs::read_to_string(&path).unwrap(), whole);
            assert_eq!(fs::metadata(&path).unwrap().permissions().mode() & 0o777, mode);
            assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
        }
    }

    #[test]
    fn a_failed_write_leaves_nothing_and_does_not_name_the_path() {
        let directory = tempfile::tempdir().unwrap();
        let error = write(&directory.path().join("missing/file"), 0o600, &[b"file"]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::NotFound);
        assert!(!error.to_string().contains("missing"), "{error}");
        // A file cannot take the place of a directory: the temporary one is removed.
        fs::create_dir(directory.path().join("file")).unwrap();
        write(&directory.path().join("file"), 0o600, &[b"file"]).unwrap_err();
        assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1);
    }

    #[test]
    fn only_stale_temporary_files_are_removed() {
        let directory = tempfile::tempdir().unwrap();
        let [stale, being_written, other] =
            [&format!("{PREFIX}a"), &format!("{PREFIX}b"), "c"].map(|name| directory.path().join(name));
        for file in [&stale, &being_written, &other] {
            fs::write(file, b"half").unwrap();
        }
        for file in [&stale, &other] {
            fs::File::open(file).unwrap().set_modified(SystemTime::now() - 2 * STALE_AFTER).unwrap();
        }
        remove_stale(directory.path()).unwrap();
        assert!(!stale.exists() && being_written.exists() && other.exists());
    }
}
