//! Near misses: which known word somebody meant, and how to quote a word in a message.

/// Longest value that a message repeats; what is cut off is marked with `…`.
const QUOTED_CHARACTERS_MAX: usize = 80;

/// The value in backticks, with what could disturb a terminal escaped.
pub(crate) fn quoted(value: &str) -> String {
    let mut shown: String = value.chars().take(QUOTED_CHARACTERS_MAX).flat_map(visible).collect();
    if value.chars().nth(QUOTED_CHARACTERS_MAX).is_some() {
        shown.push('…');
    }
    format!("`{shown}`")
}

/// A character as a terminal may show it: control characters escaped, the rest as it is.
fn visible(character: char) -> Vec<char> {
    if character.is_control() { character.escape_default().collect() } else { vec![character] }
}

/// The candidate that `word` most probably means: the same but for case and punctuation, or else the only one that
/// is fewest edits away, at most one edit per three characters.
pub(crate) fn nearest<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    let folded = fold(word);
    let length = folded.chars().count();
    let edits_max = (length / 3).clamp(1, 3);
    let mut best: Option<(usize, &str)> = None;
    let mut tied = false;
    for candidate in candidates {
        let other = fold(candidate);
        // Each edit changes the length by one at most.
        if length.abs_diff(other.chars().count()) > edits_max {
            continue;
        }
        let edits = distance(&folded, &other);
        if edits > edits_max {
            continue;
        }
        match best {
            Some((fewest, _)) if edits > fewest => {}
            Some((fewest, _)) if edits == fewest => tied = true,
            _ => (best, tied) = (Some((edits, candidate)), false),
        }
    }
    best.filter(|_| !tied).map(|(_, candidate)| candidate)
}

/// `did you mean `x`?`, or nothing.
pub(crate) fn suggestion<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<String> {
    nearest(word, candidates).map(|near| format!("did you mean {}?", quoted(near)))
}

/// Lower case, without what people leave out or add: hyphens, underscores, dots, spaces.
fn fold(word: &str) -> String {
    word.chars()
        .filter(|c| c.is_alphanumeric())
        .flat_map(char::to_lowercase)
        .take(QUOTED_CHARACTERS_MAX)
        .collect()
}

/// Levenshtein's distance, one row at a time.
fn distance(a: &str, b: &str) -> usize {
    let b: Vec<char> = b.chars().collect();
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, a_char) in a.chars().enumerate() {
        let mut diagonal = row[0];
        row[0] = i + 1;
        for (j, b_char) in b.iter().enumerate() {
            let substituted = diagonal + usize::from(a_char != *b_char);
            diagonal = row[j + 1];
            row[j + 1] = substituted.min(row[j] + 1).min(diagonal + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_misses_are_found_and_ties_are_not_guessed() {
        assert_eq!(nearest("v-host1", ["vhost1", "vhost2"]), Some("vhost1"));
        assert_eq!(nearest("adaptor", ["name", "adapter"]), Some("adapter"));
        assert_eq!(nearest("vhost3", ["vhost1", "vhost2"]), None);
        assert_eq!(nearest("zebra", ["vhost1"]), None);
        assert_eq!(nearest("", ["vhost1"]), None);
    }

    #[test]
    fn quoted_values_are_short_and_harmless() {
        assert_eq!(quoted("a\u{1b}[31m"), "`a\\u{1b}[31m`");
        assert!(quoted(&"x".repeat(500)).chars().count() < 90);
    }
}
