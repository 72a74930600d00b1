//! Counts words: those of its arguments where it has any, else those of stdin.

use std::{collections::BTreeMap, env::args, io, process::exit};

fn main() -> io::Result<()> {
    let mut text = args().skip(1).collect::<Vec<_>>().join(" ");
    if text.is_empty() {
        text = io::read_to_string(io::stdin())?;
    }
    let mut counts = BTreeMap::new();
    for word in text.split_whitespace() {
        *counts.entry(word).or_insert(0) += 1;
    }
    if counts.is_empty() {
        eprintln!("there is no word to count: send some as the body");
        exit(1);
    }
    for (word, count) in counts {
        println!("{count} {word}");
    }
    Ok(())
}
