//! Words of the grammar: which must be quoted, and which one was meant.

/// Words that C gotd reserves everywhere: as an argument they must be quoted. Words that only this
/// grammar knows are not reserved, so that a file written for C gotd may use them as names.
pub const RESERVED: &[&str] = &[
    "auth",
    "branch",
    "connection",
    "deny",
    "email",
    "from",
    "hmac",
    "insecure",
    "limit",
    "listen",
    "namespace",
    "notify",
    "on",
    "path",
    "permit",
    "port",
    "protect",
    "reference",
    "relay",
    "reply",
    "repository",
    "request",
    "ro",
    "rw",
    "tag",
    "timeout",
    "to",
    "url",
    "user",
];

/// The known word that is nearest to `word`, if any is near: at most one mistake in three
/// characters. A mistake is a character too many, too few or wrong, or two neighbours exchanged.
pub fn nearest<'a>(word: &str, known: impl Iterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.chars().take(64).map(|c| c.to_ascii_lowercase()).collect();
    let mut best: Option<(usize, &str)> = None;
    for candidate in known.take(100_000) {
        let allowed = candidate.len().min(word.len()).div_ceil(3).min(3);
        if candidate.len().abs_diff(word.len()) > allowed {
            continue;
        }
        let distance =
            distance(&word, &candidate.chars().map(|c| c.to_ascii_lowercase()).collect::<Vec<_>>());
        if distance <= allowed && best.is_none_or(|(d, c)| (distance, candidate) < (d, c)) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

/// Number of mistakes between two words (optimal string alignment).
fn distance(a: &[char], b: &[char]) -> usize {
    let mut before: Vec<usize> = Vec::new();
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i];
        for j in 1..=b.len() {
            let wrong = usize::from(a[i - 1] != b[j - 1]);
            let mut cost = (last[j - 1] + wrong).min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                cost = cost.min(before[j - 2] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

/// `"ro" or "rw"`, `"a", "b" or "c"`.
pub fn either(words: &[&str]) -> String {
    let quoted: Vec<String> = words.iter().map(|w| format!("\"{w}\"")).collect();
    match quoted.split_last() {
        None => String::new(),
        Some((only, [])) => only.clone(),
        Some((last, rest)) => format!("{} or {last}", rest.join(", ")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_nearest_word_is_found() {
        let known = || ["permit", "path", "protect", "deny"].into_iter();
        assert_eq!(nearest("permitt", known()), Some("permit"));
        assert_eq!(nearest("premit", known()), Some("permit"));
        assert_eq!(nearest("paht", known()), Some("path"));
        assert_eq!(nearest("Deny", known()), Some("deny"));
        assert_eq!(nearest("listen", known()), None);
        assert_eq!(nearest("x", known()), None);
        assert_eq!(nearest(&"permit".repeat(10_000), known()), None);
    }

    #[test]
    fn reserved_words_are_sorted() {
        assert!(RESERVED.is_sorted());
    }
}
