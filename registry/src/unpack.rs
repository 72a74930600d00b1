//! Unpacks layers in memory, within bounds: a bare module or a tar, either plain, gzip or zstd.

use std::{
    collections::BTreeMap,
    io::{self, Read},
    path::{Component, Path},
};

use bytes::Bytes;

/// The modules of an image, found layer by layer.
pub(crate) struct Modules {
    /// The `modulePath` to select.
    wanted: Option<String>,
    /// By path in the image.
    found: BTreeMap<String, Bytes>,
    /// Remaining allowance of unpacked bytes.
    left: u64,
    /// Remaining allowance of tar entries.
    entries: usize,
}

/// Limit of entries in all tars together.
const MOST_ENTRIES: usize = 10_000;
/// Limit of modules, which the error for an ambiguous image lists.
const MOST_MODULES: usize = 32;
/// Length limit of a module's path, in bytes, as of `modulePath`.
const LONGEST_PATH: usize = 512;
/// Offset and magic of a tar's first header.
const TAR_MAGIC: (usize, &[u8]) = (257, b"ustar");
/// Prefix of a whiteout, an entry that removes a path of the lower layers.
const WHITEOUT: &str = ".wh.";

impl Modules {
    pub(crate) fn new(wanted: Option<&str>, cap: u64) -> Self {
        let wanted = wanted.map(|path| path.trim_start_matches("./").to_owned());
        Self { wanted, found: BTreeMap::new(), left: cap, entries: MOST_ENTRIES }
    }

    fn add(&mut self, path: &str, bytes: Bytes) -> Result<(), String> {
        if self.found.len() >= MOST_MODULES {
            return Err(format!("it has more than {MOST_MODULES} modules"));
        }
        if path.len() > LONGEST_PATH || path.chars().any(char::is_control) {
            let begin: String = path.escape_debug().take(64).collect();
            return Err(format!(
                "a module's path has control characters or more than {LONGEST_PATH} bytes: `{begin}...`"
            ));
        }
        // A file of an upper layer replaces one of a lower layer.
        self.found.insert(path.to_owned(), bytes);
        Ok(())
    }

    /// Returns the one module, or the one at `modulePath`.
    pub(crate) fn one(&self) -> Result<Bytes, String> {
        let names = || self.found.keys().map(String::as_str).collect::<Vec<_>>().join(", ");
        match (&self.wanted, self.found.len()) {
            (_, 0) if self.wanted.is_none() => {
                Err("it has no WebAssembly module; push one with `samovar push`".to_owned())
            }
            (Some(wanted), _) => self.found.get(wanted).cloned().ok_or_else(|| {
                format!("it has no module at `{wanted}` (modulePath); its modules: {}", names())
            }),
            (None, 1) => Ok(self.found.values().next().cloned().unwrap_or_default()),
            (None, _) => Err(format!("it has several modules; set modulePath to one of {}", names())),
        }
    }
}

/// Adds the modules of a layer. `title` is the path of a layer that is a bare module.
pub(crate) fn unpack(mut modules: Modules, blob: Bytes, title: Option<&str>) -> Result<Modules, String> {
    match &blob[..] {
        [0x1f, 0x8b, ..] => decompress(&mut modules, flate2::read::MultiGzDecoder::new(&blob[..]), title)?,
        [0x28, 0xb5, 0x2f, 0xfd, ..] => {
            let decoder = zstd::stream::read::Decoder::new(&blob[..]).map_err(|error| broken(&error))?;
            decompress(&mut modules, decoder, title)?;
        }
        [0, b'a', b's', b'm', ..] => {
            let path = modules.wanted.clone().filter(|_| title.is_none());
            let path = path.as_deref().or(title).unwrap_or("module.wasm").to_owned();
            modules.add(&path, blob)?;
        }
        _ if is_tar(&blob) => untar(&mut modules, &blob[..])?,
        // Other files are skipped: ORAS pushes a README beside a module, for example.
        _ => {}
    }
    Ok(modules)
}

/// Adds the modules of a compressed layer: a tar or a bare module.
fn decompress(modules: &mut Modules, mut stream: impl Read, title: Option<&str>) -> Result<(), String> {
    let mut head = vec![0; 512];
    let mut length = 0;
    while length < head.len() {
        match stream.read(&mut head[length..]).map_err(|error| broken(&error))? {
            0 => break,
            read => length += read,
        }
    }
    head.truncate(length);
    if head.starts_with(b"\0asm") {
        let bytes = read_capped(modules, head.chain_with(stream))?;
        return modules.add(title.unwrap_or("module.wasm"), bytes);
    }
    if is_tar(&head) {
        return untar(modules, head.chain_with(stream));
    }
    Ok(())
}

trait ChainWith: Sized {
    fn chain_with<R: Read>(self, rest: R) -> io::Chain<io::Cursor<Self>, R>
    where
        io::Cursor<Self>: Read;
}

impl ChainWith for Vec<u8> {
    fn chain_with<R: Read>(self, rest: R) -> io::Chain<io::Cursor<Self>, R> {
        io::Cursor::new(self).chain(rest)
    }
}

fn is_tar(head: &[u8]) -> bool {
    let (at, magic) = TAR_MAGIC;
    head.get(at..at + magic.len()) == Some(magic)
}

fn untar(modules: &mut Modules, stream: impl Read) -> Result<(), String> {
    // Bounds the whole stream, with headers and skipped files, against decompression bombs.
    let limit = modules.left.saturating_add(64 << 20);
    let mut stream = stream.take(limit);
    let mut archive = tar::Archive::new(&mut stream);
    for entry in archive.entries().map_err(|error| broken(&error))? {
        let entry = entry.map_err(|error| broken(&error))?;
        modules.entries = modules.entries.checked_sub(1).ok_or_else(|| {
            format!("its layers have more than {MOST_ENTRIES} files; an image for a module needs one")
        })?;
        let kind = entry.header().entry_type();
        let path = entry.path().map_err(|error| broken(&error))?;
        let path = relative(&path)?;
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        if let Some(removed) = name.strip_prefix(WHITEOUT) {
            let removed = if folder.is_empty() { removed.to_owned() } else { format!("{folder}/{removed}") };
            modules.found.retain(|path, _| *path != removed && !path.starts_with(&format!("{removed}/")));
            continue;
        }
        let is_wanted = modules.wanted.as_ref() == Some(&path);
        if kind.is_symlink() || kind.is_hard_link() {
            if is_wanted {
                return Err(format!("`{path}` (modulePath) is a link; name the file itself"));
            }
            continue;
        }
        let is_module =
            Path::new(&path).extension().is_some_and(|extension| extension.eq_ignore_ascii_case("wasm"));
        if kind.is_file() && (is_wanted || is_module) {
            let size = entry.size();
            let bytes = read_capped(modules, entry)?;
            if bytes.len() as u64 != size {
                return Err(format!("its layer is truncated in `{path}`; push the image again"));
            }
            modules.add(&path, bytes)?;
        }
    }
    // A compressed stream has its checksum at the end: reading up to it detects a truncated layer.
    io::copy(&mut stream, &mut io::sink()).map_err(|error| broken(&error))?;
    Ok(())
}

/// Strips a leading `./` from a path in a tar; refuses absolute paths and `..`, which would leave the image.
fn relative(path: &Path) -> Result<String, String> {
    let mut parts = Vec::new();
    for component in path.components() {
        match component {
            Component::Normal(part) => parts.push(part.to_string_lossy()),
            Component::CurDir => {}
            Component::RootDir | Component::ParentDir | Component::Prefix(_) => {
                let path: String = path.to_string_lossy().escape_debug().take(LONGEST_PATH).collect();
                return Err(format!("its layer has a path outside the image: `{path}`"));
            }
        }
    }
    Ok(parts.join("/"))
}

fn read_capped(modules: &mut Modules, stream: impl Read) -> Result<Bytes, String> {
    let mut bytes = Vec::new();
    stream.take(modules.left.saturating_add(1)).read_to_end(&mut bytes).map_err(|error| broken(&error))?;
    modules.left = modules
        .left
        .checked_sub(bytes.len() as u64)
        .ok_or("its unpacked layers are larger than the limit of a module")?;
    Ok(bytes.into())
}

fn broken(error: &io::Error) -> String {
    format!("its layer cannot be unpacked ({error}); push the image again")
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    const MODULE: &[u8] = b"\0asm\x01\0\0\0";

    fn tar_of(entries: &[(&str, &[u8])]) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        for (path, bytes) in entries {
            let mut header = tar::Header::new_ustar();
            // Writes the name itself, since the builder refuses the paths of a hostile image.
            header.as_mut_bytes()[..path.len()].copy_from_slice(path.as_bytes());
            header.set_size(bytes.len() as u64);
            header.set_entry_type(tar::EntryType::Regular);
            header.set_cksum();
            builder.append(&header, *bytes).unwrap();
        }
        builder.into_inner().unwrap()
    }

    fn link(kind: tar::EntryType, path: &str) -> Vec<u8> {
        let mut builder = tar::Builder::new(Vec::new());
        let mut header = tar::Header::new_ustar();
        header.set_size(0);
        header.set_entry_type(kind);
        builder.append_link(&mut header, path, "/etc/passwd").unwrap();
        builder.into_inner().unwrap()
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    fn one_of(blobs: Vec<Vec<u8>>, wanted: Option<&str>, cap: u64) -> Result<Bytes, String> {
        let modules = Modules::new(wanted, cap);
        let unpacked =
            blobs.into_iter().try_fold(modules, |modules, blob| unpack(modules, blob.into(), None))?;
        unpacked.one()
    }

    #[test]
    fn a_module_is_found_in_every_form_of_layer() {
        let tar = tar_of(&[("./plugin.wasm", MODULE), ("README.md", b"read me")]);
        let wrapped =
            [MODULE.to_vec(), gzip(MODULE), tar.clone(), gzip(&tar), zstd::encode_all(&tar[..], 0).unwrap()];
        for blob in wrapped {
            assert_eq!(one_of(vec![blob], None, 1 << 20).unwrap(), MODULE);
        }
    }

    #[test]
    fn module_path_selects_one_of_several_modules_and_the_error_lists_them() {
        let tar = tar_of(&[("a.wasm", MODULE), ("lib/b.wasm", b"\0asm\x0d\0\x01\0")]);
        assert_eq!(
            one_of(vec![tar.clone()], Some("lib/b.wasm"), 1 << 20).unwrap(),
            &b"\0asm\x0d\0\x01\0"[..]
        );
        assert!(one_of(vec![tar.clone()], None, 1 << 20).unwrap_err().contains("a.wasm, lib/b.wasm"));
        assert!(one_of(vec![tar], Some("c.wasm"), 1 << 20).unwrap_err().contains("c.wasm"));
        assert!(one_of(vec![b"text".to_vec()], None, 1 << 20).unwrap_err().contains("no WebAssembly module"));
    }

    #[test]
    fn an_upper_layer_replaces_and_removes_files() {
        let first = tar_of(&[("a.wasm", MODULE), ("b.wasm", MODULE)]);
        let second = tar_of(&[("a.wasm", b"\0asm\x0d\0\x01\0"), (".wh.b.wasm", b"")]);
        assert_eq!(one_of(vec![first, second], None, 1 << 20).unwrap(), &b"\0asm\x0d\0\x01\0"[..]);
    }

    #[test]
    fn paths_outside_the_image_are_refused() {
        for path in ["/etc/a.wasm", "../a.wasm", "lib/../../a.wasm"] {
            let error = one_of(vec![tar_of(&[(path, MODULE)])], None, 1 << 20).unwrap_err();
            assert!(error.contains("outside the image"), "{path}: {error}");
        }
    }

    #[test]
    fn an_invalid_path_is_refused_escaped_and_truncated() {
        let long = format!("{}.wasm", "n".repeat(100_000));
        for path in [&*long, "a\x1b[2J.wasm", "a\nb.wasm"] {
            let mut builder = tar::Builder::new(Vec::new());
            let mut header = tar::Header::new_gnu();
            header.set_size(MODULE.len() as u64);
            builder.append_data(&mut header, path, MODULE).unwrap();
            let error = one_of(vec![builder.into_inner().unwrap()], None, 1 << 20).unwrap_err();
            assert!(error.len() < 200 && !error.contains(char::is_control), "{error}");
        }
    }

    #[test]
    fn links_are_not_followed() {
        for kind in [tar::EntryType::Symlink, tar::EntryType::Link] {
            assert!(one_of(vec![link(kind, "a.wasm")], None, 1 << 20).is_err());
            assert!(
                one_of(vec![link(kind, "a.wasm")], Some("a.wasm"), 1 << 20).unwrap_err().contains("link")
            );
        }
    }

    #[test]
    fn decompression_bombs_and_truncated_layers_are_refused() {
        let mut bomb = MODULE.to_vec();
        bomb.resize(64 << 20, 0);
        for blob in
            [gzip(&bomb), gzip(&tar_of(&[("a.wasm", &bomb)])), zstd::encode_all(&bomb[..], 0).unwrap()]
        {
            assert!(one_of(vec![blob], None, 1 << 20).unwrap_err().contains("larger"), "a bomb");
        }
        let tar = tar_of(&[("a.wasm", &bomb[..4096])]);
        assert!(one_of(vec![tar[..2048].to_vec()], None, 1 << 20).is_err());
        let zipped = gzip(&tar);
        assert!(one_of(vec![zipped[..zipped.len() - 10].to_vec()], None, 1 << 20).is_err());
        let many: Vec<_> = (0..=MOST_ENTRIES).map(|_| ("a.txt", &b""[..])).collect();
        assert!(one_of(vec![tar_of(&many)], None, 1 << 20).unwrap_err().contains("files"));
    }
}
