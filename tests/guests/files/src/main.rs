//! Performs a file operation for each line of stdin, and answers each with a line: `ok` and the result, or the error.
//!
//! The words of a line are separated by tabs; `\0` in them is a NUL. Words in lower case are std's own functions, `raw` is a
//! function of WASI preview 1 itself, without the checks of std and libc.

mod raw;

use std::{
    fs::{self, OpenOptions},
    io::{self, BufRead as _, Read as _, Seek as _, SeekFrom, Write as _},
};

fn main() {
    for line in io::stdin().lock().lines() {
        let line = line.expect("stdin is text").replace("\\0", "\0");
        let words: Vec<&str> = line.split('\t').collect();
        let answer = match words.as_slice() {
            ["raw", rest @ ..] => raw::call(rest),
            words => {
                std(words).map_err(|error| match (format!("{:?}", error.kind()), error.raw_os_error()) {
                    // std has no name for this error.
                    (kind, Some(errno)) if kind == "Uncategorized" => format!("errno {errno}"),
                    (kind, _) => kind,
                })
            }
        };
        match answer {
            Ok(answer) if answer.is_empty() => println!("ok"),
            Ok(answer) => println!("ok {answer}"),
            Err(error) => println!("{error}"),
        }
    }
}

fn std(words: &[&str]) -> io::Result<String> {
    let done = |()| String::new();
    match words {
        ["read", path] => fs::read_to_string(path),
        ["write", path, text] => fs::write(path, text).map(done),
        ["fill", path, bytes] => fs::write(path, vec![b'x'; bytes.parse().expect("a number")]).map(done),
        ["append", path, text] => {
            OpenOptions::new().append(true).create(true).open(path)?.write_all(text.as_bytes()).map(done)
        }
        ["create-new", path] => {
            OpenOptions::new().write(true).create_new(true).open(path).map(|_| String::new())
        }
        ["truncate", path, size] => {
            OpenOptions::new().write(true).open(path)?.set_len(size.parse().expect("a number")).map(done)
        }
        ["patch", path, offset, text] => {
            let mut file = OpenOptions::new().read(true).write(true).open(path)?;
            file.seek(SeekFrom::Start(offset.parse().expect("a number")))?;
            file.write_all(text.as_bytes())?;
            file.rewind()?;
            let mut whole = String::new();
            file.read_to_string(&mut whole)?;
            file.sync_all()?;
            Ok(whole)
        }
        ["list", path] => {
            let mut names = fs::read_dir(path)?
                .map(|entry| entry?.file_name().into_string().map_err(|_| io::ErrorKind::InvalidData.into()))
                .collect::<io::Result<Vec<_>>>()?;
            names.sort();
            Ok(names.join(" "))
        }
        ["stat", path] => {
            let is = fs::symlink_metadata(path)?;
            let kind = if is.is_dir() {
                "dir"
            } else if is.is_symlink() {
                "link"
            } else {
                "file"
            };
            let recent = is.modified()?.elapsed().is_ok_and(|age| age.as_secs() < 3600);
            Ok(format!("{kind} {} {}", is.len(), if recent { "recent" } else { "old" }))
        }
        ["mkdirs", path] => fs::create_dir_all(path).map(done),
        ["mkdir", path] => fs::create_dir(path).map(done),
        ["rmdir", path] => fs::remove_dir(path).map(done),
        ["remove", path] => fs::remove_file(path).map(done),
        ["remove-all", path] => fs::remove_dir_all(path).map(done),
        ["rename", from, to] => fs::rename(from, to).map(done),
        ["copy", from, to] => fs::copy(from, to).map(|bytes| bytes.to_string()),
        ["link", from, to] => fs::hard_link(from, to).map(done),
        // Many files, listed and removed while they are listed.
        ["many", path, count] => {
            for number in 0..count.parse::<u32>().expect("a number") {
                fs::write(format!("{path}/{number}"), "")?;
            }
            let mut removed = 0;
            for entry in fs::read_dir(path)? {
                fs::remove_file(entry?.path())?;
                removed += 1;
            }
            Ok(removed.to_string())
        }
        ["open-many", path] => {
            let mut open = Vec::new();
            loop {
                match fs::File::open(path) {
                    Ok(file) => open.push(file),
                    Err(_) => return Ok(open.len().to_string()),
                }
            }
        }
        ["unlinked", path] => {
            let mut file = OpenOptions::new().read(true).write(true).create(true).open(path)?;
            fs::remove_file(path)?;
            file.write_all(b"still here")?;
            file.rewind()?;
            let mut whole = String::new();
            file.read_to_string(&mut whole)?;
            Ok(whole)
        }
        ["spin"] => loop {
            std::hint::spin_loop();
        },
        ["env", name] => std::env::var(name).map_err(|_| io::ErrorKind::NotFound.into()),
        other => panic!("{other:?} is nothing to do"),
    }
}
