//! A plugin of plain functions over text, as a component.

wit_bindgen::generate!({ world: "text", path: "wit" });

use exports::demo::text::api::{
    Document, Entry, Guest, Operation, ParseError, Problem, SearchOptions, Statistics,
};

struct Text;

impl Guest for Text {
    fn upper(text: String) -> String {
        text.to_uppercase()
    }

    fn stats(doc: Document) -> Statistics {
        let characters = doc.body.chars().count() as u64;
        let letters = doc.body.chars().filter(|c| c.is_alphabetic()).count() as f64;
        let words: Vec<_> = doc.body.split_whitespace().collect();
        Statistics {
            title: doc.title,
            characters,
            words: words.len() as u32,
            letters: if characters == 0 { 0.0 } else { letters / characters as f64 },
            longest: words.into_iter().max_by_key(|word| word.chars().count()).map(str::to_owned),
        }
    }

    fn rank(mut entries: Vec<Entry>) -> Vec<Entry> {
        entries.sort_by(|a, b| b.score.cmp(&a.score).then_with(|| a.name.cmp(&b.name)));
        entries
    }

    fn apply(text: String, op: Operation) -> String {
        match op {
            Operation::Reverse => text.chars().rev().collect(),
            Operation::Repeat(times) => text.repeat(times as usize),
            Operation::Replace((from, to)) => text.replace(&from, &to),
        }
    }

    fn parse_number(text: String) -> Result<i64, ParseError> {
        let trimmed = text.trim();
        if trimmed.is_empty() {
            return Err(ParseError { problem: Problem::Empty, at: 0 });
        }
        let digits = trimmed.strip_prefix(['-', '+']).unwrap_or(trimmed);
        if let Some(at) = digits.find(|c: char| !c.is_ascii_digit()) {
            let at = (trimmed.len() - digits.len() + at) as u32;
            return Err(ParseError { problem: Problem::NotANumber, at });
        }
        trimmed.parse().map_err(|_| ParseError { problem: Problem::OutOfRange, at: 0 })
    }

    fn search(
        text: String,
        needle: String,
        options: SearchOptions,
        limit: Option<u32>,
    ) -> Vec<(u32, String)> {
        if needle.is_empty() {
            return Vec::new();
        }
        let fold = |text: &str| {
            if options.contains(SearchOptions::IGNORE_CASE) {
                text.to_ascii_lowercase()
            } else {
                text.to_owned()
            }
        };
        let (folded, needle) = (fold(&text), fold(&needle));
        let is_word = |at: usize| {
            let before = folded[..at].chars().next_back();
            let after = folded[at + needle.len()..].chars().next();
            !before.is_some_and(char::is_alphanumeric) && !after.is_some_and(char::is_alphanumeric)
        };
        folded
            .match_indices(&needle)
            .map(|(at, _)| at)
            .filter(|&at| !options.contains(SearchOptions::WHOLE_WORDS) || is_word(at))
            .take(limit.map_or(usize::MAX, |limit| limit as usize))
            .map(|at| (at as u32, text[at..at + needle.len()].to_owned()))
            .collect()
    }

    fn reverse_bytes(mut data: Vec<u8>) -> Vec<u8> {
        data.reverse();
        data
    }
}

export!(Text);
