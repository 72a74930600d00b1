//! The host functions of DataFlare's plugins: `log`, `get_time` and `random` in the module `env`.
//!
//! DataFlare's guide names them with the prefix `host_`, its own host without; both names are provided.

use std::time::{SystemTime, UNIX_EPOCH};

use wasmtime::{Caller, Error, Extern, Linker, Result};

use crate::{host::Host, output::log::LINE_BYTES};

/// The module that they are imported from.
pub(crate) const MODULE: &str = "env";

/// All names that it provides.
pub(crate) const NAMES: [&str; 6] = ["log", "host_log", "get_time", "host_get_time", "random", "host_random"];

/// The bound of `random` if the guest gives none.
const RANDOM: u64 = 100;

pub(crate) fn add_to_linker(linker: &mut Linker<Host>) -> Result<()> {
    linker.func_wrap(MODULE, "log", |mut caller: Caller<'_, Host>, level: i32, at: u32, length: u32| {
        let message = text(&mut caller, at, length)?;
        caller.data().log().line(level_name(level), &message);
        Ok(())
    })?;
    linker.func_wrap(
        MODULE,
        "host_log",
        |mut caller: Caller<'_, Host>, level_at: u32, level_length: u32, at: u32, length: u32| {
            let level = text(&mut caller, level_at, level_length)?;
            let message = text(&mut caller, at, length)?;
            let level = LEVELS.into_iter().find(|name| name.as_bytes() == level).unwrap_or("info");
            caller.data().log().line(level, &message);
            Ok(())
        },
    )?;
    for name in ["get_time", "host_get_time"] {
        linker.func_wrap(MODULE, name, milliseconds)?;
    }
    linker.func_wrap(MODULE, "random", |below: u64| random(below))?;
    linker.func_wrap(MODULE, "host_random", || random(0))?;
    Ok(())
}

const LEVELS: [&str; 5] = ["error", "warn", "info", "debug", "trace"];

/// The name of a level. Levels count from 1; those out of range are the last one.
fn level_name(level: i32) -> &'static str {
    let at = usize::try_from(level.wrapping_sub(1)).unwrap_or(usize::MAX);
    LEVELS.get(at).copied().unwrap_or("trace")
}

/// Copies the message that the guest points at, truncated as a log line is.
fn text(caller: &mut Caller<'_, Host>, at: u32, length: u32) -> Result<Vec<u8>> {
    let memory = caller.get_export("memory").and_then(Extern::into_memory);
    let memory = memory.ok_or_else(|| Error::msg("a guest that logs must export its `memory`"))?;
    let bytes = memory.data(&*caller).get(at as usize..).and_then(|rest| rest.get(..length as usize));
    let past = || Error::msg(format!("its log message of {length} bytes at {at} is past its memory's end"));
    let bytes = bytes.ok_or_else(past)?;
    Ok(bytes[..bytes.len().min(LINE_BYTES)].to_vec())
}

/// Milliseconds since 1970.
fn milliseconds() -> u64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since.as_millis()).unwrap_or(u64::MAX)
}

/// A number below `below`.
fn random(below: u64) -> u64 {
    rand::random_range(0..if below == 0 { RANDOM } else { below })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_count_from_one_and_end_at_the_last() {
        let names = [1, 2, 3, 4, 5, 6, 0, i32::MIN, i32::MAX].map(level_name);
        assert_eq!(names[..5], LEVELS);
        assert_eq!(names[5..], ["trace"; 4]);
    }

    #[test]
    fn random_numbers_are_below_their_bound() {
        for _ in 0..1000 {
            assert_eq!(random(1), 0);
            assert!(random(7) < 7 && random(0) < RANDOM);
        }
    }
}
