//! Texts for people and logs.

use std::error::Error;

/// An error and its sources on one line.
#[must_use]
pub fn chain(error: &(dyn Error + 'static)) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(inner) = source {
        text.push_str(": ");
        text.push_str(&inner.to_string());
        source = inner.source();
    }
    text
}

/// A stranger's text as part of a line: not more than so many characters, and nothing that steers a terminal.
#[must_use]
pub fn line(text: &str, most: usize) -> String {
    text.chars()
        .take(most)
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// Lower-case hex.
#[must_use]
pub fn hex(bytes: &[u8]) -> String {
    let digits = bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xf]);
    digits
        .filter_map(|digit| char::from_digit(u32::from(digit), 16))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, thiserror::Error)]
    #[error("failed to read")]
    struct Outer(#[source] Inner);

    #[derive(Debug, thiserror::Error)]
    #[error("no such file")]
    struct Inner;

    #[test]
    fn errors_are_told_with_their_sources() {
        assert_eq!(chain(&Outer(Inner)), "failed to read: no such file");
        assert_eq!(chain(&Inner), "no such file");
    }

    #[test]
    fn lines_are_short_and_plain() {
        assert_eq!(line("a\nb\u{1b}c\u{e4}d", 5), "a b c");
        assert_eq!(line("\u{e4}\u{f6}\u{fc}", 2), "\u{e4}\u{f6}");
    }

    #[test]
    fn hex_has_two_digits_for_each_byte() {
        assert_eq!(hex(&[0, 0x0a, 0xff]), "000aff");
        assert_eq!(hex(&[]), "");
    }
}
