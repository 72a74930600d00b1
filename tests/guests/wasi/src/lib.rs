//! Uses what a host may grant, through std alone, and returns the results.

wit_bindgen::generate!({ world: "wasi", path: "wit" });

use std::{
    hash::{BuildHasher as _, RandomState},
    io::Read as _,
    time::{Duration, SystemTime},
};

use exports::test::wasi::probe::Guest;

struct Wasi;

impl Guest for Wasi {
    fn print(line: String) {
        println!("{line}");
    }

    fn complain(line: String) {
        eprintln!("{line}");
    }

    fn environment() -> Vec<(String, String)> {
        std::env::vars().collect()
    }

    fn arguments() -> Vec<String> {
        std::env::args().collect()
    }

    fn read_file(path: String) -> Result<Vec<u8>, String> {
        std::fs::read(path).map_err(|error| error.to_string())
    }

    fn write_file(path: String, content: Vec<u8>) -> Result<(), String> {
        std::fs::write(path, content).map_err(|error| error.to_string())
    }

    fn read_stdin() -> Result<Vec<u8>, String> {
        let mut bytes = Vec::new();
        std::io::stdin().read_to_end(&mut bytes).map(|_| bytes).map_err(|error| error.to_string())
    }

    fn now() -> u64 {
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).map_or(0, |since| since.as_secs())
    }

    fn sleep(milliseconds: u32) {
        std::thread::sleep(Duration::from_millis(milliseconds.into()));
    }

    fn random() -> u64 {
        RandomState::new().hash_one(0)
    }

    fn exit(code: i32) {
        std::process::exit(code);
    }
}

export!(Wasi);
